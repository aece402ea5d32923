// Elements, colours and words: what all views of the lab draw with.

// the palettes of minirtmdet.plots.canvas
export const LEVELS = ["#004488", "#ddaa33", "#bb5566"];
export const BOXES = ["#0077bb", "#ee7733", "#ee3377", "#009988", "#33bbee", "#cc3311"];
export const INK = "#22252b";
const SVG = "http://www.w3.org/2000/svg";
const VIRIDIS = ["#440154", "#472f7d", "#39568c", "#2a788e", "#1f988b", "#35b779", "#7ad151", "#d2e21b", "#fde725"];
const SHAPES = ["M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z", "M-.9-.9h1.8v1.8h-1.8z", "M0-1.3 1.3 0 0 1.3-1.3 0z"];

/** @param {number} index */
export const boxColor = (index) => BOXES[index % BOXES.length];

/** The mark of a level, one unit in radius: a disc, a square, a diamond. @param {number} level */
export const markShape = (level) => SHAPES[level];

/**
 * A new element in another.
 *
 * @param {Element} parent
 * @param {string} name
 * @param {Record<string, string | number>} [attributes]
 * @param {string} [text]
 * @returns {any}
 */
export function make(parent, name, attributes = {}, text = "") {
  const svg = name === "svg" || (parent instanceof SVGElement && parent.localName !== "foreignObject");
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  set(made, attributes);
  if (text) made.textContent = text;
  return parent.appendChild(made);
}

/**
 * Attributes that differ from what is there.
 *
 * @param {Element} element
 * @param {Record<string, string | number>} attributes
 */
export function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (element.getAttribute(key) !== String(value)) element.setAttribute(key, String(value));
  }
}

/** Text where it differs. @param {Element} element @param {string} text */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Which mark is which level. @param {Element} parent */
export function levelKey(parent) {
  const key = make(parent, "p", { class: "lab-key" });
  LEVELS.forEach((color, level) => {
    const svg = make(key, "svg", { viewBox: "-1.5 -1.5 3 3", "aria-hidden": "true" });
    make(svg, "path", { d: markShape(level), fill: color });
    key.append(`stride ${8 << level}`);
  });
}

/** A button. @param {Element} parent @param {string} text @param {() => void} press @param {string} [label] */
export function button(parent, text, press, label) {
  /** @type {HTMLButtonElement} */
  const made = make(parent, "button", { type: "button", ...(label && { "aria-label": label, title: label }) }, text);
  made.addEventListener("click", press);
  return made;
}

/**
 * The colour of a share between 0 and 1: dark to bright, viridis.
 *
 * @param {number} share
 * @returns {[number, number, number]}
 */
export const viridis = (share) => SHADES[Math.round(Math.min(Math.max(share, 0), 1) * (SHADES.length - 1))];

/** @param {number} share @returns {[number, number, number]} */
function mixed(share) {
  const place = share * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const channel = (/** @type {string} */ color, /** @type {number} */ at) => parseInt(color.slice(at, at + 2), 16);
  const mix = (/** @type {number} */ at) => {
    const [a, b] = [channel(VIRIDIS[low], at), channel(VIRIDIS[low + 1], at)];
    return Math.round(a + (b - a) * (place - low));
  };
  return [mix(1), mix(3), mix(5)];
}

const SHADES = Array.from({ length: 256 }, (_, index) => mixed(index / 255));

/** Cheap is bright: the logarithm of a cost between 0.01 and 100. @param {number} cost */
export const costColor = (cost) => viridis(1 - (Math.log10(Math.max(cost, 1e-9)) + 2) / 4);

/** A cost or a loss in three digits. @param {number} value */
export function digits(value) {
  if (!Number.isFinite(value)) return "∞";
  if (Math.abs(value) >= 1e4) return value.toExponential(1).replace("e+", "e");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(value !== 0 && Math.abs(value) < 1 ? 3 : 2);
}

/** A change, with its sign. @param {number} value */
export const signed = (value) => (value < 0 ? "−" : "+") + digits(Math.abs(value));

/**
 * A line of text that screen readers hear when it has stood still for a moment.
 *
 * @param {Element} parent
 */
export function liveLine(parent) {
  const shown = make(parent, "p", { class: "lab-words" });
  const heard = make(parent, "p", { class: "lab-heard", role: "status" });
  let waiting = 0;
  return (/** @type {string} */ text) => {
    if (shown.textContent === text) return;
    const first = shown.textContent === "";
    shown.textContent = text;
    clearTimeout(waiting);
    if (!first) waiting = window.setTimeout(() => say(heard, text), 500);
  };
}

/**
 * A table whose rows are written anew where they differ.
 *
 * @param {Element} parent
 * @param {string} caption
 * @param {string[]} titles
 */
export function table(parent, caption, titles) {
  const frame = make(parent, "div", { class: "lab-table" });
  const made = make(frame, "table");
  make(made, "caption", { class: "lab-heard" }, caption);
  const head = make(make(made, "thead"), "tr");
  for (const title of titles) make(head, "th", { scope: "col" }, title);
  const body = make(made, "tbody");
  return (/** @type {{ cells: (string | number)[], color?: string, strong?: number }[]} */ rows) => {
    while (body.children.length > rows.length) body.lastElementChild.remove();
    rows.forEach(({ cells, color, strong }, index) => {
      const row = body.children[index] ?? make(body, "tr");
      if (color) set(row, { style: `--box: ${color}` });
      cells.forEach((cell, column) => {
        const place = row.children[column] ?? make(row, column ? "td" : "th", column ? {} : { scope: "row" });
        say(place, String(cell));
        place.classList.toggle("strong", column === strong);
      });
    });
  };
}
