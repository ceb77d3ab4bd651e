// Search, order and guidance of the images. Without this script all of them stand on the page, in the order of the page.
"use strict";
for (const gallery of document.querySelectorAll(".gallery")) {
  const rows = [...gallery.querySelectorAll(".row")], find = (name) => gallery.querySelector(`[name=${name}]`);
  const search = find("search"), order = find("order"), slider = find("guidance"), all = find("all");
  const scales = JSON.parse(gallery.dataset.scales);
  const show = () => {
    const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const caption = row.querySelector(".caption").textContent.toLocaleLowerCase();
      row.hidden = !words.every((word) => caption.includes(word));
      count += !row.hidden;
    }
    gallery.querySelector("[data-count]").textContent = `${count} of ${rows.length} captions on this page`;
    const scale = slider ? scales[slider.value] : null;
    if (slider) gallery.querySelector("output").textContent = all.checked ? "all" : scale;
    for (const system of gallery.querySelectorAll(".system")) {
      const figures = [...system.querySelectorAll("figure[data-scale]")];
      const far = (figure) => Math.abs(Number(figure.dataset.scale) - scale);
      const nearest = figures.reduce((best, one) => (best && far(best) <= far(one) ? best : one), null);
      for (const figure of figures) figure.hidden = slider && !all.checked && figure !== nearest;
    }
  };
  const spread = (row) => {  // of the scores of the images that are shown
    const scores = [...row.querySelectorAll("figure[data-score]:not([hidden])")].map((one) => Number(one.dataset.score));
    return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : Number(row.dataset.spread);
  };
  const sort = () => {
    const key = (row) => (order.value === "caption" ? Number(row.dataset.number) : -spread(row));
    const keys = new Map(rows.map((row) => [row, key(row)]));
    rows.sort((one, other) => keys.get(one) - keys.get(other)).forEach((row) => row.parentNode.append(row));
  };
  gallery.querySelector(".controls").hidden = false;
  for (const input of [search, slider, all]) if (input) input.addEventListener("input", show);
  if (order) for (const input of [order, slider, all]) if (input) input.addEventListener("change", sort);
  show();
  if (order) sort();
}
