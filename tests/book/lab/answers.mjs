// What the lab's modules say to cases from Python; run by node or by a browser (tests/helpers/javascript.py).

import { assign } from "../../../book/_static/lab/assignment.js";
import { fcos, gridAnchors, maxIou, simOta } from "../../../book/_static/lab/assigners.js";
import { giou, iou } from "../../../book/_static/lab/boxes.js";
import { distance, giouLoss, qualityFocalLoss } from "../../../book/_static/lab/losses.js";
import { detect, normalise, readWeights, run } from "../../../book/_static/lab/network.js";
import { decode, gridPriors, predictions } from "../../../book/_static/lab/priors.js";
import { read, write } from "../../../book/_static/lab/store.js";

const rows = (values, width) =>
  Array.from({ length: values.length / width }, (_, row) => values.slice(row * width, (row + 1) * width));

function scene({ size, logits, distances, boxes, labels, topk, iouWeight, radius }) {
  const priors = gridPriors(size);
  const given = predictions(Float32Array.from(logits), decode(priors, Float32Array.from(distances)));
  const soft = assign(given, priors, boxes, labels, { topk, iouWeight, radius });
  const ota = simOta(given, priors, boxes, labels);
  return {
    soft: { owners: [...soft.owners], ious: [...soft.ious], ks: soft.ks, contested: [...soft.contested] },
    costs: Object.fromEntries(
      Object.entries(soft.costs).map(([name, table]) => [name, [...table].map((cost) => (cost < Infinity ? cost : -1))]),
    ),
    maxIou: [...maxIou(gridAnchors(priors), boxes)],
    fcos: [...fcos(priors, boxes)],
    simOta: { owners: [...ota.owners], ious: [...ota.ious], ks: ota.ks },
  };
}

const kinds = {
  scene,
  overlaps: ({ pairs }) => rows(pairs, 8).map((p) => [iou(p.slice(0, 4), p.slice(4)), giou(p.slice(0, 4), p.slice(4))]),
  focal: ({ pairs }) => rows(pairs, 2).map(([logit, target]) => Object.values(qualityFocalLoss(logit, target))),
  giouLoss: ({ pairs }) => rows(pairs, 8).map((p) => giouLoss(p.slice(0, 4), p.slice(4))),
  distance: ({ raws, stride, exponential }) => raws.map((raw) => distance(raw, stride, exponential)),
  priors: ({ size, offset }) => gridPriors(size, offset).map(({ x, y, stride }) => [x, y, stride, stride]),
  network: ({ weights, rgba, threshold }) => {
    const file = Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0)).buffer;
    const { maps, logits, distances } = run(readWeights(file), normalise(rgba));
    const sums = Object.entries(maps).map(([name, map]) => [name, map.channels, map.size, map.data.reduce((a, b) => a + b)]);
    return { sums, logits: [...logits], distances: [...distances], found: detect(logits, distances, threshold) };
  },
  // a state to the words of a link and back
  link: ({ state, limits }) => ({ words: write(state), state: read(write(state), limits) }),
  words: ({ words, limits }) => read(words, limits),
};

/** @param {{ kind: string }[]} cases */
export const answers = (cases) => cases.map(({ kind, ...given }) => kinds[kind](given));
