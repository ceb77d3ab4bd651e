// Weights of words in the prompt: Ctrl with the arrows, or the buttons, on what is selected there, or the word at the caret.
const field = document.querySelector("#prompt textarea");
const UNIT = 0.1, HEAVIEST = 10;

function selected() {
  let [start, end] = [field.selectionStart, field.selectionEnd];
  const text = field.value;
  if (start === end) {
    while (start > 0 && /[\p{L}\p{N}'’-]/u.test(text[start - 1])) start--;
    while (end < text.length && /[\p{L}\p{N}'’-]/u.test(text[end])) end++;
  }
  while (start < end && /\s/.test(text[start])) start++;
  while (end > start && /\s/.test(text[end - 1])) end--;
  return [start, end];
}

function weigh(direction) {
  const [start, end] = selected(), text = field.value;
  if (start === end) return warn("Select words of the prompt first.");
  let [before, words, after, known] = [text.slice(0, start), text.slice(start, end), text.slice(end), 1];
  const whole = words.match(/^\(([^()]+):\s*([\d.]+)\s*\)$/), close = after.match(/^:\s*([\d.]+)\s*\)/);
  if (whole) [words, known] = [whole[1], Number(whole[2])];
  else if (close && before.endsWith("(")) [before, after, known] = [before.slice(0, -1), after.slice(close[0].length), Number(close[1])];
  const next = Math.min(HEAVIEST, Math.max(0, Math.round((known + direction * UNIT) * 100) / 100));
  const [open, shut] = next === 1 ? ["", ""] : ["(", `:${next})`];
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, before + open + words + shut + after);
  field.dispatchEvent(new Event("input", { bubbles: true })); // Gradio reads it then
  const place = before.length + open.length;
  field.focus();
  requestAnimationFrame(() => field.setSelectionRange(place, place + words.length));
  field.setSelectionRange(place, place + words.length);
}

field.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  weigh(event.key === "ArrowUp" ? 1 : -1);
});
document.querySelectorAll("#phrases [data-weigh]").forEach((button) => {
  button.addEventListener("pointerdown", (event) => event.preventDefault()); // the selection stays
  button.addEventListener("click", () => weigh(Number(button.dataset.weigh)));
});
