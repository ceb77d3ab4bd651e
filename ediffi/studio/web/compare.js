// The slider between two images that are compared.
element.addEventListener("input", (event) => {
  if (event.target.type === "range") event.target.parentElement.style.setProperty("--at", `${event.target.value}%`);
});
