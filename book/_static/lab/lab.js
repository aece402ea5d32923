// The live lab: every `<div class="lab" data-view="...">` of a page becomes a view of one scene.
//
// The numbers are worked out by assignment.js, assigners.js and losses.js, in fp32 and in the package's own order;
// tests/book/test_lab_numbers.py holds them to the package.  Nothing leaves the browser.

import { HASH, openLab } from "./data.js";
import { make } from "./dom.js";
import { makeTools } from "./panel.js";
import { explainKeys } from "./scene.js";

/** @typedef {(root: HTMLElement, lab: import("./data.js").Lab) => () => void} View makes it, returns what draws it */

/** @type {Record<string, () => Promise<{ view: View }>>} */
const VIEWS = {
  priors: () => import("./views/priors.js"),
  costs: () => import("./views/costs.js"),
  matching: () => import("./views/matching.js"),
  losses: () => import("./views/losses.js"),
  assigners: () => import("./views/assigners.js"),
  network: () => import("./views/network.js"),
};

/** @type {HTMLElement[]} */
const places = [...document.querySelectorAll("div.lab")].filter((place) => place instanceof HTMLElement);
/** @type {Map<Element, () => void>} */
const visible = new Map();
let asked = false;

/** Draw what is on the screen, once a frame. */
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const draw of visible.values()) draw();
  });
}

/** @param {HTMLElement} place @param {import("./data.js").Lab} lab */
async function show(place, lab) {
  const name = place.dataset.view ?? "";
  const { view } = await VIEWS[name]();
  const root = document.createElement("div");
  root.className = "lab-view";
  const draw = view(root, lab);
  const drawTools = name === "network" ? () => {} : makeTools(root, lab, name); // whose state is no link's
  const both = () => {
    draw();
    drawTools();
  };
  both();
  const still = place.querySelector(".lab-room"); // for readers whose browser does not come this far
  if (still) still.replaceWith(root);
  else place.append(root);
  place.dataset.shown = "";
  both(); // now that it has a size
  new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting) visible.set(place, both);
    else visible.delete(place);
    if (entry.isIntersecting) both();
  }).observe(place);
  root.addEventListener("keydown", (press) => {
    if (press.key !== "z" || !(press.ctrlKey || press.metaKey) || press.shiftKey) return;
    press.preventDefault();
    lab.store.undo();
  });
}

async function start() {
  const lab = await openLab(places[0]?.dataset.start ?? "");
  explainKeys(document.body.querySelector("article") ?? document.body);
  lab.store.subscribe(redraw);
  await Promise.all(places.map((place) => show(place, lab)));
  performance.mark("lab-shown");
  const view = new URLSearchParams(location.hash.slice(HASH.length + 1)).get("view");
  if (location.hash.startsWith(`#${HASH}`)) places.find((place) => place.dataset.view === view)?.scrollIntoView();
}

start().catch((error) => {
  // the stills stay; a page opened as a file may load nothing
  for (const place of places) {
    if ("shown" in place.dataset) continue;
    place.dataset.failed = "";
    make(place, "p", { class: "lab-failed" }, `The live lab could not be loaded: ${error.message}.`);
  }
});
