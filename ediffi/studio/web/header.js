// The buttons of the header: light or dark, and the meaning of unusual words. Both choices are kept.
const buttons = Object.fromEntries([...element.querySelectorAll("[data-toggle]")].map((one) => [one.dataset.toggle, one]));
for (const [name, button] of Object.entries(buttons)) {
  const set = (on) => {
    document.body.classList.toggle(name, on);
    button.setAttribute("aria-pressed", String(on));
  };
  const stored = localStorage.getItem(`ediffi-studio-${name}`);
  set(stored ? stored === "on" : document.body.classList.contains(name));
  button.addEventListener("click", () => {
    set(!document.body.classList.contains(name));
    localStorage.setItem(`ediffi-studio-${name}`, document.body.classList.contains(name) ? "on" : "off");
  });
}
