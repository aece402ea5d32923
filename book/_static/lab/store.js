// What the reader has set: boxes, settings, what is looked at.  One store for all views of a page, with undo and a link.

import { clamp } from "./boxes.js";

/** @typedef {import("./boxes.js").Box} Box */

/**
 * @typedef {object} State
 * @property {Box[]} boxes whole pixels
 * @property {number[]} labels class of each box
 * @property {number} moment index of the recorded moment
 * @property {number} topk how many IoUs of a box are summed
 * @property {number} iouWeight
 * @property {number} radius of the soft centre, in strides
 * @property {number} box the one that is looked at
 * @property {number} prior the one that is looked at
 * @property {number} step of the matching, 0..5
 * @property {number} offset of the priors: 0 in the corner of a cell, 0.5 in its middle
 * @property {number} logit of the class loss
 * @property {number} target its soft label
 * @property {number} raw what the network says of a distance
 * @property {number} exponential 1: exp_on_reg
 */

/**
 * @typedef {object} Limits
 * @property {State} start
 * @property {number} size of the image
 * @property {number} classes
 * @property {number} moments
 * @property {number} priors
 */

export const LEAST = 4; // pixels that a box keeps
export const MOST_BOXES = 8;

/** Range and step of each number that a slider sets; what else is a number is an index. */
export const RANGES = {
  topk: [1, 30, 1],
  iouWeight: [0, 6, 0.5],
  radius: [0.5, 6, 0.5],
  step: [0, 5, 1],
  offset: [0, 0.5, 0.5],
  logit: [-6, 6, 0.1],
  target: [0, 1, 0.01],
  raw: [-2, 5, 0.05],
  exponential: [0, 1, 1],
};

/** @param {State} start @param {Limits} limits */
export function createStore(start, limits) {
  let state = start;
  /** @type {State[]} */
  const past = [];
  let stroke = "";
  /** @type {(() => void)[]} */
  const listeners = [];
  const tell = (/** @type {State} */ next) => {
    state = next;
    for (const listener of listeners) listener();
  };
  return {
    limits,
    get state() {
      return state;
    },
    get canUndo() {
      return past.length > 0;
    },
    /** @param {() => void} listener */
    subscribe: (listener) => void listeners.push(listener),
    /**
     * Set some values.
     *
     * @param {Partial<State>} values
     * @param {string} [hand] what is undone at once: changes of one name that follow each other; nothing to undo
     *   where left out
     */
    change(values, hand) {
      if (hand && hand !== stroke) past.push(state);
      stroke = hand ?? stroke;
      tell({ ...state, ...values });
    },
    /** The gesture has ended: the next one of its name is undone by itself. */
    lift: () => void (stroke = ""),
    undo() {
      stroke = "";
      const last = past.pop();
      if (last) tell(last);
    },
  };
}

/** @typedef {ReturnType<typeof createStore>} Store */

/**
 * The state as words of a link.
 *
 * @param {State} state
 */
export function write({ boxes, labels, ...numbers }) {
  const words = new URLSearchParams();
  words.set("boxes", boxes.map((box, g) => [labels[g], ...box].join(".")).join("_"));
  for (const [name, value] of Object.entries(numbers)) words.set(name, String(value));
  return words.toString();
}

/**
 * The state that a link's words mean; what they lack, or say wrongly, is as at the start.
 *
 * @param {string} words
 * @param {Limits} limits
 * @returns {State}
 */
export function read(words, limits) {
  const given = new URLSearchParams(words);
  const { boxes, labels } = readBoxes(given.get("boxes"), limits);
  const state = { ...limits.start, boxes, labels };
  const last = { moment: limits.moments - 1, prior: limits.priors - 1, box: Math.max(boxes.length - 1, 0) };
  for (const [name, most] of Object.entries(last)) {
    state[name] = clamp(Math.round(readNumber(given.get(name), state[name])), 0, most);
  }
  for (const [name, [least, most, step]] of Object.entries(RANGES)) {
    const value = readNumber(given.get(name), state[name]);
    state[name] = clamp(Number((Math.round(value / step) * step).toFixed(2)), least, most);
  }
  return state;
}

/** @param {string | null} text @param {number} otherwise */
function readNumber(text, otherwise) {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : otherwise;
}

/** @param {string | null} text @param {Limits} limits */
function readBoxes(text, { start, size, classes }) {
  if (text === "") return { boxes: [], labels: [] };
  const rows = (text ?? "").split("_").map((row) => row.split(".").map((word) => readNumber(word, NaN)));
  const valid = rows.filter(([label, x1, y1, x2, y2, ...more]) => {
    const whole = [label, x1, y1, x2, y2].every((value) => Number.isInteger(value) && value >= 0);
    return whole && more.length === 0 && label < classes && x2 <= size && y2 <= size && x2 - x1 >= LEAST && y2 - y1 >= LEAST;
  });
  if (valid.length === 0 || valid.length < rows.length || rows.length > MOST_BOXES) {
    return { boxes: start.boxes, labels: start.labels };
  }
  return {
    boxes: valid.map(([, ...box]) => /** @type {Box} */ (box)),
    labels: valid.map(([label]) => label),
  };
}
