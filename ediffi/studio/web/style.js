// The style image: its cross takes it away. It survives a reload of its tab (draft.js reads it).
const remember = () => sessionStorage.setItem("ediffi-style", JSON.stringify(props.value || {}));
element.addEventListener("click", (event) => {
  if (!event.target.closest("button")) return;
  props.value = {};
  remember();
});
watch("value", remember);
