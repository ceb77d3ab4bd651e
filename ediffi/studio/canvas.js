// Phrases of the prompt, a brush colour for each, and a square to paint on.
// value: {prompt, brushes: [{phrase, colour, weight, occurrence?}], image: PNG data URL, or ""}
(async () => {
const find = (name) => element.querySelector(name);
while (!document.querySelector("#phrases .legend")) await new Promise(requestAnimationFrame);
const [sentence, legend] = [".sentence", ".legend"].map((name) => document.querySelector(`#phrases ${name}`));
const [board, hint, message] = [".board", ".hint", ".message"].map(find);
const [canvas, ring, size, weight] = ["canvas", ".ring", ".size input", ".weight input"].map(find);
const pen = canvas.getContext("2d", { willReadFrequently: true });
const PALETTE = props.palette;
const UNDO = 24;
let prompt = "", brushes = [], active = 0, erasing = false, undo = [], painted = false;

// What Python reads. A stroke is sent when it ends.

function send() {
  props.value = { prompt, brushes: brushes.map((brush) => ({ ...brush })), image: painted ? canvas.toDataURL("image/png") : "" };
}

function receive() {
  const value = props.value || {};
  const changed = JSON.stringify(value.brushes || []) !== JSON.stringify(brushes);
  prompt = value.prompt || "";
  brushes = (value.brushes || []).map((brush) => ({ ...brush }));
  active = Math.min(active, Math.max(brushes.length - 1, 0));
  const image = value.image || "";
  if (image !== (painted ? canvas.toDataURL("image/png") : "")) {
    undo = [];
    show(image);
  }
  if (changed) erasing = false;
  draw();
}

function show(image) {
  pen.clearRect(0, 0, canvas.width, canvas.height);
  painted = image !== "";
  if (!painted) return draw();
  const drawing = new Image();
  drawing.onload = () => { pen.drawImage(drawing, 0, 0, canvas.width, canvas.height); draw(); };
  drawing.src = image;
}

// The prompt as words, those of a phrase in its colour.

const plain = (text) => text.replace(/\\([()\\])|\(([^()\\]+):\s*[\d.]+\s*\)/g, (all, mark, words) => mark || words);
const words = (text) => [...text.matchAll(/[\p{L}\p{N}][\p{L}\p{N}'’-]*/gu)].map((m) => ({ start: m.index, end: m.index + m[0].length, text: m[0].toLowerCase() }));

function places(phrase) {
  const [all, wanted] = [words(plain(prompt)), words(phrase)];
  if (!wanted.length) return [];
  return all.flatMap((_, at) => (wanted.every((word, k) => all[at + k] && all[at + k].text === word.text) ? [at] : []));
}

function owned() {
  const colours = {};
  for (const brush of brushes) {
    const found = places(brush.phrase);
    const meant = brush.occurrence ? found.slice(brush.occurrence - 1, brush.occurrence) : found;
    for (const at of meant) words(brush.phrase).forEach((_, k) => { colours[at + k] = brush.colour; });
  }
  return colours;
}

function drawSentence(picked) {
  const text = plain(prompt), colours = owned();
  sentence.replaceChildren();
  if (!text.trim()) {
    sentence.append(Object.assign(document.createElement("span"), { className: "nothing", textContent: "Write a prompt first." }));
    return;
  }
  let last = 0;
  words(text).forEach((word, index) => {
    sentence.append(text.slice(last, word.start));
    const span = Object.assign(document.createElement("span"), { textContent: text.slice(word.start, word.end) });
    span.dataset.word = index;
    if (colours[index]) { span.className = "owned"; span.style.setProperty("--own", colours[index]); }
    if (picked && index >= picked[0] && index <= picked[1]) span.classList.add("picked");
    sentence.append(span);
    last = word.end;
  });
  sentence.append(text.slice(last));
}

let from = null, to = null;
const wordAt = (event) => {
  const span = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-word]");
  return span && sentence.contains(span) ? Number(span.dataset.word) : null;
};
sentence.addEventListener("pointerdown", (event) => {
  from = to = wordAt(event);
  if (from === null) return;
  event.preventDefault();
  drawSentence([from, from]);
});
window.addEventListener("pointermove", (event) => {
  if (from === null) return;
  to = wordAt(event) ?? to;
  drawSentence([Math.min(from, to), Math.max(from, to)]);
});
window.addEventListener("pointerup", () => {
  if (from === null) return;
  const [first, last] = [Math.min(from, to), Math.max(from, to)];
  from = null;
  const text = plain(prompt), all = words(text);
  const phrase = text.slice(all[first].start, all[last].end), found = places(phrase);
  add(phrase, found.length > 1 ? found.indexOf(first) + 1 : undefined);
});

// Brushes.

function add(text, occurrence) {
  const phrase = text.trim().replace(/\s+/g, " ");
  if (!phrase) return;
  const same = brushes.findIndex((b) => b.phrase.toLowerCase() === phrase.toLowerCase() && b.occurrence === occurrence);
  if (same >= 0) { active = same; return draw(); }
  const free = PALETTE.find((colour) => brushes.every((brush) => brush.colour !== colour));
  if (!free) return warn(`There are only ${PALETTE.length} brush colours; remove a phrase before you add ${JSON.stringify(phrase)}.`);
  brushes.push({ phrase, colour: free, weight: 1, ...(occurrence ? { occurrence } : {}) });
  [active, erasing] = [brushes.length - 1, false];
  draw();
  send();
}

function remove(index) {
  remember();
  const [brush] = brushes.splice(index, 1);
  const [r, g, b] = rgb(brush.colour), pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4)
    if (pixels.data[at] === r && pixels.data[at + 1] === g && pixels.data[at + 2] === b) pixels.data[at + 3] = 0;
  pen.putImageData(pixels, 0, 0);
  active = Math.max(0, Math.min(active, brushes.length - 1));
  look();
  send();
}

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

function drawLegend() {
  const typed = legend.querySelector("input");
  const chips = brushes.map((brush, index) => {
    const chip = Object.assign(document.createElement("div"), { className: "chip", role: "button", tabIndex: 0 });
    chip.style.setProperty("--own", brush.colour);
    chip.setAttribute("aria-pressed", String(index === active && !erasing));
    const lost = places(brush.phrase).length < (brush.occurrence || 1);
    chip.classList.toggle("lost", lost);
    chip.title = lost ? "not in the prompt" : `paint ${brush.phrase}`;
    const text = Object.assign(document.createElement("span"), { className: "text", textContent: brush.phrase + (brush.occurrence ? ` (${brush.occurrence}.)` : "") });
    const cross = Object.assign(document.createElement("button"), { type: "button", textContent: "×", title: "remove" });
    cross.setAttribute("aria-label", `remove ${brush.phrase}`);
    cross.addEventListener("click", (event) => { event.stopPropagation(); remove(index); });
    const choose = () => { [active, erasing] = [index, false]; draw(); };
    chip.addEventListener("click", choose);
    chip.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === chip) choose(); });
    chip.append(document.createElement("b"), text, cross);
    return chip;
  });
  legend.replaceChildren(...chips, typed || input());
}

function input() {
  const field = Object.assign(document.createElement("input"), { type: "text", placeholder: "+ type a phrase", maxLength: 80 });
  field.setAttribute("aria-label", "add a phrase");
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    add(field.value);
    field.value = "";
  });
  return field;
}

// Painting: whole pixels of one colour, no soft edges, so that each pixel belongs to one phrase.

let stroke = null;
const spot = (event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => share * canvas.width);
};

function dab(x, y) {
  const radius = Number(size.value);
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

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (!brushes.length) return warn("Give some words a brush first: drag over them under the prompt.");
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  remember();
  pen.fillStyle = brushes[active].colour;
  hint.classList.add("gone");
  stroke = spot(event);
  dab(...stroke);
});
canvas.addEventListener("pointermove", (event) => {
  follow(event);
  if (!stroke) return;
  const next = spot(event);
  line(stroke, next);
  stroke = next;
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => {
    if (!stroke) return;
    stroke = null;
    look();
    send();
  });
canvas.addEventListener("pointerleave", () => { ring.style.display = "none"; });

function follow(event) {
  const box = canvas.getBoundingClientRect(), width = (2 * Number(size.value) * box.width) / canvas.width;
  Object.assign(ring.style, { display: "block", width: `${width}px`, height: `${width}px`, left: `${event.clientX - box.left}px`, top: `${event.clientY - box.top}px` });
  ring.style.borderColor = erasing || !brushes.length ? "" : brushes[active].colour;
}

function remember() {
  undo.push([pen.getImageData(0, 0, canvas.width, canvas.height), brushes.map((brush) => ({ ...brush }))]);
  if (undo.length > UNDO) undo.shift();
}

function look() {
  painted = pen.getImageData(0, 0, canvas.width, canvas.height).data.some((value, at) => at % 4 === 3 && value);
  draw();
}

// Tools.

const tools = {
  erase() { erasing = !erasing; draw(); },
  undo() {
    if (!undo.length) return;
    const [pixels, before] = undo.pop();
    pen.putImageData(pixels, 0, 0);
    brushes = [...before, ...brushes.filter((brush) => before.every((other) => other.colour !== brush.colour))];
    active = Math.max(0, Math.min(active, brushes.length - 1));
    look();
    send();
  },
  clear() {
    if (!painted) return;
    remember();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    look();
    send();
  },
};
element.querySelectorAll("[data-tool]").forEach((button) => button.addEventListener("click", () => tools[button.dataset.tool]()));
weight.addEventListener("change", () => {
  if (!brushes.length) return;
  brushes[active].weight = Math.min(10, Math.max(0, Number(weight.value) || 0));
  draw();
  send();
});
board.addEventListener("pointerenter", () => { board.dataset.over = "yes"; });
board.addEventListener("pointerleave", () => { delete board.dataset.over; });
document.addEventListener("keydown", (event) => {
  if (!board.dataset.over || event.target.closest("input, textarea")) return;
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); tools.undo(); }
  else if (event.key === "e") tools.erase();
});

let quiet = null;
function warn(text) {
  message.textContent = text;
  message.classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => message.classList.remove("on"), 6000);
}

function draw() {
  drawSentence();
  drawLegend();
  hint.classList.toggle("gone", painted);
  find("[data-tool=erase]").setAttribute("aria-pressed", String(erasing));
  weight.disabled = !brushes.length;
  if (brushes.length) weight.value = brushes[active].weight;
}

watch("value", receive);
receive();
})();
