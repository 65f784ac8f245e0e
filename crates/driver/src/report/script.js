"use strict";
// A timeline is whole without this; here it learns to be looked at closely, by buttons and by keys.
for (const figure of document.querySelectorAll(".timeline")) {
  const svg = figure.querySelector("svg");
  const range = figure.querySelector(".range");
  const seconds = Number(figure.dataset.seconds);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  let from = 0, shown = width;
  const time = (s) => (s < 1e-3 ? (s * 1e6).toFixed(1) + " us" : s < 1 ? (s * 1e3).toFixed(2) + " ms" : s.toFixed(3) + " s");
  const draw = () => {
    shown = Math.min(width, Math.max(width / 512, shown));
    from = Math.min(width - shown, Math.max(0, from));
    svg.setAttribute("viewBox", `${from} 0 ${shown} ${height}`);
    range.textContent = `showing ${time((seconds * from) / width)} to ${time((seconds * (from + shown)) / width)} of ${time(seconds)}`;
  };
  const zoom = (factor, at = 0.5) => { from += shown * (1 - factor) * at; shown *= factor; draw(); };
  const move = (share) => { from += shown * share; draw(); };
  const whole = () => { from = 0; shown = width; draw(); };
  const tools = document.createElement("div");
  tools.className = "tools";
  for (const [label, name, act] of [
    ["+", "zoom in", () => zoom(0.5)], ["−", "zoom out", () => zoom(2)],
    ["←", "earlier", () => move(-0.5)], ["→", "later", () => move(0.5)], ["whole step", "whole step", whole],
  ]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    tools.append(button);
  }
  figure.insertBefore(tools, range);
  svg.addEventListener("keydown", (event) => {
    const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), "0": whole }[event.key];
    if (act) { act(); event.preventDefault(); }
  });
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    const box = svg.getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.clientX - box.left) / box.width);
    event.preventDefault();
  }, { passive: false });
  draw();
}
document.documentElement.dataset.ready = "yes";
