// The class loss as a landscape, and what a number of the network means as a distance.

import { giou } from "../boxes.js";
import { digits, liveLine, make, set, signed, table, viridis } from "../dom.js";
import { distance, giouLoss, qualityFocalLoss } from "../losses.js";
import { makeBench, makeChoice, makeSliders } from "../panel.js";
import { sigmoid } from "../priors.js";

/** @typedef {import("../data.js").Lab} Lab */

const LOGITS = [-6, 6];
const RAWS = [-2, 5];
const CELLS = 96;
const DEAREST = 4; // the loss at the dark end of the landscape
const WIDE = 100;
const HIGH = 60;

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const { store } = lab;
  const one = makeBench(root);
  const drawLandscape = makeLandscape(one.left, lab);
  const drawSliders = makeSliders(one.right, lab, ["logit", "target"]);
  const drawCut = makeCurve(one.right, "The loss along this soft label, and its slope (dashed)", "logit", "loss, slope");
  const fill = table(one.right, "The class loss at this place", ["score", "soft label", "loss", "slope"]);
  const say = liveLine(one.right);

  const two = makeBench(root);
  make(two.left, "p", { class: "lab-title" }, "A distance: the right side of the box of a prior");
  const drawSide = makeSide(two.left, lab);
  const choose = makeChoice(two.right, "Distance in pixels", ["8 × the number", "8 × exp(number)"], (exponential) => {
    store.change({ exponential }, "exponential");
    store.lift();
  });
  const drawRaw = makeSliders(two.right, lab, ["raw"]);
  const drawPull = makeCurve(two.right, "Box loss against the number; the other setting (dashed)", "number", "1 − GIoU");
  const sayBox = liveLine(two.right);

  return () => {
    const { logit, target, raw, exponential } = store.state;
    drawSliders();
    drawLandscape();
    const at = (/** @type {number} */ x) => qualityFocalLoss(x, target);
    drawCut(LOGITS, [0, 2], logit, [(x) => at(x).loss, (x) => Math.abs(at(x).slope)]);
    const { loss, slope } = at(logit);
    const score = sigmoid(logit);
    fill([{ cells: [score.toFixed(2), target.toFixed(2), digits(loss), signed(slope)] }]);
    const way = Math.abs(slope) < 0.0005 ? "nothing pulls" : slope < 0 ? "the score is pushed up" : "the score is pushed down";
    say(`Score ${score.toFixed(2)}, soft label ${target.toFixed(2)}: loss ${digits(loss)}, ${way}.`);

    choose(exponential);
    drawRaw();
    drawSide();
    const lossAt = (/** @type {boolean} */ exp) => (/** @type {number} */ x) => boxLoss(lab, x, exp).loss;
    drawPull(RAWS, [0, 1.2], raw, [lossAt(exponential === 1), lossAt(exponential !== 1)]);
    const now = boxLoss(lab, raw, exponential === 1);
    const step = 0.01;
    const pull = (boxLoss(lab, raw + step, exponential === 1).loss - boxLoss(lab, raw - step, exponential === 1).loss) / (2 * step);
    const value = now.pixels.toFixed(1).replace("-", "−");
    sayBox(`${value} pixels to the right: box loss ${digits(now.loss)}, slope ${signed(pull)} for each unit of the number.${now.pixels < 0 ? " The sides are swapped." : ""}`);
  };
}

/**
 * The followed prior's box at the end of the training, with another right side, against the box that it learns.
 *
 * @param {Lab} lab
 * @param {number} raw
 * @param {boolean} exponential
 */
function boxLoss({ scene, priors, given }, raw, exponential) {
  const { x, stride } = priors[scene.follow];
  const pixels = distance(raw, stride, exponential);
  const [x1, y1, , y2] = given.boxes.subarray(4 * scene.follow, 4 * scene.follow + 4);
  const box = [x1, y1, x + pixels, y2];
  const truth = scene.boxes[1]; // the car
  return { pixels, box, truth, loss: giouLoss(box, truth), giou: giou(box, truth) };
}

/**
 * Loss at each logit and soft label; the place can be set by pointer too.
 *
 * @param {Element} parent
 * @param {Lab} lab
 */
function makeLandscape(parent, { store }) {
  make(parent, "p", { class: "lab-title" }, "Quality focal loss; dashed: score = soft label");
  const frame = make(parent, "div", { class: "lab-landscape" });
  /** @type {HTMLCanvasElement} */
  const canvas = make(frame, "canvas", { width: CELLS, height: CELLS, role: "img" });
  set(canvas, { "aria-label": "Loss by logit, from −6 on the left to 6, and by soft label, from 0 below to 1" });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const pixels = context.createImageData(CELLS, CELLS);
  const [least, most] = LOGITS;
  for (let cell = 0; cell < CELLS * CELLS; cell++) {
    const [x, y] = [((cell % CELLS) + 0.5) / CELLS, (Math.floor(cell / CELLS) + 0.5) / CELLS];
    const { loss } = qualityFocalLoss(least + x * (most - least), 1 - y);
    pixels.data.set([...viridis(1 - Math.sqrt(loss / DEAREST)), 255], 4 * cell);
  }
  context.putImageData(pixels, 0, 0);
  const svg = make(frame, "svg", { viewBox: "0 0 100 100", "aria-hidden": "true" });
  const valley = Array.from({ length: 101 }, (_, x) => `${x} ${100 * (1 - sigmoid(least + (x / 100) * (most - least)))}`);
  make(svg, "path", { class: "valley", d: `M${valley.join("L")}` });
  const cut = make(svg, "path", { class: "cut" });
  const spot = make(svg, "circle", { class: "spot", r: 2.4 });

  const look = (/** @type {PointerEvent} */ event) => {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const share = (/** @type {number} */ value) => Math.min(Math.max(value, 0), 1);
    const logit = least + share((event.clientX - left) / width) * (most - least);
    const target = 1 - share((event.clientY - top) / height);
    store.change({ logit: Math.round(logit * 10) / 10, target: Math.round(target * 100) / 100 }, "landscape");
  };
  frame.addEventListener("pointerdown", (/** @type {PointerEvent} */ down) => {
    frame.setPointerCapture(down.pointerId);
    look(down);
    frame.addEventListener("pointermove", look);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    frame.addEventListener(end, () => {
      frame.removeEventListener("pointermove", look);
      store.lift();
    });
  }
  return () => {
    const { logit, target } = store.state;
    const [x, y] = [(100 * (logit - least)) / (most - least), 100 * (1 - target)];
    set(cut, { d: `M0 ${y}H100` });
    set(spot, { cx: x, cy: y });
  };
}

/**
 * Curves over a slider's range and a line where it stands.
 *
 * @param {Element} parent
 * @param {string} title
 * @param {string} across
 * @param {string} along
 */
function makeCurve(parent, title, across, along) {
  const figure = make(parent, "figure", { class: "lab-curve" });
  make(figure, "figcaption", {}, title);
  const svg = make(figure, "svg", { viewBox: `-9 -2 ${WIDE + 12} ${HIGH + 12}`, role: "img", "aria-label": `${title}: ${along} against ${across}` });
  make(svg, "path", { class: "axis", d: `M0 0V${HIGH}H${WIDE}` });
  const low = make(svg, "text", { x: 0, y: HIGH + 7 });
  const high = make(svg, "text", { x: WIDE, y: HIGH + 7, "text-anchor": "end" });
  make(svg, "text", { x: WIDE / 2, y: HIGH + 7, "text-anchor": "middle" }, across);
  const top = make(svg, "text", { x: -2, y: 4, "text-anchor": "end" });
  make(svg, "text", { x: -2, y: HIGH, "text-anchor": "end" }, "0");
  const line = make(svg, "path", { class: "place" });
  const other = make(svg, "path", { class: "dashed" });
  const curve = make(svg, "path", { class: "curve" });
  /**
   * @param {number[]} range
   * @param {number[]} values
   * @param {number} place
   * @param {((x: number) => number)[]} functions
   */
  return ([from, to], [least, most], place, functions) => {
    const points = (/** @type {(x: number) => number} */ value) =>
      Array.from({ length: 121 }, (_, index) => {
        const share = (value(from + ((to - from) * index) / 120) - least) / (most - least);
        return `${((WIDE * index) / 120).toFixed(2)} ${(HIGH * (1 - Math.min(Math.max(share, 0), 1.02))).toFixed(2)}`;
      });
    set(curve, { d: `M${points(functions[0]).join("L")}` });
    set(other, { d: `M${points(functions[1]).join("L")}` });
    set(line, { d: `M${(WIDE * (place - from)) / (to - from)} 0V${HIGH}` });
    low.textContent = String(from).replace("-", "−");
    high.textContent = String(to);
    top.textContent = String(most);
  };
}

/** @param {Element} parent @param {Lab} lab */
function makeSide(parent, lab) {
  const { scene, store, priors } = lab;
  const frame = make(parent, "div", { class: "lab-scene still" });
  const svg = make(frame, "svg", { viewBox: `0 0 ${scene.size} ${scene.size}`, role: "img" });
  make(svg, "image", { href: lab.image, width: scene.size, height: scene.size });
  const truth = make(svg, "rect", { class: "side", style: "--box: #ee7733" });
  const guess = make(svg, "rect", { class: "guess" });
  const { x, y } = priors[scene.follow];
  make(svg, "circle", { class: "lab-ring", cx: x, cy: y, r: 2.4 });
  const reach = make(svg, "path", { class: "reach" });
  return () => {
    const { raw, exponential } = store.state;
    const { box, truth: car, pixels } = boxLoss(lab, raw, exponential === 1);
    const [left, right] = [Math.min(box[0], box[2]), Math.max(box[0], box[2])];
    set(truth, { x: car[0], y: car[1], width: car[2] - car[0], height: car[3] - car[1] });
    set(guess, { x: left, y: box[1], width: right - left, height: box[3] - box[1] });
    set(reach, { d: `M${x} ${y}h${pixels}` });
    set(svg, { "aria-label": `The car's box ends at ${car[2]}, the predicted one at ${box[2].toFixed(0)}` });
  };
}
