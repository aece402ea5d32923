// The points of the image that predictions are made from, and what a network said at each.

import { f32 } from "./boxes.js";

export const STRIDES = [8, 16, 32];

/** @typedef {{ x: number, y: number, stride: number, level: number }} Prior */

/**
 * What a network says to an image, flattened over levels: N priors, C classes.
 *
 * @typedef {object} Predictions
 * @property {number} classes C
 * @property {Float32Array} logits [N,C]
 * @property {Float32Array} boxes [N,4], `xyxy` in pixels
 * @property {Float32Array} background [N], what each prior's class loss would be as background
 */

/**
 * The grid of all levels: finest first, row by row (minirtmdet.head.priors.MlvlPointGenerator).
 *
 * @param {number} size of the square image, in pixels
 * @param {number} offset 0: the corner of a cell, 0.5: its middle
 * @returns {Prior[]}
 */
export function gridPriors(size, offset = 0) {
  return STRIDES.flatMap((stride, level) => {
    const cells = Math.ceil(size / stride);
    return Array.from({ length: cells * cells }, (_, index) => {
      const [row, column] = [Math.floor(index / cells), index % cells];
      return { x: (column + offset) * stride, y: (row + offset) * stride, stride, level };
    });
  });
}

/**
 * Boxes from distances to the left, top, right and bottom (minirtmdet.head.coder).
 *
 * @param {Prior[]} priors
 * @param {Float32Array} distances [N,4] in pixels
 */
export function decode(priors, distances) {
  const boxes = new Float32Array(distances.length);
  priors.forEach(({ x, y }, n) => {
    boxes[4 * n] = x - distances[4 * n];
    boxes[4 * n + 1] = y - distances[4 * n + 1];
    boxes[4 * n + 2] = x + distances[4 * n + 2];
    boxes[4 * n + 3] = y + distances[4 * n + 3];
  });
  return boxes;
}

/** @param {number} logit */
export const sigmoid = (logit) => f32(1 / (1 + Math.exp(-logit)));

/** `log(1 + exp(logit))`, without overflow. @param {number} logit */
export const softplus = (logit) => f32(Math.max(logit, 0) + Math.log1p(Math.exp(-Math.abs(logit))));

/**
 * @param {Float32Array} logits [N,C]
 * @param {Float32Array} boxes [N,4]
 * @returns {Predictions}
 */
export function predictions(logits, boxes) {
  const count = boxes.length / 4;
  const classes = count ? logits.length / count : 0;
  const background = new Float32Array(count);
  for (let n = 0; n < count; n++) {
    let sum = 0;
    for (let c = 0; c < classes; c++) {
      const logit = logits[n * classes + c];
      sum += softplus(logit) * sigmoid(logit) ** 2;
    }
    background[n] = sum;
  }
  return { classes, logits, boxes, background };
}
