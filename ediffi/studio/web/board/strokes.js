// Painting with mouse, pen or finger: whole pixels of one colour, no soft edges, so that each pixel belongs to one phrase.
let stroke = null, touches = new Map();

function spot(event) {
  const box = drawing.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => share * SIDE);
}

function dab(x, y) {
  const radius = Number(size.value), pen = pens.get(layer());
  pen.fillStyle = active === MASK ? MASK_COLOUR : brushes[active].colour;
  for (let row = -radius; row <= radius; row++) {
    const half = Math.floor(Math.sqrt((radius + 0.5) ** 2 - row * row));
    const box = [Math.round(x) - half, Math.round(y) + row, 2 * half + 1, 1];
    if (erasing) pen.clearRect(...box);
    else pen.fillRect(...box);
  }
}

function line([x0, y0], [x1, y1]) {
  const count = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0)));
  for (let k = 1; k <= count; k++) dab(x0 + ((x1 - x0) * k) / count, y0 + ((y1 - y0) * k) / count);
}

function canPaint() {
  if (task === "upscale") warn("Enlarging takes the whole image; choose New image or Change image to paint.");
  else if (active !== MASK && !brushes.length) warn("Give some words a brush first: drag over them under the prompt.");
  else return true;
  return false;
}

function begin(event) {
  if (!canPaint()) return;
  remember();
  hint.classList.add("gone");
  stroke = spot(event);
  dab(...stroke);
}

function end() {
  if (!stroke) return;
  stroke = null;
  draw();
  send();
}

board.addEventListener("pointerdown", (event) => {
  if (event.target.closest("button") || event.button > 1) return;
  event.preventDefault();
  board.focus({ preventScroll: true });
  board.setPointerCapture(event.pointerId);
  touches.set(event.pointerId, event);
  if (touches.size === 2 && stroke) { // a second finger: the first one did not mean to paint
    stroke = null;
    undo();
    future.length = 0;
  }
  if (touches.size > 1 || event.button === 1 || spaceHeld) grab();
  else begin(event);
});
board.addEventListener("pointermove", (event) => {
  follow(event);
  if (touches.has(event.pointerId)) touches.set(event.pointerId, event);
  if (grabbed) return drag();
  if (!stroke || !touches.has(event.pointerId)) return;
  for (const one of event.getCoalescedEvents?.() ?? [event]) {
    const next = spot(one);
    line(stroke, next);
    stroke = next;
  }
});
for (const name of ["pointerup", "pointercancel"])
  board.addEventListener(name, (event) => {
    touches.delete(event.pointerId);
    if (!touches.size) grabbed = null;
    end();
  });
board.addEventListener("pointerleave", () => { if (document.activeElement !== board) ring.style.display = "none"; });

let cursor = [SIDE / 2, SIDE / 2]; // where the brush is: of the mouse, and of the arrow keys
function follow(event) {
  cursor = spot(event);
  drawRing();
}

function drawRing() {
  const [box, outer] = [drawing, board].map((one) => one.getBoundingClientRect());
  const width = (2 * Number(size.value) * box.width) / SIDE;
  const [left, top] = [box.left + (cursor[0] * box.width) / SIDE - outer.left, box.top + (cursor[1] * box.height) / SIDE - outer.top];
  Object.assign(ring.style, { display: "block", width: `${width}px`, height: `${width}px`, left: `${left}px`, top: `${top}px` });
  ring.style.borderColor = erasing ? "" : active === MASK ? MASK_COLOUR : brushes[active]?.colour || "";
}
