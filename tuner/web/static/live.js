// Keeps a page up to date: polls answer 304 while nothing has changed, and a banner says when
// nobody answers. Nothing here knows what a page shows.
"use strict";

(() => {
  const banner = document.getElementById("offline");

  // --- polls: only while somebody looks, and only what has changed -------------------------

  document.addEventListener("htmx:configRequest", ({ detail }) => {
    const known = detail.elt.dataset.etag;
    if (known && detail.path === detail.elt.getAttribute("hx-get")) {
      detail.headers["If-None-Match"] = known;
    }
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden) event.preventDefault();
  });

  document.addEventListener("visibilitychange", () => {
    const poll = document.querySelector("[hx-trigger^=every]");
    if (!document.hidden && poll) htmx.ajax("GET", poll.getAttribute("hx-get"), { source: poll, target: poll, swap: "outerHTML" });
  });

  // --- swaps keep what the reader was doing ------------------------------------------------

  const kept = new Map();

  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (!detail.shouldSwap || !detail.target.id) return;
    const boxes = [...detail.target.querySelectorAll(".scroll, pre")];
    kept.set(detail.target.id, boxes.map((box) => [box.scrollLeft, box.scrollTop, atEnd(box)]));
  });

  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    const target = detail.target.id && document.getElementById(detail.target.id);
    if (!target) return;
    const etag = detail.xhr.getResponseHeader("ETag");
    if (etag) target.dataset.etag = etag;
    const boxes = target.querySelectorAll(".scroll, pre");
    (kept.get(target.id) || []).forEach(([left, top, end], index) => {
      const box = boxes[index];
      if (!box) return;
      box.scrollLeft = left;
      box.scrollTop = end && "follow" in box.dataset ? box.scrollHeight : top;
    });
    tell();
  });

  function atEnd(box) {
    return box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  }

  // --- nobody answers ----------------------------------------------------------------------

  function warn(text) {
    if (banner.textContent !== text) banner.textContent = text;
    banner.hidden = false;
  }

  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (detail.xhr.status >= 200 && detail.xhr.status < 400) banner.hidden = true;
  });

  document.addEventListener("htmx:responseError", ({ detail }) => {
    const text = detail.xhr.responseText.slice(0, 300) || "The study server does not answer.";
    warn(detail.xhr.status === 503 ? `${text} Trying again …` : text);
  });

  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, () => warn("The web process does not answer. Trying again …"));
  }

  // --- times in the reader's words ---------------------------------------------------------

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

  function span(seconds) {
    const first = UNITS.findIndex(([size]) => seconds >= size);
    if (first < 0) return "0 s";
    const [size, unit] = UNITS[first];
    const next = UNITS[first + 1];
    const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
    return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${next[1]}` : "");
  }

  function ago(seconds) {
    if (seconds < 5) return "just now";
    const [size, unit] = UNITS.find(([size]) => seconds >= size);
    return `${Math.floor(seconds / size)} ${unit} ago`;
  }

  function since(time) {
    return Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  }

  function write(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function tell() {
    for (const node of document.querySelectorAll("[data-ago]")) write(node, ago(since(node.dateTime)));
    for (const node of document.querySelectorAll("[data-since]")) write(node, span(since(node.dataset.since)));
  }

  tell();
  setInterval(tell, 1000);
  for (const box of document.querySelectorAll("[data-follow]")) box.scrollTop = box.scrollHeight;
})();
