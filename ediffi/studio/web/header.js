// The button that changes between light and dark; the choice is kept.
const dark = () => document.body.classList.contains("dark");
const stored = localStorage.getItem("ediffi-studio");
if (stored) document.body.classList.toggle("dark", stored === "dark");
element.querySelector("button").addEventListener("click", () => {
  document.body.classList.toggle("dark");
  localStorage.setItem("ediffi-studio", dark() ? "dark" : "light");
});
