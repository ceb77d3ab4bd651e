// The keyboard, while the board has the focus or the mouse is over it; Ctrl+Enter everywhere.
const STEP = 8; // pixels of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = { e: tools.erase, m: () => choose(MASK), "[": () => resize(-1), "]": () => resize(1), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: tools.fit, "?": tools.keys };
for (const index of PALETTE.keys()) KEYS[index + 1] = () => choose(index);

function arrow(event) {
  const [x, y] = ARROWS[event.key];
  const [held, width] = [cursor, board.clientWidth / 4];
  if (event.ctrlKey) return look(scale, [shift[0] - x * width, shift[1] - y * width]);
  cursor = [cursor[0] + STEP * x, cursor[1] + STEP * y].map((value) => Math.min(SIDE, Math.max(0, value)));
  if (event.shiftKey && canPaint()) {
    if (!stroke) remember();
    stroke = cursor;
    line(held, cursor);
  }
  drawRing();
}

function controlKey(event) {
  const key = event.key.toLowerCase();
  if (key === "z") (event.shiftKey ? redo : undo)();
  else if (key === "y") redo();
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=range]), textarea, [role=listbox]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    const held = document.activeElement;
    held?.blur(); // a number that was just typed counts
    held?.focus({ preventScroll: true });
    return requestAnimationFrame(() => document.querySelector("#generate:not([disabled])")?.click());
  }
  const focused = document.activeElement === board;
  if (typing || !(focused || board.dataset.over || element.contains(document.activeElement))) return;
  if (event.ctrlKey || event.metaKey) {
    if (controlKey(event) || (focused && ARROWS[event.key] && (arrow(event), true))) event.preventDefault();
  } else if (event.key === " " && (focused || board.dataset.over)) {
    event.preventDefault();
    if (!spaceHeld) moved = false;
    spaceHeld = true;
  } else if (focused && ARROWS[event.key]) {
    event.preventDefault();
    arrow(event);
  } else if (KEYS[event.key] && !event.target.closest("[type=range]")) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key === "Shift") end(); // of a line that arrow keys painted
  if (event.key !== " " || !spaceHeld) return;
  spaceHeld = false;
  if (document.activeElement !== board || moved || !canPaint()) return;
  remember();
  dab(...cursor);
  draw();
  send();
});
board.addEventListener("focus", drawRing);
board.addEventListener("blur", () => { ring.style.display = "none"; });
board.addEventListener("pointerenter", () => { board.dataset.over = "yes"; });
board.addEventListener("pointerleave", () => { delete board.dataset.over; });

watch("value", () => {
  receive();
  keep(props.value);
});
receive();
