// The image with its boxes, which can be taken by mouse, finger and keyboard, and a mark for each prior.

import { area, center, clamp, inside } from "./boxes.js";
import { boxColor, INK, make, markShape, say, set } from "./dom.js";
import { gridPriors, STRIDES } from "./priors.js";
import { LEAST } from "./store.js";

/** @typedef {import("./boxes.js").Box} Box */
/** @typedef {import("./data.js").Lab} Lab */
/** @typedef {{ color: string, size: number, ring?: boolean }} Mark */
/** @typedef {{ box: number, corner: [number, number] | null }} Hit which box, and by which of its sides */

const FINGER = 14; // pixels of the screen around a corner
const SMALLEST = 24; // pixels of the screen that a box can be taken at
const FAINT = { color: INK, size: 0.8 };
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** @type {[number, number][]} */
const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]];

/**
 * @param {Element} parent
 * @param {Lab} lab
 * @param {object} [options]
 * @param {boolean} [options.still] boxes cannot be taken
 * @param {string} [options.label]
 */
export function createScene(parent, lab, { still = false, label = "The scene" } = {}) {
  const { store, scene, priors } = lab;
  const { size } = scene;
  const frame = make(parent, "div", { class: still ? "lab-scene still" : "lab-scene" });
  const role = still ? { role: "img" } : { role: "group" };
  /** @type {SVGSVGElement} */
  const svg = make(frame, "svg", { viewBox: `0 0 ${size} ${size}`, "aria-label": label, ...role });
  make(svg, "image", { href: lab.image, width: size, height: size });
  const marks = make(svg, "g", { class: "lab-marks", "aria-hidden": "true" });
  const elements = priors.map(({ level }, n) => make(marks, "path", { d: markShape(level), "data-prior": n }));
  /** @type {string[]} how each mark looks now */
  const looks = [];
  const frames = make(svg, "g");
  const ring = make(svg, "circle", { class: "lab-ring" });
  if (!still) makeCursor(ring, lab);

  /** Pixels of the image that one pixel of the screen is. */
  const pixel = () => size / (svg.getBoundingClientRect().width || size);

  function drawBoxes() {
    const { boxes, box: chosen } = store.state;
    while (frames.children.length > boxes.length) frames.lastElementChild.remove();
    boxes.forEach((box, g) => {
      const group = frames.children[g] ?? makeFrame(frames, g, lab, still);
      const [x, y, right, bottom] = box;
      const place = { x, y, width: right - x, height: bottom - y };
      for (const side of group.querySelectorAll(".side")) set(side, place);
      set(group, { style: `--box: ${boxColor(g)}`, "data-box": box.join(" "), class: g === chosen ? "lab-box chosen" : "lab-box" });
      if (still) return;
      set(group, { "aria-label": `${lab.name(g)}, from ${x}, ${y} to ${right}, ${bottom}` });
      const handle = 11 * pixel();
      group.querySelectorAll(".corner").forEach((/** @type {Element} */ corner, /** @type {number} */ index) => {
        const [across, along] = CORNERS[index];
        set(corner, { x: box[across] - handle / 2, y: box[along] - handle / 2, width: handle, height: handle });
      });
    });
  }

  /** @param {(n: number) => Mark | null} mark how prior n looks; faint where null */
  function draw(mark) {
    const { offset, prior } = store.state;
    elements.forEach((element, n) => {
      const { x, y, stride } = priors[n];
      const { color, size: radius, ring: ringed } = mark(n) ?? FAINT;
      const look = `${color} ${radius} ${ringed} ${offset}`;
      if (looks[n] === look) return; // to ask the page what it shows would be slower
      looks[n] = look;
      const transform = `translate(${x + offset * stride} ${y + offset * stride}) scale(${radius.toFixed(2)})`;
      set(element, { transform, fill: color, class: ringed ? "ringed" : "" });
    });
    const { x, y, stride } = priors[prior];
    set(ring, { cx: x + offset * stride, cy: y + offset * stride, r: 4.4 });
    if (!still) set(ring, { "aria-label": describe(prior, lab) });
    drawBoxes();
  }

  if (!still) {
    takeBoxes(svg, lab, pixel);
    new ResizeObserver(drawBoxes).observe(svg);
  }
  return { draw, svg };
}

/** Where a prior is, in words. @param {number} n @param {Lab} lab */
export function describe(n, { priors, store }) {
  const { x, y, stride, level } = priors[n];
  const { offset } = store.state;
  return `Prior ${n}, level ${level}, at ${x + offset * stride}, ${y + offset * stride}`;
}

/** @param {Element} frames @param {number} g @param {Lab} lab @param {boolean} still */
function makeFrame(frames, g, lab, still) {
  const group = make(frames, "g");
  make(group, "rect", { class: "side halo" });
  make(group, "rect", { class: "side" });
  if (still) return group;
  set(group, { tabindex: 0, role: "group", "aria-roledescription": "box", "aria-describedby": "lab-box-keys" });
  for (const _ of CORNERS) make(group, "rect", { class: "corner" });
  group.addEventListener("focus", () => lab.store.change({ box: g }));
  group.addEventListener("keydown", (/** @type {KeyboardEvent} */ press) => {
    const { store } = lab;
    const arrow = ARROWS[press.key];
    if (press.key === "Delete" || press.key === "Backspace") {
      press.preventDefault();
      removeBox(lab, g);
      /** @type {SVGElement | null} */ (frames.children[Math.max(g - 1, 0)])?.focus();
    } else if (arrow && !press.ctrlKey && !press.metaKey && !press.altKey) {
      press.preventDefault();
      const box = store.state.boxes[g];
      if (press.shiftKey) moveCorner(lab, g, box, [2, 3], ...arrow, `keys ${g}`);
      else moveBox(lab, g, box, ...arrow, `keys ${g}`);
    }
  });
  return group;
}

/** The ring can be moved from prior to prior by keys. @param {Element} ring @param {Lab} lab */
function makeCursor(ring, { store, priors, scene }) {
  set(ring, { tabindex: 0, role: "group", "aria-roledescription": "prior", "aria-describedby": "lab-prior-keys" });
  ring.addEventListener("keydown", (event) => {
    const press = /** @type {KeyboardEvent} */ (event);
    const { x, y, level } = priors[store.state.prior];
    const arrow = ARROWS[press.key];
    const other = { PageUp: level - 1, PageDown: level + 1 }[press.key] ?? level;
    if (!arrow && other === level) return;
    press.preventDefault();
    const stride = STRIDES[clamp(other, 0, STRIDES.length - 1)];
    const [dx, dy] = arrow ?? [0, 0];
    const last = scene.size - stride;
    const [toX, toY] = [clamp(x + dx * stride, 0, last), clamp(y + dy * stride, 0, last)];
    store.change({ prior: nearestPrior(priors, toX, toY, STRIDES.indexOf(stride)) });
  });
}

/**
 * The prior nearest to a place, of one level or of all.
 *
 * @param {import("./priors.js").Prior[]} priors
 * @param {number} x
 * @param {number} y
 * @param {number} [level]
 */
export function nearestPrior(priors, x, y, level) {
  let [best, least] = [0, Infinity];
  priors.forEach((prior, n) => {
    const distance = (prior.x - x) ** 2 + (prior.y - y) ** 2;
    if (distance < least && (level === undefined || prior.level === level)) [best, least] = [n, distance];
  });
  return best;
}

/**
 * The pointer takes a box by a corner or by its middle; a tap beside the middle of a mark looks at that prior.
 *
 * @param {SVGSVGElement} svg
 * @param {Lab} lab
 * @param {() => number} pixel
 */
function takeBoxes(svg, lab, pixel) {
  const { store } = lab;
  /** @param {{ clientX: number, clientY: number }} event @returns {[number, number]} */
  const place = ({ clientX, clientY }) => {
    const { left, top } = svg.getBoundingClientRect();
    return [(clientX - left) * pixel(), (clientY - top) * pixel()];
  };
  /** @param {{ clientX: number, clientY: number }} event */
  const hit = (event) => hitBox(store.state.boxes, store.state.box, ...place(event), pixel());
  let taken = false;

  svg.addEventListener("pointermove", (event) => {
    if (!taken) svg.style.cursor = cursorOf(hit(event));
  });
  svg.addEventListener("pointerdown", (down) => {
    if (down.button !== 0) return;
    const found = hit(down);
    const from = place(down);
    let moved = false;
    if (found) {
      taken = true;
      store.change({ box: found.box });
      svg.setPointerCapture(down.pointerId);
    }
    const box = found && store.state.boxes[found.box];
    const hand = `pointer ${down.timeStamp}`;
    const follow = (/** @type {PointerEvent} */ move) => {
      const [x, y] = place(move);
      const [dx, dy] = [x - from[0], y - from[1]];
      moved ||= Math.hypot(dx, dy) > 3 * pixel();
      if (!moved || !found || !box) return;
      if (found.corner) moveCorner(lab, found.box, box, found.corner, dx, dy, hand);
      else moveBox(lab, found.box, box, dx, dy, hand);
    };
    const end = (/** @type {PointerEvent} */ up) => {
      svg.removeEventListener("pointermove", follow);
      svg.removeEventListener("pointerup", end);
      svg.removeEventListener("pointercancel", end);
      taken = false;
      store.lift();
      if (moved || up.type !== "pointerup") return;
      const grid = gridPriors(lab.scene.size, store.state.offset);
      store.change({ prior: nearestPrior(grid, ...place(up)) });
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerup", end);
    svg.addEventListener("pointercancel", end);
  });
  // a browser that takes the finger's first pixels for scrolling would cancel the pointer
  svg.addEventListener("touchstart", (touch) => hit(touch.touches[0]) && touch.preventDefault(), { passive: false });
}

/** @param {Hit | null} found */
function cursorOf(found) {
  if (!found) return "crosshair";
  if (!found.corner) return "move";
  const [across, along] = found.corner;
  return (across === 2) === (along === 3) ? "nwse-resize" : "nesw-resize";
}

/**
 * What lies under a pointer: the chosen box before others, small boxes before large ones, corners before the middle.
 *
 * @param {Box[]} boxes
 * @param {number} chosen
 * @param {number} x
 * @param {number} y
 * @param {number} pixel of the screen, in pixels of the image
 * @returns {Hit | null}
 */
export function hitBox(boxes, chosen, x, y, pixel) {
  const bySize = boxes.map((_, g) => g).sort((a, b) => area(boxes[a]) - area(boxes[b]));
  for (const g of bySize.toSorted((a, b) => Number(b === chosen) - Number(a === chosen))) {
    const corner = CORNERS.find(([across, along]) => {
      const [dx, dy] = [Math.abs(x - boxes[g][across]), Math.abs(y - boxes[g][along])];
      // inside a small box the corners leave its middle free
      const reach = FINGER * pixel;
      const free = (/** @type {number} */ side) => (boxes[g][side] - boxes[g][side - 2]) / 4;
      const [wide, high] = inside(x, y, boxes[g]) ? [free(2), free(3)] : [reach, reach];
      return dx <= Math.min(reach, wide) && dy <= Math.min(reach, high);
    });
    if (corner) return { box: g, corner };
  }
  const taken = bySize.find((g) => {
    const [cx, cy] = center(boxes[g]);
    const reach = (/** @type {number} */ side) => Math.max(boxes[g][side] - boxes[g][side - 2], SMALLEST * pixel) / 2;
    return Math.abs(x - cx) <= reach(2) && Math.abs(y - cy) <= reach(3);
  });
  return taken === undefined ? null : { box: taken, corner: null };
}

/** @param {Lab} lab @param {number} g @param {Box} box @param {string} hand */
const putBox = ({ store }, g, box, hand) => store.change({ boxes: store.state.boxes.with(g, box), box: g }, hand);

/**
 * @param {Lab} lab
 * @param {number} g
 * @param {Box} box from where
 * @param {number} dx
 * @param {number} dy
 * @param {string} hand
 */
function moveBox(lab, g, [x1, y1, x2, y2], dx, dy, hand) {
  const { size } = lab.scene;
  const right = clamp(Math.round(dx), -x1, size - x2);
  const down = clamp(Math.round(dy), -y1, size - y2);
  putBox(lab, g, [x1 + right, y1 + down, x2 + right, y2 + down], hand);
}

/**
 * @param {Lab} lab
 * @param {number} g
 * @param {Box} box
 * @param {[number, number]} corner the two sides that meet in it
 * @param {number} dx
 * @param {number} dy
 * @param {string} hand
 */
function moveCorner(lab, g, box, [across, along], dx, dy, hand) {
  const moved = /** @type {Box} */ ([...box]);
  for (const [side, distance] of [[across, dx], [along, dy]]) {
    const other = box[(side + 2) % 4];
    const [least, most] = side < 2 ? [0, other - LEAST] : [other + LEAST, lab.scene.size];
    moved[side] = clamp(Math.round(box[side] + distance), least, most);
  }
  putBox(lab, g, moved, hand);
}

/** @param {Lab} lab @param {number} g */
export function removeBox({ store }, g) {
  const { boxes, labels, box } = store.state;
  store.change(
    { boxes: boxes.toSpliced(g, 1), labels: labels.toSpliced(g, 1), box: Math.max(box >= g ? box - 1 : box, 0) },
    `remove ${g} of ${boxes.length}`,
  );
  store.lift();
}

/** The two lines that say which keys do what, once in a page. @param {Element} root */
export function explainKeys(root) {
  if (document.getElementById("lab-box-keys")) return;
  const lines = {
    "lab-box-keys": "Arrows move the box, Shift with arrows its right lower corner, Delete removes it.",
    "lab-prior-keys": "Arrows go to the next prior, Page up and Page down to another level.",
  };
  for (const [id, text] of Object.entries(lines)) say(make(root, "p", { id, class: "lab-heard" }), text);
}
