// The two losses of RTMDet, for one number and one box: minirtmdet.head.losses.

import { f32, giou } from "./boxes.js";
import { sigmoid, softplus } from "./priors.js";

/**
 * Quality focal loss of one class of one prior, and its slope by the logit.
 *
 * @param {number} logit
 * @param {number} target the soft label: an IoU, or 0
 */
export function qualityFocalLoss(logit, target) {
  const probability = sigmoid(logit);
  const entropy = softplus(logit) - logit * target;
  const gap = probability - target;
  const slope = gap * (gap * gap + 2 * probability * (1 - probability) * entropy);
  return { loss: f32(entropy * gap * gap), slope: f32(slope) };
}

/**
 * @param {ArrayLike<number>} predicted
 * @param {ArrayLike<number>} truth
 */
export const giouLoss = (predicted, truth) => f32(1 - giou(predicted, truth));

/**
 * Distance in pixels that a network's number stands for.
 *
 * @param {number} raw
 * @param {number} stride
 * @param {boolean} exponential exp_on_reg
 */
export const distance = (raw, stride, exponential) => f32((exponential ? f32(Math.exp(raw)) : raw) * stride);
