// Three assigners that came before RTMDet's: minirtmdet.reference.assigners, in the same order of operations.
//
// Owners are 0 for background, g + 1 for box g, and -1 for what learns nothing.

import { area, center, f32, inside, iou } from "./boxes.js";
import { iouCost, match, sumOfBest } from "./assignment.js";
import { sigmoid } from "./priors.js";

/** @typedef {import("./boxes.js").Box} Box */
/** @typedef {import("./priors.js").Prior} Prior */
/** @typedef {import("./priors.js").Predictions} Predictions */

const SCALES = [4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)].map(f32);
const RATIOS = [0.5, 1, 2];
const POSITIVE_IOU = 0.5;
const NEGATIVE_IOU = f32(0.4);
export const ANCHORS = SCALES.length * RATIOS.length;
/** @type {Record<number, [number, number]>} */
const REACH = { 8: [-1, 64], 16: [64, 128], 32: [128, Infinity] };
const SAMPLE_RADIUS = 1.5;
const CENTER_RADIUS = 2.5;
const OUT_OF_REACH = 1e5;

/**
 * Nine boxes of fixed sizes around every prior.
 *
 * @param {Prior[]} priors
 * @returns {Float32Array} [N,9,4]
 */
export function gridAnchors(priors) {
  const sizes = RATIOS.flatMap((ratio) => {
    const tall = f32(Math.sqrt(ratio));
    return SCALES.map((side) => [f32(f32(1 / tall) * side), f32(tall * side)]);
  });
  const anchors = priors.flatMap(({ x, y, stride }) =>
    sizes.flatMap(([width, height]) => {
      const [w, h] = [f32(0.5 * width * stride), f32(0.5 * height * stride)];
      return [x - w, y - h, x + w, y + h];
    }),
  );
  return Float32Array.from(anchors);
}

/**
 * Each anchor learns the box that it overlaps most.
 *
 * @param {Float32Array} anchors [M,4]
 * @param {Box[]} boxes
 * @returns {Int32Array} owner of each anchor
 */
export function maxIou(anchors, boxes) {
  const count = anchors.length / 4;
  const owners = new Int32Array(count);
  if (boxes.length === 0) return owners;
  const ious = boxes.map((box) =>
    Float32Array.from({ length: count }, (_, m) => iou(box, anchors.subarray(4 * m, 4 * m + 4))),
  );
  for (let m = 0; m < count; m++) {
    const box = ious.reduce((best, row, g) => (row[m] > ious[best][m] ? g : best), 0);
    const best = ious[box][m];
    if (best >= NEGATIVE_IOU) owners[m] = -1;
    if (best >= POSITIVE_IOU) owners[m] = box + 1;
  }
  // every box has its best anchor, whatever else that one was to learn
  ious.forEach((row, g) => {
    const highest = row.reduce((best, value) => Math.max(best, value), 0);
    row.forEach((value, m) => {
      if (value === highest) owners[m] = g + 1;
    });
  });
  return owners;
}

/**
 * Each point learns the smallest box around it, if its level has that size.
 *
 * @param {Prior[]} priors
 * @param {Box[]} boxes
 */
export function fcos(priors, boxes) {
  return Int32Array.from(priors, ({ x, y, stride }) => {
    let owner = 0;
    let smallest = Infinity;
    boxes.forEach((box, g) => {
      const reach = Math.max(f32(x - box[0]), f32(y - box[1]), f32(box[2] - x), f32(box[3] - y));
      const [least, most] = REACH[stride];
      const size = area(box);
      if (reach < least || reach > most || !inside(x, y, around(box, SAMPLE_RADIUS * stride, true))) return;
      if (size < smallest) [owner, smallest] = [g + 1, size];
    });
    return owner;
  });
}

/**
 * A square around a box's centre.
 *
 * @param {Box} box
 * @param {number} reach half its side
 * @param {boolean} within whether it ends where the box ends
 * @returns {Box}
 */
function around(box, reach, within) {
  const [x, y] = center(box);
  const square = /** @type {Box} */ ([f32(x - reach), f32(y - reach), f32(x + reach), f32(y + reach)]);
  if (!within) return square;
  return /** @type {Box} */ (square.map((side, i) => (i < 2 ? Math.max(side, box[i]) : Math.min(side, box[i]))));
}

/**
 * The k cheapest priors of each box learn it (YOLOX).
 *
 * @param {Predictions} given
 * @param {Prior[]} priors
 * @param {Box[]} boxes
 * @param {number[]} labels
 * @param {{ topk: number, iouWeight: number }} settings
 */
export function simOta(given, priors, boxes, labels, settings = { topk: 10, iouWeight: 3 }) {
  const count = priors.length;
  const total = new Float32Array(boxes.length * count).fill(Infinity);
  const ious = new Float32Array(boxes.length * count);
  priors.forEach((prior, n) => {
    const inBox = boxes.map((box) => inside(prior.x, prior.y, box));
    const inCenter = boxes.map((box) => inside(prior.x, prior.y, around(box, CENTER_RADIUS * prior.stride, false)));
    if (!inBox.some(Boolean) && !inCenter.some(Boolean)) return;
    const logits = given.logits.subarray(n * given.classes, (n + 1) * given.classes);
    const silence = logits.reduce((sum, logit) => sum + crossEntropy(1 - sigmoid(logit)), 0);
    boxes.forEach((box, g) => {
      const place = g * count + n;
      const score = sigmoid(logits[labels[g]]);
      ious[place] = iou(given.boxes.subarray(4 * n, 4 * n + 4), box);
      const classes = f32(silence - crossEntropy(1 - score) + crossEntropy(score));
      const far = inBox[g] && inCenter[g] ? 0 : OUT_OF_REACH;
      total[place] = f32(classes + f32(iouCost(ious[place]) * settings.iouWeight)) + far;
    });
  });
  const rows = boxes.map((_, g) => ious.subarray(g * count, (g + 1) * count));
  const ks = rows.map((row) => Math.max(Math.floor(sumOfBest(row, settings.topk)), 1));
  return { ks, total, ...match(total, ious, ks, count) };
}

/** Minus the logarithm of a probability; PyTorch's ends at 100. @param {number} probability */
const crossEntropy = (probability) => -Math.max(Math.log(f32(probability)), -100);
