"use strict";
// Everything on the page is there without this script. It adds a theme switch and sliders that read the tables.
(() => {
  const root = document.documentElement;
  const themes = ["auto", "light", "dark"];
  const button = document.querySelector("#theme");
  let theme = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    if (theme) root.dataset.theme = themes[theme];
    else delete root.dataset.theme;
    button.textContent = "Theme: " + themes[theme];
  });

  const number = text => parseFloat(text.replace("−", "-").replace(/[▲▼·,\s]/g, "")) || 0;

  for (const scene of document.querySelectorAll(".scene")) {
    const frames = document.getElementById(scene.dataset.frames);
    const rows = [...frames.querySelectorAll("tbody tr")].map(row => [...row.children].map(cell => cell.textContent.trim()));
    const slider = scene.querySelector("input");
    const says = scene.querySelector("output");
    const cursors = scene.parentElement.querySelectorAll(".cursor");
    const steps = number(rows[rows.length - 1][0]);

    const show = () => {
      const row = rows[slider.value];
      says.textContent = row[1];
      slider.setAttribute("aria-valuetext", row[1]);
      for (const cursor of cursors) {
        const x = steps ? 1000 * number(row[0]) / steps : 0;
        cursor.setAttribute("x1", x);
        cursor.setAttribute("x2", x);
      }
      for (const line of scene.querySelectorAll("tr[data-column]")) {
        const text = row[line.dataset.column];
        const value = number(text);
        const bar = line.querySelector("rect");
        const zero = number(line.dataset.zero);
        const length = Math.abs(value) * number(line.dataset.scale);
        bar.setAttribute("x", value < 0 ? zero - length : zero);
        bar.setAttribute("width", length);
        if (line.dataset.signed) bar.setAttribute("class", value < 0 ? "down" : "up");
        line.querySelector(".number").textContent = text;
      }
    };
    slider.addEventListener("input", show);
    scene.hidden = false;
    for (const cursor of cursors) cursor.removeAttribute("hidden");
    frames.closest("details").open = false;
    show();
  }
})();
