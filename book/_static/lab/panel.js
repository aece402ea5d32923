// What stands beside the scene: the boxes by name, sliders, and the buttons that all views have.

import { boxColor, button, make, say, set } from "./dom.js";
import { HASH } from "./data.js";
import { removeBox } from "./scene.js";
import { MOST_BOXES, RANGES, write } from "./store.js";

/** @typedef {import("./data.js").Lab} Lab */
/** @typedef {import("./boxes.js").Box} Box */

/** @type {Record<string, string>} */
const WORDS = {
  moment: "moment",
  topk: "top IoUs",
  iouWeight: "IoU weight",
  radius: "radius, strides",
  logit: "logit",
  target: "soft label",
  raw: "network's number",
};

/**
 * Two columns, or one on a phone: the scene, and what can be set.
 *
 * @param {Element} root
 * @returns {{ left: Element, right: Element, below: Element }}
 */
export function makeBench(root) {
  const bench = make(root, "div", { class: "lab-bench" });
  const left = make(bench, "div", { class: "lab-left" });
  const right = make(bench, "div", { class: "lab-right" });
  return { left, right, below: make(root, "div", { class: "lab-below" }) };
}

/**
 * A row for each box: its class, which can be another, and a button that removes it.
 *
 * @param {Element} parent
 * @param {Lab} lab
 */
export function makeBoxes(parent, lab) {
  const { store, scene } = lab;
  const list = make(parent, "div", { class: "lab-boxes", role: "group", "aria-label": "Boxes" });
  const add = button(parent, "Add a box", () => addBox(lab));
  add.classList.add("lab-add");

  const makeRow = (/** @type {number} */ g) => {
    const row = make(list, "div", { class: "lab-row", style: `--box: ${boxColor(g)}` });
    const choose = make(row, "input", { type: "radio", name: `box-${list.id}`, "aria-label": `Look at box ${g}` });
    choose.addEventListener("change", () => store.change({ box: g }));
    const classes = make(row, "select", { "aria-label": `Class of box ${g}` });
    for (const name of scene.classes) make(classes, "option", {}, name);
    classes.addEventListener("change", () => {
      store.change({ labels: store.state.labels.with(g, classes.selectedIndex), box: g }, `class ${g}`);
      store.lift();
    });
    button(row, "×", () => removeBox(lab, g), `Remove box ${g}`);
  };
  list.id = `lab-boxes-${document.querySelectorAll(".lab-boxes").length}`;
  return () => {
    const { boxes, labels, box } = store.state;
    while (list.children.length > boxes.length) list.lastElementChild?.remove();
    boxes.forEach((_, g) => {
      if (!list.children[g]) makeRow(g);
      const [choose, classes] = list.children[g].querySelectorAll("input, select");
      /** @type {HTMLInputElement} */ (choose).checked = g === box;
      /** @type {HTMLSelectElement} */ (classes).selectedIndex = labels[g];
    });
    add.disabled = boxes.length >= MOST_BOXES;
  };
}

/** A new box where the fewest others are. @param {Lab} lab */
function addBox({ store, scene }) {
  const { boxes, labels } = store.state;
  const side = 40;
  const spots = [0, 1, 2, 3, 4, 5, 6].flatMap((row) => [0, 1, 2, 3, 4, 5, 6].map((column) => [column * 20, row * 20]));
  const crowd = (/** @type {number[]} */ [x, y]) =>
    boxes.reduce((sum, [x1, y1, x2, y2]) => {
      const [width, height] = [Math.min(x + side, x2) - Math.max(x, x1), Math.min(y + side, y2) - Math.max(y, y1)];
      return sum + Math.max(width, 0) * Math.max(height, 0);
    }, 0);
  const [x, y] = spots.reduce((best, spot) => (crowd(spot) < crowd(best) ? spot : best));
  const label = labels.length ? (labels[labels.length - 1] + 1) % scene.classes.length : 0;
  const box = /** @type {Box} */ ([x + 4, y + 4, x + side - 4, y + side - 4]);
  store.change({ boxes: [...boxes, box], labels: [...labels, label], box: boxes.length }, `add ${boxes.length}`);
  store.lift();
}

/**
 * @param {Element} parent
 * @param {Lab} lab
 * @param {("moment" | "topk" | "iouWeight" | "radius" | "logit" | "target" | "raw")[]} names
 */
export function makeSliders(parent, lab, names) {
  const { store, scene } = lab;
  const rows = names.map((name) => {
    const row = make(parent, "label", { class: "lab-slider" });
    make(row, "span", {}, WORDS[name]);
    const [min, max, step] = name === "moment" ? [0, scene.moments.length - 1, 1] : RANGES[name];
    /** @type {HTMLInputElement} */
    const input = make(row, "input", { type: "range", name, min, max, step });
    const output = make(row, "span", { class: "value" });
    input.addEventListener("input", () => store.change({ [name]: Number(input.value) }, `slider ${name}`));
    input.addEventListener("change", () => store.lift());
    return { name, input, output };
  });
  return () => {
    for (const { name, input, output } of rows) {
      const value = store.state[name];
      const words = name === "moment" ? scene.moments[value] : String(value).replace("-", "−");
      if (Number(input.value) !== value) input.value = String(value);
      say(output, words);
      set(input, { "aria-valuetext": words });
    }
  };
}

/**
 * Choices of which one holds.
 *
 * @param {Element} parent
 * @param {string} legend
 * @param {string[]} choices
 * @param {(index: number) => void} choose
 */
export function makeChoice(parent, legend, choices, choose) {
  const group = make(parent, "fieldset", { class: "lab-choice" });
  make(group, "legend", {}, legend);
  const name = `lab-choice-${document.querySelectorAll(".lab-choice").length}`;
  const inputs = choices.map((text, index) => {
    const row = make(group, "label");
    /** @type {HTMLInputElement} */
    const input = make(row, "input", { type: "radio", name });
    make(row, "span", {}, text);
    input.addEventListener("change", () => choose(index));
    return input;
  });
  return (/** @type {number} */ chosen) => inputs.forEach((input, index) => (input.checked = index === chosen));
}

/**
 * Undo, back to the start, a link.
 *
 * @param {Element} parent
 * @param {Lab} lab
 * @param {string} view
 */
export function makeTools(parent, lab, view) {
  const { store } = lab;
  const row = make(parent, "div", { class: "lab-tools" });
  const undo = button(row, "Undo", store.undo);
  button(row, "Back to the start", () => {
    store.change(store.limits.start, "reset");
    store.lift();
  });
  const link = button(row, "Copy a link", async () => {
    history.replaceState(null, "", `#${HASH}view=${view}&${write(store.state)}`);
    try {
      await navigator.clipboard.writeText(location.href);
      say(link, "Copied");
    } catch {
      say(link, "It is in the address bar"); // without the right to the clipboard
    }
    setTimeout(() => say(link, "Copy a link"), 3000);
  });
  return () => {
    undo.disabled = !store.canUndo;
  };
}
