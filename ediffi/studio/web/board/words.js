// The prompt as words, those of a phrase in its colour. Dragging over words gives them a brush.
const MARKS = /\\([()\\])|\(([^()\\]+):\s*[\d.]+\s*\)/g; // of weights, and literal parentheses

function plain(text) {
  const bare = text.replace(MARKS, (all, mark, words) => mark || words);
  return bare === text ? bare : plain(bare); // weights nest
}

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
