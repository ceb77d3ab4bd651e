// Choosing an image.
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  if (card) trigger("choose", { name: card.dataset.name });
});
