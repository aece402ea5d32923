// Which prior learns which box: minirtmdet.reference.assignment, step by step, for all priors at once.
//
// A table of G boxes and N priors is a Float32Array with the number of box g and prior n at g * N + n.  What is
// impossible costs infinity.  tests/book/test_lab_numbers.py holds every step to the package on random cases.

import { center, f32, inside, iou } from "./boxes.js";
import { sigmoid, softplus } from "./priors.js";

/** @typedef {import("./boxes.js").Box} Box */
/** @typedef {import("./priors.js").Prior} Prior */
/** @typedef {import("./priors.js").Predictions} Predictions */

/** @typedef {{ topk: number, iouWeight: number, radius: number }} Settings */

/**
 * @typedef {object} Costs
 * @property {Float32Array} ious [G,N], 0 where impossible
 * @property {Float32Array} classes [G,N]
 * @property {Float32Array} overlap [G,N], with its weight
 * @property {Float32Array} center [G,N]
 * @property {Float32Array} total [G,N]
 */

/**
 * @typedef {object} Assignment
 * @property {Uint8Array} candidates [N], 1 inside any box
 * @property {Costs} costs
 * @property {number[]} sums [G], of each box's best IoUs
 * @property {number[]} ks [G]
 * @property {Uint8Array} wishes [G,N], 1 where a box takes a prior
 * @property {Uint8Array} contested [N], 1 where several boxes do
 * @property {Int32Array} owners [N], 0 for background and g + 1 for box g
 * @property {Float32Array} ious [N], with the owner, 0 on background
 */

const EPS = f32(1e-7);
const MAX_EXPONENT = 38;
export const RECIPE = Object.freeze({ topk: 13, iouWeight: 3, radius: 3 });

/**
 * Priors strictly inside at least one box.
 *
 * @param {Prior[]} priors
 * @param {Box[]} boxes
 */
export function candidates(priors, boxes) {
  return Uint8Array.from(priors, ({ x, y }) => Number(boxes.some((box) => inside(x, y, box))));
}

/**
 * Quality focal loss of a prior, had it this box, summed over the classes.
 *
 * All classes but the box's own have target 0 whatever the box is, and that sum is known: only the own class is
 * exchanged.
 *
 * @param {number} background the loss of the prior as background
 * @param {number} logit of the box's class
 * @param {number} target the IoU
 */
export function classCost(background, logit, target) {
  const [probability, entropy] = [sigmoid(logit), softplus(logit)];
  const own = (entropy - logit * target) * (target - probability) ** 2;
  return f32(background + own - entropy * probability ** 2);
}

/** Minus the logarithm of the IoU. @param {number} overlap */
export const iouCost = (overlap) => f32(-Math.log(f32(overlap + EPS)));

/**
 * Ten to the power of the distance in strides, minus the radius.
 *
 * @param {Prior} prior
 * @param {[number, number]} middle
 * @param {number} radius
 */
export function centerCost({ x, y, stride }, [cx, cy], radius) {
  const [dx, dy] = [f32(x - cx), f32(y - cy)];
  const distance = f32(f32(Math.sqrt(f32(f32(dx * dx) + f32(dy * dy)))) / stride);
  return f32(10 ** Math.min(f32(distance - radius), MAX_EXPONENT));
}

/**
 * The three costs of every pair, and their sum.
 *
 * @param {Predictions} given
 * @param {Prior[]} priors
 * @param {Uint8Array} isCandidate
 * @param {Box[]} boxes
 * @param {number[]} labels
 * @param {Settings} settings
 * @returns {Costs}
 */
export function costs(given, priors, isCandidate, boxes, labels, settings) {
  const size = boxes.length * priors.length;
  const never = () => new Float32Array(size).fill(Infinity);
  const all = { ious: new Float32Array(size), classes: never(), overlap: never(), center: never(), total: never() };
  boxes.forEach((box, g) => {
    const middle = center(box);
    for (let n = 0; n < priors.length; n++) {
      if (!isCandidate[n]) continue;
      const place = g * priors.length + n;
      const overlap = iou(given.boxes.subarray(4 * n, 4 * n + 4), box);
      all.ious[place] = overlap;
      all.classes[place] = classCost(given.background[n], given.logits[n * given.classes + labels[g]], overlap);
      all.overlap[place] = iouCost(overlap) * settings.iouWeight;
      all.center[place] = centerCost(priors[n], middle, settings.radius);
      all.total[place] = f32(all.classes[place] + all.overlap[place]) + all.center[place];
    }
  });
  return all;
}

/**
 * The sum of a box's best IoUs.
 *
 * @param {Float32Array} ious of one box
 * @param {number} topk how many
 */
export function sumOfBest(ious, topk) {
  const best = ious.slice().sort().reverse().subarray(0, topk);
  return best.reduce((sum, value) => f32(sum + value), 0);
}

/**
 * The k priors of least cost, of equals the first.
 *
 * @param {Float32Array} cost of one box
 * @param {number} k
 * @returns {number[]}
 */
export function cheapest(cost, k) {
  const order = [];
  for (let n = 0; n < cost.length; n++) if (cost[n] < Infinity) order.push(n);
  return order.sort((a, b) => cost[a] - cost[b] || a - b).slice(0, k);
}

/**
 * Each box takes its cheapest priors; one that several boxes took goes to the cheapest of all boxes.
 *
 * @param {Float32Array} total [G,N]
 * @param {Float32Array} ious [G,N]
 * @param {number[]} ks
 * @param {number} count N
 */
export function match(total, ious, ks, count) {
  const wishes = new Uint8Array(total.length);
  ks.forEach((k, g) => {
    for (const n of cheapest(total.subarray(g * count, (g + 1) * count), k)) wishes[g * count + n] = 1;
  });
  const owners = new Int32Array(count);
  const contested = new Uint8Array(count);
  const overlaps = new Float32Array(count);
  for (let n = 0; n < count; n++) {
    const takers = ks.flatMap((_, g) => (wishes[g * count + n] ? [g] : []));
    if (takers.length === 0) continue;
    contested[n] = Number(takers.length > 1);
    const rivals = contested[n] ? ks.map((_, g) => g) : takers;
    const owner = rivals.reduce((best, g) => (total[g * count + n] < total[best * count + n] ? g : best));
    owners[n] = owner + 1;
    overlaps[n] = ious[owner * count + n];
  }
  return { wishes, contested, owners, ious: overlaps };
}

/**
 * All steps in order.
 *
 * @param {Predictions} given
 * @param {Prior[]} priors
 * @param {Box[]} boxes
 * @param {number[]} labels
 * @param {Settings} settings
 * @returns {Assignment}
 */
export function assign(given, priors, boxes, labels, settings = RECIPE) {
  const isCandidate = candidates(priors, boxes);
  const table = costs(given, priors, isCandidate, boxes, labels, settings);
  const rows = boxes.map((_, g) => table.ious.subarray(g * priors.length, (g + 1) * priors.length));
  const sums = rows.map((row) => sumOfBest(row, settings.topk));
  const ks = sums.map((sum) => Math.max(Math.floor(sum), 1));
  return { candidates: isCandidate, costs: table, sums, ks, ...match(table.total, table.ious, ks, priors.length) };
}
