// The brushes: one for each phrase, and one for the area of the source that is repainted.
function add(text, occurrence) {
  const phrase = text.trim().replace(/\s+/g, " ");
  if (!phrase) return;
  const same = brushes.findIndex((b) => b.phrase.toLowerCase() === phrase.toLowerCase() && b.occurrence === occurrence);
  if (same >= 0) return choose(same);
  const free = PALETTE.find((colour) => brushes.every((brush) => brush.colour !== colour));
  if (!free) return warn(`There are only ${PALETTE.length} brush colours; remove a phrase before you add ${JSON.stringify(phrase)}.`);
  remember();
  brushes.push({ phrase, colour: free, weight: 1, ...(occurrence ? { occurrence } : {}) });
  choose(brushes.length - 1);
  send();
}

function choose(which) {
  if (which === MASK ? !canMask() : !brushes[which]) return;
  [active, erasing] = [which, false];
  draw();
}

function remove(index) {
  remember();
  const all = pixels(drawing), colours = brushes.map((brush) => rgb(brush.colour));
  brushes.splice(index, 1);
  for (let at = 0; at < all.data.length; at += 4)
    if (all.data[at + 3] && nearest(all.data.subarray(at, at + 3), colours) === index) all.data[at + 3] = 0;
  pens.get(drawing).putImageData(all, 0, 0);
  draw();
  send();
}

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
// The brush of a pixel; browsers round the colours of those that belong to it in part.
function nearest(pixel, colours) {
  const far = colours.map((colour) => colour.reduce((sum, value, k) => sum + (value - pixel[k]) ** 2, 0));
  return far.indexOf(Math.min(...far));
}
const canMask = () => task === "edit" && Boolean(source.name);

// A brush that can paint: another where `active` is gone.
function settle() {
  if (active === MASK && !canMask()) active = 0;
  if (active !== MASK) active = Math.max(0, Math.min(active, brushes.length - 1));
  if (active !== MASK && !brushes.length && canMask()) active = MASK;
}

const made = (tag, values) => Object.assign(document.createElement(tag), values);

function chip(which, text, colour, title) {
  const box = made("div", { className: "chip" }), pick = made("button", { type: "button", className: "pick", title });
  box.style.setProperty("--own", colour);
  pick.setAttribute("aria-pressed", String(which === active && !erasing));
  pick.append(document.createElement("b"), made("span", { className: "text", textContent: text }));
  pick.addEventListener("click", () => choose(which));
  box.append(pick);
  return box;
}

function brushChip(brush, index) {
  const lost = places(brush.phrase).length < (brush.occurrence || 1);
  const title = lost ? "not in the prompt" : `paint ${brush.phrase} (${index + 1})`;
  const box = chip(index, brush.phrase + (brush.occurrence ? ` (${brush.occurrence}.)` : ""), brush.colour, title);
  box.classList.toggle("lost", lost);
  const cross = made("button", { type: "button", className: "remove", textContent: "×", title: "remove" });
  cross.setAttribute("aria-label", `remove ${brush.phrase}`);
  cross.addEventListener("click", () => remove(index));
  box.append(cross);
  return box;
}

function drawLegend() {
  const typed = legend.querySelector("input") || phraseField(), place = focusIn(legend);
  const chips = brushes.map(brushChip);
  if (canMask()) {
    const box = chip(MASK, "repaint here", MASK_COLOUR, "mark what is repainted; nothing marked: all of it (M)");
    box.classList.add("masking");
    chips.unshift(box);
  }
  legend.replaceChildren(...chips, typed);
  legend.querySelectorAll("button, input")[place]?.focus();
}

const focusIn = (parent) => [...parent.querySelectorAll("button, input")].indexOf(document.activeElement);

function phraseField() {
  const field = made("input", { type: "text", placeholder: "+ type a phrase", maxLength: 80 });
  field.setAttribute("aria-label", "add a phrase");
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    add(field.value);
    field.value = "";
  });
  return field;
}
