// Files that are dropped on the page, or pasted into it, go the way of the Open button, or on the style field of its own.
const sent = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
const drop = element.querySelector(".drop");
const show = (on) => drop.classList.toggle("on", on);

function tooLarge(files) {
  const file = [...files].find((one) => one.size > props.most * 2 ** 20);
  if (!file) return false;
  const message = document.querySelector("#canvas .message");
  message.textContent = `${file.name} has ${Math.round(file.size / 2 ** 20)} MB; files of at most ${props.most} MB can be opened.`;
  message.classList.add("on");
  setTimeout(() => message.classList.remove("on"), 8000);
  return true;
}

function give(files, field) {
  const input = document.querySelector(`${field} input[type=file]`), all = new DataTransfer();
  for (const file of files) all.items.add(file);
  input.files = all.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

const only = (listener) => (event) => {
  if (!sent(event)) return;
  event.preventDefault();
  event.stopPropagation();
  listener(event);
};
document.addEventListener("dragover", only(() => show(true)), true);
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) show(false); }, true);
document.addEventListener("drop", only((event) => {
  show(false);
  give(event.dataTransfer.files, event.target.closest("#style") ? "#style" : "#files");
}), true);
document.addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  give(event.clipboardData.files, "#files");
});
document.addEventListener("change", (event) => {
  if (event.target.type !== "file" || !tooLarge(event.target.files)) return;
  event.stopPropagation();
  event.target.value = "";
}, true);
