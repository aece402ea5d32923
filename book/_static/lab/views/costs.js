// What each prior would cost a box: the three costs and their sum as maps, and one prior in numbers.

import { candidates, costs } from "../assignment.js";
import { clamp } from "../boxes.js";
import { costColor, digits, liveLine, make, set, signed, table } from "../dom.js";
import { makeBench, makeBoxes, makeSliders } from "../panel.js";
import { STRIDES } from "../priors.js";
import { createScene, describe } from "../scene.js";

/** @typedef {import("../data.js").Lab} Lab */

/** @type {["classes" | "overlap" | "center" | "total", string][]} */
const PARTS = [["classes", "class"], ["overlap", "IoU"], ["center", "centre"], ["total", "sum"]];

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const { store, priors } = lab;
  const { left, right, below } = makeBench(root);
  const image = createScene(left, lab, { label: "The scene, its boxes, and what each prior costs in all" });
  const fill = table(right, "The costs of one pair", ["cost", "now", "at the start", "change"]);
  const say = liveLine(right);
  const drawBoxes = makeBoxes(right, lab);
  const drawSliders = makeSliders(right, lab, ["moment", "iouWeight", "radius"]);
  const drawMaps = makeMaps(below, lab);

  return () => {
    const { box, boxes, prior } = store.state;
    const { answer } = lab;
    const row = answer.costs.total.subarray(box * priors.length, (box + 1) * priors.length);
    image.draw((n) => {
      if (!(row[n] < Infinity)) return null;
      const mine = answer.owners[n] === box + 1;
      return { color: `rgb(${costColor(row[n])})`, size: mine ? 3 : 1.9, ring: mine };
    });
    drawBoxes();
    drawSliders();
    drawMaps();
    const place = box * priors.length + prior;
    const before = costsAtStart(lab);
    const changes = PARTS.map(([part]) => (before ? answer.costs[part][place] - before[part][prior] : NaN));
    const largest = largestChange(changes.slice(0, 3));
    fill(
      PARTS.map(([part, name], index) => ({
        cells: [
          part === "overlap" ? `${store.state.iouWeight} × ${name}` : name,
          boxes.length ? digits(answer.costs[part][place]) : "",
          before ? digits(before[part][prior]) : "",
          Number.isFinite(changes[index]) ? signed(changes[index]) : "",
        ],
        strong: index === largest ? 3 : -1,
      })),
    );
    say(sentence(lab, row, largest));
  };
}

/** Of the three costs, the one that changed most; -1 where none did. @param {number[]} changes */
function largestChange(changes) {
  const sizes = changes.map((change) => (Number.isFinite(change) ? Math.abs(change) : 0));
  const most = Math.max(...sizes);
  return most < 0.0005 ? -1 : sizes.indexOf(most);
}

/**
 * The costs of the chosen box as it was at the start, with the present predictions; null where it is a new one.
 *
 * @param {Lab} lab
 */
function costsAtStart({ store, given, priors }) {
  const { box, labels } = store.state;
  const { start } = store.limits;
  if (box >= start.boxes.length || start.labels[box] !== labels[box]) return null;
  const was = candidates(priors, start.boxes);
  return costs(given, priors, was, [start.boxes[box]], [start.labels[box]], start);
}

/**
 * @param {Lab} lab
 * @param {Float32Array} row sums of the chosen box
 * @param {number} largest which cost changed most
 */
function sentence(lab, row, largest) {
  const { box, boxes, prior } = lab.store.state;
  const { answer } = lab;
  if (boxes.length === 0) return "There is no box, so nothing costs anything.";
  const who = `${describe(prior, lab)}, for the ${lab.name(box)}`;
  if (!(row[prior] < Infinity)) return `${who}: no candidate, it lies in no box.`;
  const rank = row.reduce((count, cost) => count + Number(cost < row[prior]), 1);
  const owner = answer.owners[prior];
  const chosen = owner === box + 1 ? "chosen" : `not chosen, it learns ${owner ? `the ${lab.owner(owner)}` : "background"}`;
  const moved = largest < 0 ? "" : ` Since the start, the ${PARTS[largest][1]} cost has changed most.`;
  return `${who}: rank ${rank}, k is ${answer.ks[box]}, ${chosen}.${moved}`;
}

/**
 * A row of four maps for each level.
 *
 * @param {Element} parent
 * @param {Lab} lab
 */
function makeMaps(parent, lab) {
  const { store, priors, scene } = lab;
  const grid = make(parent, "div", { class: "lab-maps" });
  const maps = STRIDES.flatMap((stride, level) =>
    PARTS.map(([part, name]) => {
      const cells = scene.size / stride;
      const first = priors.findIndex((prior) => prior.level === level);
      const figure = make(grid, "figure", { class: "lab-map", "data-cost": part, "data-stride": stride });
      const caption = make(figure, "figcaption");
      caption.append(`${name} `);
      const small = make(caption, "small");
      make(small, "span", {}, "stride ");
      small.append(String(stride));
      const frame = make(figure, "div");
      /** @type {HTMLCanvasElement} */
      const canvas = make(frame, "canvas", { width: cells, height: cells, role: "img" });
      const rings = make(frame, "svg", { viewBox: `0 0 ${cells} ${cells}`, "aria-hidden": "true" });
      const look = (/** @type {PointerEvent} */ event) => {
        const { left, top, width } = frame.getBoundingClientRect();
        const cell = (/** @type {number} */ at) => clamp(Math.floor((at / width) * cells), 0, cells - 1);
        const prior = first + cell(event.clientY - top) * cells + cell(event.clientX - left);
        if (prior !== store.state.prior) store.change({ prior });
      };
      frame.addEventListener("pointermove", look);
      frame.addEventListener("pointerdown", look);
      return { part, name, stride, cells, first, canvas, rings };
    }),
  );
  return () => {
    const { box, boxes, prior } = store.state;
    const { answer } = lab;
    for (const { part, name, stride, cells, first, canvas, rings } of maps) {
      const start = box * priors.length + first;
      const values = answer.costs[part].subarray(start, start + cells * cells);
      paint(canvas, values);
      const chosen = [...values.keys()].filter((cell) => boxes.length && answer.owners[first + cell] === box + 1);
      const least = values.reduce((low, value) => Math.min(low, value), Infinity);
      set(canvas, { "aria-label": `${name} cost on stride ${stride}: least ${digits(least)}, ${chosen.length} chosen` });
      drawRings(rings, cells, stride, boxes[box], chosen, prior - first);
    }
  };
}

/** One pixel for each prior. @param {HTMLCanvasElement} canvas @param {Float32Array} values */
function paint(canvas, values) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((cost, cell) => {
    if (cost < Infinity) pixels.data.set([...costColor(cost), 255], 4 * cell);
  });
  context.putImageData(pixels, 0, 0);
}

/**
 * The box, the chosen priors and the one that is looked at; a prior is in the middle of its square.
 *
 * @param {SVGElement} svg
 * @param {number} cells
 * @param {number} stride
 * @param {import("../boxes.js").Box | undefined} box
 * @param {number[]} chosen
 * @param {number} looked
 */
function drawRings(svg, cells, stride, box, chosen, looked) {
  const wanted = chosen.map((cell) => ({ cell, kind: "chosen" }));
  if (looked >= 0 && looked < cells * cells) wanted.push({ cell: looked, kind: "looked" });
  const frame = svg.querySelector("rect") ?? make(svg, "rect", { class: "outline" });
  const [x1, y1, x2, y2] = (box ?? [0, 0, 0, 0]).map((side) => side / stride + 0.5);
  set(frame, { x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
  while (svg.children.length > wanted.length + 1) svg.lastElementChild?.remove();
  wanted.forEach(({ cell, kind }, index) => {
    const circle = svg.children[index + 1] ?? make(svg, "circle");
    const place = { cx: (cell % cells) + 0.5, cy: Math.floor(cell / cells) + 0.5 };
    set(circle, { class: kind, ...place, r: (kind === "looked" ? 0.03 : 0.02) * cells });
  });
}
