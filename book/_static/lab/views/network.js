// The detector itself: it looks at an image, in the page, and can be opened.

import { boxColor, button, liveLine, make, say as write, set, viridis } from "../dom.js";
import { detect, SIZE } from "../network.js";
import { gridPriors } from "../priors.js";

/** @typedef {import("../data.js").Lab} Lab */
/** @typedef {import("../network.js").FeatureMap} FeatureMap */
/** @typedef {import("../network.js").Detection} Detection */
/** @typedef {{ maps: Record<string, FeatureMap>, logits: Float32Array, distances: Float32Array, milliseconds: number }} Answer */

const GREY = "rgb(114, 114, 114)"; // what training pads with
const SHOWN = 12; // detections in the list

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const bench = make(root, "div", { class: "lab-bench" });
  const [left, right] = [make(bench, "div"), make(bench, "div")];
  const frame = make(left, "div", { class: "lab-scene still lab-live" });
  /** @type {HTMLCanvasElement} */
  const canvas = make(frame, "canvas", { width: SIZE, height: SIZE, "aria-hidden": "true" });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const over = make(frame, "svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", "aria-label": "The image" });
  const say = liveLine(left);
  const sources = make(right, "div", { class: "lab-sources" });
  const begin = button(sources, "Start: loads 1.9 MB, once", () => look());
  const list = make(right, "div", { class: "lab-found", role: "group", "aria-label": "Detections" });
  const inside = make(root, "div", { class: "lab-inside" });
  /** @type {Worker | null} */
  let worker = null;
  /** @type {Answer | null} */
  let answer = null;
  let [threshold, chosen, channel, scene] = [0.3, 0, 0, -1];
  /** @type {Detection[]} */
  let found = [];

  const controls = {
    another: button(sources, "Another scene", () => {
      scene += 1;
      drawStrip(scene);
    }),
    file: make(make(sources, "label", { class: "lab-file" }, "Your image "), "input", { type: "file", accept: "image/*" }),
    threshold: slider(right, "least score", [0.05, 0.95, 0.05], threshold, (value) => {
      threshold = value;
      show();
    }),
    channel: slider(right, "channel", [0, 64, 1], 0, (value) => {
      channel = value;
      drawInside();
    }),
  };
  const enable = (/** @type {boolean} */ able) => {
    for (const one of [controls.another, controls.file, controls.threshold.input, controls.channel.input]) one.disabled = !able;
  };
  controls.file.addEventListener("change", () => {
    const [file] = controls.file.files ?? [];
    if (file) drawFile(file);
  });
  enable(false);
  drawImage(lab.image, (image) => context.drawImage(image, 0, 0));
  say("The detector that make train makes. Nothing leaves this page: it computes in your browser.");

  /** @param {string} address @param {(image: HTMLImageElement) => void} draw */
  function drawImage(address, draw) {
    const image = new Image();
    image.addEventListener("load", () => draw(image));
    image.addEventListener("error", () => say("The image could not be loaded."));
    image.src = address;
  }

  /** @param {number} index */
  function drawStrip(index) {
    drawImage(lab.scenes, (image) => {
      const count = image.naturalWidth / SIZE;
      context.drawImage(image, (index % count) * SIZE, 0, SIZE, SIZE, 0, 0, SIZE, SIZE);
      look();
    });
  }

  /** The reader's own image, as large as fits, its sides in proportion. @param {File} file */
  async function drawFile(file) {
    try {
      const image = await createImageBitmap(file);
      const scale = SIZE / Math.max(image.width, image.height);
      context.fillStyle = GREY;
      context.fillRect(0, 0, SIZE, SIZE);
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, image.width * scale, image.height * scale);
      look();
    } catch {
      say(`${file.name} cannot be read as an image.`);
    }
  }

  /** Ask the network about what is on the canvas. */
  function look() {
    worker ??= new Worker(new URL("../network-worker.js", import.meta.url), { type: "module" });
    begin.disabled = true;
    enable(false);
    if (!answer) write(begin, "Loading…");
    worker.onmessage = ({ data }) => {
      if (data.error) return fail(data.error);
      begin.remove();
      enable(true);
      answer = data;
      chosen = 0;
      set(root, { "data-ready": "" });
      show();
    };
    worker.onerror = () => fail("this browser cannot run it");
    worker.postMessage(context.getImageData(0, 0, SIZE, SIZE).data);
  }

  /** @param {string} reason */
  function fail(reason) {
    worker?.terminate();
    worker = null;
    begin.disabled = false;
    write(begin, "Try again");
    say(`The network could not be loaded: ${reason}.`);
  }

  function show() {
    if (!answer) return;
    found = detect(answer.logits, answer.distances, threshold);
    chosen = Math.min(chosen, Math.max(found.length - 1, 0));
    drawFound();
    drawInside();
  }

  function drawFound() {
    if (!answer) return;
    while (list.children.length > Math.min(found.length, SHOWN)) list.lastElementChild?.remove();
    found.slice(0, SHOWN).forEach(({ label, score, prior }, index) => {
      const row = list.children[index] ?? button(list, "", () => choose(index));
      write(row, `${lab.scene.classes[label]} ${score.toFixed(2)}, by prior ${prior}, stride ${lab.priors[prior].stride}`);
      set(row, { style: `--box: ${boxColor(label)}`, "aria-pressed": String(index === chosen) });
    });
    const grid = gridPriors(SIZE);
    over.replaceChildren();
    found.forEach(({ box: [x1, y1, x2, y2], label, prior }, index) => {
      const style = `--box: ${boxColor(label)}`;
      make(over, "rect", { class: "side halo", x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
      make(over, "rect", { class: "side", style, x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
      if (index !== chosen) return;
      const { x, y } = grid[prior];
      make(over, "path", { class: "reach", d: `M${x1} ${y}H${x2}M${x} ${y1}V${y2}` });
      make(over, "circle", { class: "lab-ring", cx: x, cy: y, r: 4.4 });
    });
    const names = found.map(({ label, score }) => `${lab.scene.classes[label]} ${score.toFixed(2)}`);
    const time = `${Math.round(answer.milliseconds)} ms`;
    say(names.length ? `Found in ${time}: ${names.slice(0, SHOWN).join(", ")}.` : `Nothing reaches ${threshold} (${time}).`);
    set(over, { "aria-label": `The image with ${found.length} detections` });
  }

  /** @param {number} index */
  function choose(index) {
    chosen = index;
    drawFound();
    drawInside();
  }

  /** Every map on the way, and the cell of each that lies where the chosen detection's prior is. */
  function drawInside() {
    if (!answer) return;
    const one = found[chosen];
    const rows = Object.entries(answer.maps).map(([name, map]) => ({ name, size: map.size, values: valuesOf(map, channel) }));
    if (one) {
      const { logits } = answer;
      const classes = lab.scene.classes.length;
      let first = 0;
      for (const stride of [8, 16, 32]) {
        const size = SIZE / stride;
        const start = first;
        const values = Float32Array.from({ length: size * size }, (_, cell) => logits[(start + cell) * classes + one.label]);
        rows.push({ name: `logit of ${lab.scene.classes[one.label]}, stride ${stride}`, size, values });
        first += size * size;
      }
    }
    while (inside.children.length > rows.length) inside.lastElementChild?.remove();
    rows.forEach(({ name, size, values }, index) => {
      const figure = inside.children[index] ?? makeMap(inside);
      write(figure.children[0], name);
      const place = figure.querySelector("rect");
      paint(figure.querySelector("canvas"), size, values);
      set(figure.querySelector("svg"), { viewBox: `0 0 ${size} ${size}` });
      const prior = one && lab.priors[one.prior];
      const stride = SIZE / size;
      if (prior) set(place, { x: Math.floor(prior.x / stride), y: Math.floor(prior.y / stride), width: 1, height: 1 });
      else set(place, { width: 0, height: 0 });
    });
  }
  return () => {};
}

/**
 * A slider of this view alone.
 *
 * @param {Element} parent
 * @param {string} words
 * @param {number[]} range
 * @param {number} start
 * @param {(value: number) => void} change
 */
function slider(parent, words, [min, max, step], start, change) {
  const row = make(parent, "label", { class: "lab-slider" });
  make(row, "span", {}, words);
  /** @type {HTMLInputElement} */
  const input = make(row, "input", { type: "range", min, max, step, value: start });
  const told = (/** @type {number} */ value) => (words === "channel" && value === 0 ? "mean" : String(value));
  const output = make(row, "span", { class: "value" }, told(start));
  input.addEventListener("input", () => {
    write(output, told(Number(input.value)));
    set(input, { "aria-valuetext": told(Number(input.value)) });
    change(Number(input.value));
  });
  return { input };
}

/** The mean size of all channels, or one channel, counted from 1. @param {FeatureMap} map @param {number} channel */
function valuesOf({ channels, size, data }, channel) {
  const area = size * size;
  if (channel > 0) return data.subarray(((channel - 1) % channels) * area, (((channel - 1) % channels) + 1) * area);
  const means = new Float32Array(area);
  data.forEach((value, place) => (means[place % area] += Math.abs(value) / channels));
  return means;
}

/** @param {Element} parent */
function makeMap(parent) {
  const figure = make(parent, "figure", { class: "lab-map" });
  make(figure, "figcaption");
  const frame = make(figure, "div");
  make(frame, "canvas", { "aria-hidden": "true" });
  make(make(frame, "svg", { "aria-hidden": "true" }), "rect", { class: "looked" });
  return figure;
}

/** Dark is least, bright is most. @param {HTMLCanvasElement} canvas @param {number} size @param {Float32Array} values */
function paint(canvas, size, values) {
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const pixels = context.createImageData(size, size);
  values.forEach((value, cell) => pixels.data.set([...viridis((value - least) / (most - least || 1)), 255], 4 * cell));
  context.putImageData(pixels, 0, 0);
}
