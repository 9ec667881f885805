// Draws the figures that the server describes, in the colours of the style sheet, in place.
"use strict";

(() => {
  const touch = matchMedia("(pointer: coarse)").matches;
  const drawn = new Map();

  // --- colours: "--accent" in a figure is that variable of the style sheet ------------------

  function themed(value, style) {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return typeof value[0] === "object" ? value.map((item) => themed(item, style)) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
  }

  async function paint(box) {
    const { figure } = drawn.get(box);
    const style = getComputedStyle(document.documentElement);
    const layout = themed(figure.layout, style);
    if (touch) layout.dragmode = false;
    const fresh = !box.classList.contains("js-plotly-plot");
    await Plotly.react(box, themed(figure.data, style), layout, { displayModeBar: false, responsive: true });
    if (fresh && box.dataset.trials) box.on("plotly_click", ({ points }) => open(box, points[0]));
    box.dataset.updates = String(Number(box.dataset.updates || 0) + 1);
  }

  function open(box, point) {
    const number = [point.customdata].flat()[0];
    if (Number.isInteger(number)) location.href = box.dataset.trials + number;
  }

  // --- data ---------------------------------------------------------------------------------

  function address(box) {
    const url = new URL(box.dataset.figure, location.origin);
    for (const select of document.querySelectorAll(`[data-for="${box.id}"]`)) {
      url.searchParams.set(select.dataset.key, select.value);
    }
    return url.href;
  }

  async function update(box) {
    const url = address(box);
    const known = drawn.get(box);
    const headers = known && known.url === url ? { "If-None-Match": known.etag } : {};
    const asked = (box.asked = (box.asked || 0) + 1);
    let response, figure;
    try {
      response = await fetch(url, { headers, cache: "no-store" });
      // The poll of the page says what is wrong; the next change asks again.
      if (!response.ok) return;
      figure = await response.json();
    } catch {
      return;
    }
    if (box.asked !== asked) return;
    drawn.set(box, { url, etag: response.headers.get("ETag"), figure });
    show(box, figure);
  }

  function show(box, figure) {
    const empty = figure.data.length === 0;
    const panel = box.parentElement;
    const nothing = panel.querySelector(".nothing");
    const note = panel.querySelector(".note");
    box.hidden = empty;
    if (nothing) nothing.hidden = !empty;
    if (note) {
      note.textContent = figure.note || "";
      note.hidden = !figure.note;
    }
    for (const select of panel.querySelectorAll(`[data-for="${box.id}"][data-fill]`)) fill(select, figure[select.dataset.fill]);
    if (!empty) paint(box);
  }

  function fill(select, names) {
    const known = new Set([...select.options].map((option) => option.value));
    for (const name of names || []) if (!known.has(name)) select.add(new Option(name));
  }

  function updateAll() {
    for (const box of drawn.keys()) if (!box.isConnected) drawn.delete(box);
    for (const box of document.querySelectorAll("[data-figure]")) update(box);
  }

  // --- when ---------------------------------------------------------------------------------

  document.body.addEventListener("changed", updateAll);
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    for (const box of detail.target.querySelectorAll("[data-figure]")) update(box);
  });
  document.addEventListener("change", ({ target }) => {
    const box = target.dataset && target.dataset.for && document.getElementById(target.dataset.for);
    if (box) update(box);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const box of drawn.keys()) if (!box.hidden) paint(box);
  });
  updateAll();
})();
