// The scene and what the network said of it, as book/_ext/lab.py wrote them.

import { assign } from "./assignment.js";
import { decode, gridPriors, predictions } from "./priors.js";
import { createStore, read } from "./store.js";

/** @typedef {import("./assignment.js").Assignment} Assignment */
/** @typedef {import("./store.js").State} State */

/**
 * @typedef {object} Scene
 * @property {number} size
 * @property {string[]} classes
 * @property {import("./boxes.js").Box[]} boxes
 * @property {number[]} labels
 * @property {string[]} moments
 * @property {number} follow
 * @property {import("./assignment.js").Settings} settings
 */

/** @typedef {Awaited<ReturnType<typeof openLab>>} Lab */

const FILES = new URL("data/", import.meta.url);
export const HASH = "lab&";

/** @param {string} name */
async function load(name) {
  const answer = await fetch(new URL(name, FILES));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/**
 * Load the scene and one moment, and make the store that all views of the page share.
 *
 * @param {string} words where the page begins, as in a link; a link's own words come first
 */
export async function openLab(words) {
  /** @type {Scene} */
  const scene = await (await load("scene.json")).json();
  const priors = gridPriors(scene.size);
  const moment = scene.moments.length - 1;
  /** @type {State} */
  const recipe = {
    ...{ boxes: scene.boxes, labels: scene.labels, moment, ...scene.settings, box: 1, prior: scene.follow },
    ...{ step: 5, offset: 0, logit: -1, target: 0.6, raw: 1.4, exponential: 1 },
  };
  const limits = {
    start: recipe,
    size: scene.size,
    classes: scene.classes.length,
    moments: scene.moments.length,
    priors: priors.length,
  };
  limits.start = read(words, limits);
  const linked = location.hash.startsWith(`#${HASH}`) ? location.hash.slice(HASH.length + 1) : null;
  const store = createStore(linked === null ? limits.start : read(linked, limits), limits);

  /** @type {Map<number, import("./priors.js").Predictions>} */
  const moments = new Map();
  async function loadMoment(/** @type {number} */ index) {
    if (moments.has(index)) return;
    const numbers = new Float32Array(await (await load(`moment-${index}.bin`)).arrayBuffer());
    const logits = numbers.subarray(0, priors.length * scene.classes.length);
    moments.set(index, predictions(logits, decode(priors, numbers.subarray(logits.length))));
  }
  await loadMoment(store.state.moment);

  let shown = store.state.moment; // the moment whose numbers are there
  /** @type {{ state: State, moment: number, answer: Assignment } | null} */
  let last = null;
  const lab = {
    scene,
    priors,
    store,
    image: new URL("scene.webp", FILES).href,
    scenes: new URL("scenes.webp", FILES).href,
    loadMoment,
    /** What the network said at the moment that is shown. */
    get given() {
      return /** @type {import("./priors.js").Predictions} */ (moments.get(shown));
    },
    /** The assignment of the present boxes; worked out once for all views. */
    get answer() {
      const { state } = store;
      if (last?.state !== state || last.moment !== shown) {
        const { boxes, labels, topk, iouWeight, radius } = state;
        last = { state, moment: shown, answer: assign(lab.given, priors, boxes, labels, { topk, iouWeight, radius }) };
      }
      return last.answer;
    },
    /** What a class is called. @param {number} box */
    name: (box) => scene.classes[store.state.labels[box]],
    /** What box a prior learns. @param {number} owner */
    owner: (owner) => (owner > 0 ? lab.name(owner - 1) : "background"),
  };
  store.subscribe(() => {
    const wanted = store.state.moment;
    if (moments.has(wanted)) {
      shown = wanted;
      return;
    }
    loadMoment(wanted).then(
      () => store.state.moment === wanted && store.change({}),
      () => {}, // without a network the last moment stays; the slider can be moved again
    );
  });
  return lab;
}
