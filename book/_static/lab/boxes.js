// Geometry of boxes, in fp32 as minirtmdet.boxes has it: each operation is rounded, so that IoUs are the same to the
// last digit.  Boxes are `xyxy` in pixels.

/** @typedef {[number, number, number, number]} Box */

export const f32 = Math.fround;
const EPS = f32(1e-6);

/** @param {number} value @param {number} least @param {number} most */
export const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

/**
 * @param {ArrayLike<number>} box
 * @returns {number} square pixels
 */
export function area(box) {
  return f32(f32(box[2] - box[0]) * f32(box[3] - box[1]));
}

/**
 * @param {ArrayLike<number>} box
 * @returns {[number, number]}
 */
export function center(box) {
  return [f32(f32(box[0] + box[2]) / 2), f32(f32(box[1] + box[3]) / 2)];
}

/**
 * Overlap and union of two boxes, in square pixels.
 *
 * @param {ArrayLike<number>} a
 * @param {ArrayLike<number>} b
 */
function shared(a, b) {
  const width = Math.max(f32(Math.min(a[2], b[2]) - Math.max(a[0], b[0])), 0);
  const height = Math.max(f32(Math.min(a[3], b[3]) - Math.max(a[1], b[1])), 0);
  const overlap = f32(width * height);
  return { overlap, union: Math.max(f32(f32(area(a) + area(b)) - overlap), EPS) };
}

/**
 * Intersection over union.
 *
 * @param {ArrayLike<number>} a
 * @param {ArrayLike<number>} b
 */
export function iou(a, b) {
  const { overlap, union } = shared(a, b);
  return f32(overlap / union);
}

/**
 * IoU minus the empty share of the hull around both.
 *
 * @param {ArrayLike<number>} a
 * @param {ArrayLike<number>} b
 */
export function giou(a, b) {
  const { overlap, union } = shared(a, b);
  const width = Math.max(f32(Math.max(a[2], b[2]) - Math.min(a[0], b[0])), 0);
  const height = Math.max(f32(Math.max(a[3], b[3]) - Math.min(a[1], b[1])), 0);
  const hull = Math.max(f32(width * height), EPS);
  return f32(f32(overlap / union) - f32(f32(hull - union) / hull));
}

/**
 * Whether a point lies strictly inside: on the border is outside.
 *
 * @param {number} x
 * @param {number} y
 * @param {ArrayLike<number>} box
 */
export function inside(x, y, box) {
  return x > box[0] && y > box[1] && x < box[2] && y < box[3];
}
