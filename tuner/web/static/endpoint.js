// An endpoint's page: sliders that keep their sum at 100, and the form that has a row predicted.
"use strict";

(() => {
  const headers = { "Content-Type": "application/json", "X-Tuner": "1", "HX-Request": "true" };

  function sliders() {
    return [...document.querySelectorAll("#endpoint input[type=range]")];
  }

  function show(slider, percent) {
    slider.value = percent;
    slider.parentElement.querySelector("output").textContent = `${percent} %`;
  }

  function isChanged() {
    return sliders().some((slider) => slider.value !== slider.dataset.percent);
  }

  function bar() {
    return document.querySelector("#endpoint .apply");
  }

  function reset() {
    for (const slider of sliders()) show(slider, slider.dataset.percent);
    bar().hidden = true;
  }

  // The others keep their proportions; what rounding leaves goes to the largest.
  function share(moved) {
    const others = sliders().filter((slider) => slider !== moved);
    const rest = 100 - Number(moved.value);
    const sum = others.reduce((total, slider) => total + Number(slider.dataset.percent), 0);
    let left = rest;
    others.forEach((slider, place) => {
      const part = sum ? Math.floor((rest * Number(slider.dataset.percent)) / sum) : place ? 0 : rest;
      show(slider, part);
      left -= part;
    });
    const largest = others.reduce((a, b) => (Number(b.value) > Number(a.value) ? b : a), others[0]);
    if (largest && left) show(largest, Number(largest.value) + left);
    show(moved, moved.value);
    bar().hidden = !isChanged();
  }

  async function send(path, body) {
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    return [response.ok, await response.text()];
  }

  async function apply() {
    const { endpoint, etag } = bar().dataset;
    const percents = Object.fromEntries(sliders().map((slider) => [slider.dataset.version, Number(slider.value)]));
    const [ok, text] = await send(`/endpoints/${endpoint}/traffic`, { percents, etag });
    if (ok) replace("endpoint", text);
    else bar().querySelector(".bad").textContent = text;
  }

  function replace(id, text) {
    const old = document.getElementById(id);
    const parsed = new DOMParser().parseFromString(text, "text/html").getElementById(id);
    old.replaceWith(parsed);
    htmx.process(parsed);
  }

  // Numbers as numbers, nothing as missing.
  function value(field) {
    const text = field.value.trim();
    if (field.dataset.kind === "text") return text;
    if (text === "") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text : number;
  }

  async function predict(button) {
    const form = document.getElementById("form");
    const values = Object.fromEntries([...form.querySelectorAll("input")].map((field) => [field.name, value(field)]));
    const version = Number(form.querySelector("[data-version-choice]").value);
    button.disabled = true;
    const [ok, text] = await send(`/endpoints/${form.dataset.endpoint}/try`, { values, version });
    button.disabled = false;
    if (ok) replace("prediction", text);
    else document.getElementById("prediction").textContent = text;
  }

  document.addEventListener("input", ({ target }) => {
    if (target.matches("#endpoint input[type=range]")) share(target);
  });
  document.addEventListener("click", ({ target }) => {
    if (target.matches("[data-apply]")) apply();
    else if (target.matches("[data-reset]")) reset();
    else if (target.matches("[data-try]")) predict(target);
  });
  // A poll must not take a slider out of the reader's hand, nor undo what is not applied.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id === "endpoint" && isChanged()) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    if (detail.target.id === "endpoint") document.body.dispatchEvent(new CustomEvent("changed"));
  });
})();
