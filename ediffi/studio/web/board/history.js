// Undo and redo: the layers, the brushes and the source, as they were before each change.
const DEPTH = 30;
const past = [], future = [];

const snapshot = () => ({ layers: [drawing, mask].map(pixels), brushes: copies(brushes), source: { ...source }, task });

function remember() {
  past.push(snapshot());
  if (past.length > DEPTH) past.shift();
  future.length = 0;
}

function travel(back, forth) {
  if (!back.length) return;
  forth.push(snapshot());
  const then = back.pop();
  [drawing, mask].forEach((canvas, k) => pens.get(canvas).putImageData(then.layers[k], 0, 0));
  ({ brushes, source, task } = then);
  draw();
  send();
}

const undo = () => travel(past, future), redo = () => travel(future, past);
