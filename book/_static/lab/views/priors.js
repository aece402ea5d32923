// Which priors lie in my box, level by level.

import { inside } from "../boxes.js";
import { boxColor, levelKey, LEVELS, liveLine, table } from "../dom.js";
import { makeBench, makeBoxes, makeChoice } from "../panel.js";
import { gridPriors, STRIDES } from "../priors.js";
import { createScene, describe } from "../scene.js";

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const { store, scene } = lab;
  const { left, right } = makeBench(root);
  const image = createScene(left, lab, { label: "The scene, its boxes and all priors" });
  levelKey(left);
  const drawBoxes = makeBoxes(right, lab);
  const choose = makeChoice(right, "A prior lies", ["in the corner of its cell", "in the middle"], (index) => {
    store.change({ offset: index / 2 }, "offset");
    store.lift();
  });
  const fill = table(right, "Priors strictly inside each box", ["box", ...STRIDES.map((s) => `stride ${s}`), "all"]);
  const say = liveLine(right);

  return () => {
    const { boxes, box, offset, prior } = store.state;
    const grid = gridPriors(scene.size, offset);
    const holds = boxes.map((one) => grid.map(({ x, y }) => inside(x, y, one)));
    image.draw((n) => (holds[box]?.[n] ? { color: LEVELS[grid[n].level], size: 2.2, ring: true } : null));
    drawBoxes();
    choose(offset * 2);
    const counts = holds.map((held) => STRIDES.map((stride) => grid.filter((p, n) => held[n] && p.stride === stride).length));
    fill(
      boxes.map((_, g) => {
        const all = counts[g].reduce((sum, count) => sum + count, 0);
        return { cells: [lab.name(g), ...counts[g], all], color: boxColor(g) };
      }),
    );
    const around = boxes.flatMap((_, g) => (holds[g][prior] ? [lab.name(g)] : []));
    const where = around.length ? `inside ${around.join(" and ")}` : "inside no box";
    const mine = boxes.length ? `${lab.name(box)} holds ${counts[box].join(", ")} priors of the three levels. ` : "";
    say(`${mine}${describe(prior, lab)}: ${where}.`);
  };
}
