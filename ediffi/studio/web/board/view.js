// Zooming and moving the canvas: Ctrl and the wheel, Space and dragging, two fingers.
const MOST = 8;
let scale = 1, shift = [0, 0], grabbed = null, moved = false, spaceHeld = false;

function look(zoom, [x, y]) {
  const most = board.clientWidth * (zoom - 1);
  [scale, shift] = [zoom, [x, y].map((value) => Math.min(0, Math.max(-most, value)))];
  sheet.style.transform = scale === 1 ? "" : `translate(${shift[0]}px, ${shift[1]}px) scale(${scale})`;
  find("[data-tool=fit]").hidden = scale === 1;
  if (ring.style.display === "block") drawRing();
}

// Zoom so that what lies under a point of the board stays there.
function zoom(factor, at = [board.clientWidth / 2, board.clientHeight / 2]) {
  const next = Math.min(MOST, Math.max(1, scale * factor));
  look(next, at.map((value, k) => value - ((value - shift[k]) * next) / scale));
}

function middle() {
  const outer = board.getBoundingClientRect(), all = [...touches.values()];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [mean(all.map((one) => one.clientX)) - outer.left, mean(all.map((one) => one.clientY)) - outer.top];
}

function spread() {
  const [one, other] = [...touches.values()];
  return other ? Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) : 1;
}

function grab() { grabbed = { middle: middle(), spread: spread(), scale, shift }; }

function drag() {
  const now = middle(), next = Math.min(MOST, Math.max(1, (grabbed.scale * spread()) / grabbed.spread));
  moved = true;
  look(next, now.map((value, k) => value - ((grabbed.middle[k] - grabbed.shift[k]) * next) / grabbed.scale));
}

board.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey || event.metaKey) {
    const outer = board.getBoundingClientRect();
    zoom(2 ** (-event.deltaY / 200), [event.clientX - outer.left, event.clientY - outer.top]);
  } else resize(event.deltaY < 0 ? 1 : -1);
}, { passive: false });

function resize(direction) {
  const step = Math.max(1, Math.round(Number(size.value) / 8));
  size.value = Number(size.value) + direction * step; // the field keeps its own limits
  drawRing();
}
size.addEventListener("input", () => { if (ring.style.display === "block") drawRing(); });
