// What the board holds, and what Python reads of it. A stroke is sent when it ends.
// value: {prompt, task, brushes: [{phrase, colour, weight, occurrence?}], image, source: {name, url}, mask}
// image and mask are PNG data URLs, or "": the layout in the brushes' colours, and where the source is repainted.
const find = (name) => element.querySelector(name);
while (!document.querySelector("#phrases .legend") || !document.querySelector("#prompt textarea")) await new Promise(requestAnimationFrame);
const [sentence, legend] = [".sentence", ".legend"].map((name) => document.querySelector(`#phrases ${name}`));
const [board, sheet, ring, hint, message] = [".board", ".sheet", ".ring", ".hint", ".message"].map(find);
const [drawing, mask, picture] = [".drawing", ".mask", ".source"].map(find);
const [size, weight] = [".size input", ".weight input"].map(find);
const PALETTE = props.palette;
const MASK = "mask"; // what `active` is while the area to repaint is painted
const MASK_COLOUR = "#ff2d9b";
const SIDE = drawing.width;
const pens = new Map([drawing, mask].map((layer) => [layer, layer.getContext("2d", { willReadFrequently: true })]));
let prompt = "", task = "sample", brushes = [], source = {}, active = 0, erasing = false;

const layer = () => (active === MASK ? mask : drawing);
const pixels = (canvas) => pens.get(canvas).getImageData(0, 0, SIDE, SIDE);
const isPainted = (canvas) => pixels(canvas).data.some((value, at) => at % 4 === 3 && value);
const asUrl = (canvas) => (isPainted(canvas) ? canvas.toDataURL("image/png") : "");
const copies = (list) => list.map((one) => ({ ...one }));
let sent = ["", ""]; // the layers as they were sent or received last

function send() {
  sent = [drawing, mask].map(asUrl);
  const value = { prompt, task, brushes: copies(brushes), image: sent[0], source: { ...source }, mask: sent[1] };
  props.value = value;
  keep(value);
}

// The canvas survives a reload of its tab (draft.js reads it). A drawing is far smaller than what a tab may keep.
const DRAFT = "ediffi-canvas";
function keep(value) {
  try { sessionStorage.setItem(DRAFT, JSON.stringify(value)); } catch { sessionStorage.removeItem(DRAFT); }
}

function receive() {
  const value = props.value || {};
  const layers = [value.image || "", value.mask || ""], changed = layers.join() !== sent.join();
  const other = JSON.stringify([value.brushes || [], value.source || {}]) !== JSON.stringify([brushes, source]);
  if ((changed || other) && (brushes.length || source.name)) remember(); // a restored layout can be undone
  prompt = value.prompt || "";
  task = value.task || "sample";
  brushes = copies(value.brushes || []);
  source = { ...(value.source || {}) };
  if (other) erasing = false;
  if (changed) [drawing, mask].forEach((canvas, k) => load(canvas, layers[k]));
  sent = layers;
  draw();
}

function load(canvas, url) {
  const pen = pens.get(canvas);
  pen.clearRect(0, 0, SIDE, SIDE);
  if (!url) return;
  const image = new Image();
  image.onload = () => {
    pen.imageSmoothingEnabled = canvas === mask; // each pixel of the layout belongs to one phrase
    pen.drawImage(image, 0, 0, SIDE, SIDE);
    if (canvas === mask) tint();
    draw();
  };
  image.src = url;
}

function tint() {
  const pen = pens.get(mask);
  pen.globalCompositeOperation = "source-in"; // the opacity stays: it is the mask
  pen.fillStyle = MASK_COLOUR;
  pen.fillRect(0, 0, SIDE, SIDE);
  pen.globalCompositeOperation = "source-over";
}

let quiet = null;
function warn(text) {
  message.textContent = text;
  message.classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => message.classList.remove("on"), 8000);
}
