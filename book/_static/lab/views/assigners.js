// The same boxes, four answers.

import { ANCHORS, fcos, gridAnchors, maxIou, simOta } from "../assigners.js";
import { boxColor, liveLine, make, table } from "../dom.js";
import { makeBench, makeBoxes, makeSliders } from "../panel.js";
import { createScene } from "../scene.js";

const NAMES = ["max-IoU", "FCOS", "SimOTA", "RTMDet"];

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const { store, priors } = lab;
  const anchors = gridAnchors(priors);
  const { left, right, below } = makeBench(root);
  const image = createScene(left, lab, { label: "The scene, its boxes, and RTMDet's positives" });
  const drawBoxes = makeBoxes(right, lab);
  const drawSliders = makeSliders(right, lab, ["moment"]);
  const row = make(below, "div", { class: "lab-four" });
  const scenes = NAMES.map((name) => {
    const figure = make(row, "figure");
    make(figure, "figcaption", {}, name);
    return createScene(figure, lab, { still: true, label: `Positives of ${name}` });
  });
  const fill = table(right, "Positives of each box; of max-IoU, anchors", ["box", "max-IoU", ...NAMES.slice(1)]);
  const say = liveLine(right);

  return () => {
    const { boxes, labels } = store.state;
    const owned = maxIou(anchors, boxes);
    const answers = [shares(owned, ANCHORS), fcos(priors, boxes), simOta(lab.given, priors, boxes, labels).owners, lab.answer.owners];
    answers.forEach((owners, index) => scenes[index].draw(markOf(owners)));
    image.draw(markOf(lab.answer.owners));
    drawBoxes();
    drawSliders();
    const lists = [owned, ...answers.slice(1)];
    const counts = boxes.map((_, g) => lists.map((owners) => owners.reduce((sum, owner) => sum + Number(owner === g + 1), 0)));
    fill(boxes.map((_, g) => ({ cells: [lab.name(g), ...counts[g]], color: boxColor(g) })));
    const all = NAMES.map((name, index) => `${name} ${counts.reduce((sum, row) => sum + row[index], 0)}`);
    const none = NAMES.flatMap((name, index) => boxes.flatMap((_, g) => (counts[g][index] ? [] : [`${name}: ${lab.name(g)}`])));
    say(`Positives in all: ${all.join(", ")} (of max-IoU, anchors). ${none.length ? `With none: ${none.join("; ")}.` : "No box is without."}`);
  };
}

/** @param {ArrayLike<number>} owners @returns {(n: number) => import("../scene.js").Mark | null} */
const markOf = (owners) => (n) => (owners[n] > 0 ? { color: boxColor(owners[n] - 1), size: 2.4, ring: true } : null);

/**
 * The box that most of a prior's anchors learn.
 *
 * @param {Int32Array} owners of anchors
 * @param {number} each anchors of a prior
 */
function shares(owners, each) {
  return Int32Array.from({ length: owners.length / each }, (_, n) => {
    /** @type {Map<number, number>} */
    const votes = new Map();
    for (const owner of owners.subarray(n * each, (n + 1) * each)) {
      if (owner > 0) votes.set(owner, (votes.get(owner) ?? 0) + 1);
    }
    return [...votes].reduce((best, [owner, count]) => (count > (votes.get(best) ?? 0) ? owner : best), 0);
  });
}
