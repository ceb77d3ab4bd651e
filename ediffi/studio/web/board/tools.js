// The buttons around the canvas, and how all of it looks.
const tools = {
  erase() { erasing = !erasing; draw(); },
  undo,
  redo,
  clear() {
    if (!isPainted(layer())) return;
    remember();
    pens.get(layer()).clearRect(0, 0, SIDE, SIDE);
    draw();
    send();
  },
  fit() { look(1, [0, 0]); },
  keys() {
    const list = find("dl.keys");
    list.hidden = !list.hidden;
    find("[data-tool=keys]").setAttribute("aria-expanded", String(!list.hidden));
  },
  remove() {
    remember();
    source = {};
    pens.get(mask).clearRect(0, 0, SIDE, SIDE);
    draw();
    send();
  },
};
element.querySelectorAll("[data-tool]").forEach((button) => button.addEventListener("click", () => tools[button.dataset.tool]()));
element.querySelectorAll("[data-task]").forEach((button) =>
  button.addEventListener("click", () => { task = button.dataset.task; draw(); send(); })
);
weight.addEventListener("change", () => {
  if (!brushes[active]) return;
  remember();
  brushes[active].weight = Math.min(10, Math.max(0, Number(weight.value) || 0));
  draw();
  send();
});

const HINTS = {
  sample: ["Paint with words", "Drag over words of the prompt to give them a brush, then paint the region of each."],
  edit: ["Change an image", "Drop one here, open one, or choose one below and press Change."],
  upscale: ["Enlarge an image", "Drop a small one here, open one, or choose one below and press Enlarge."],
};

function draw() {
  settle();
  drawSentence();
  drawLegend();
  const shown = task !== "sample" && Boolean(source.name);
  document.body.dataset.task = task;
  board.classList.toggle("over", shown);
  picture.src = shown ? source.url : "data:,";
  picture.hidden = !shown;
  [hint.firstChild.textContent, hint.lastChild.textContent] = HINTS[task];
  hint.classList.toggle("gone", shown || (task === "sample" && isPainted(drawing)));
  find(".remove-source").hidden = !shown;
  element.querySelectorAll("[data-task]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.task === task)));
  find("[data-tool=erase]").setAttribute("aria-pressed", String(erasing));
  find("[data-tool=undo]").disabled = !past.length;
  find("[data-tool=redo]").disabled = !future.length;
  weight.disabled = !brushes[active];
  if (brushes[active]) weight.value = brushes[active].weight;
}
