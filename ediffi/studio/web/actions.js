// A button of an image is the event of its name. Gradio finds the names of events here.
const EVENTS = ["restore", "again", "vary", "compare", "edit", "upscale", "delete"];
element.addEventListener("click", (event) => {
  const action = event.target.closest("[data-action]")?.dataset.action;
  if (EVENTS.includes(action)) trigger(action);
});
