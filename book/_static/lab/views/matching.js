// From costs to positives, step by step, and over the moments of the recorded training.

import { boxColor, button, costColor, INK, levelKey, LEVELS, liveLine, make, say as write, set, table } from "../dom.js";
import { makeBench, makeBoxes, makeChoice, makeSliders } from "../panel.js";
import { STRIDES } from "../priors.js";
import { createScene } from "../scene.js";

const STEPS = ["candidates", "costs", "k", "requests", "conflicts", "positives"];
const FILM = 900; // milliseconds that a moment stays

/** @type {import("../lab.js").View} */
export function view(root, lab) {
  const { store, scene, priors } = lab;
  const { left, right, below } = makeBench(root);
  const image = createScene(left, lab, { label: "The scene, its boxes, and what each prior is in this step" });
  levelKey(left);
  const choose = makeChoice(right, "Step", STEPS, (step) => store.change({ step }));
  const drawBoxes = makeBoxes(right, lab);
  const drawSliders = makeSliders(right, lab, ["moment", "topk", "iouWeight", "radius"]);
  const drawFilm = makeFilm(right, lab);
  const sayStep = liveLine(below);
  const drawSums = makeSums(below, lab);
  const titles = ["box", "k", "requests", "gets", ...STRIDES.map((s) => `stride ${s}`), "best IoU"];
  const fill = table(below, "What each box asks for and what it gets", titles);

  /** @type {((n: number) => import("../scene.js").Mark | null)[]} how a prior looks in each step */
  const looks = [
    (n) => (lab.answer.candidates[n] ? { color: LEVELS[priors[n].level], size: 1.8, ring: true } : null),
    (n) => {
      const cost = lab.answer.costs.total[store.state.box * priors.length + n];
      if (!(cost < Infinity)) return null;
      return { color: `rgb(${costColor(cost)})`, size: 2.4 };
    },
    (n) => {
      const { box, topk } = store.state;
      const row = lab.answer.costs.ious.subarray(box * priors.length, (box + 1) * priors.length);
      const better = row.reduce((count, value) => count + Number(value > row[n]), 0);
      return row[n] > 0 && better < topk ? { color: LEVELS[priors[n].level], size: 1 + 2 * row[n], ring: true } : null;
    },
    (n) => wish(n, false),
    (n) => wish(n, true),
    (n) => {
      const owner = lab.answer.owners[n];
      return owner ? { color: boxColor(owner - 1), size: 1.6 + 1.6 * lab.answer.ious[n], ring: true } : null;
    },
  ];

  /** @param {number} n @param {boolean} settled whether contested priors have gone to their owners */
  function wish(n, settled) {
    const { wishes, contested, owners } = lab.answer;
    const taker = store.state.boxes.findIndex((_, g) => wishes[g * priors.length + n]);
    if (taker < 0) return null;
    if (contested[n]) return { color: settled ? boxColor(owners[n] - 1) : INK, size: 3.2, ring: true };
    return { color: boxColor(taker), size: settled ? 1.6 : 2.2, ring: !settled };
  }

  return () => {
    const { boxes, step } = store.state;
    const { answer } = lab;
    set(root, { "data-step": step });
    image.draw(looks[step]);
    choose(step);
    drawBoxes();
    drawSliders();
    drawFilm();
    drawSums();
    fill(
      boxes.map((_, g) => {
        const mine = priors.flatMap((_, n) => (answer.owners[n] === g + 1 ? [n] : []));
        const wishes = answer.wishes.subarray(g * priors.length, (g + 1) * priors.length).reduce((a, b) => a + b, 0);
        const levels = STRIDES.map((stride) => mine.filter((n) => priors[n].stride === stride).length);
        const best = mine.length ? Math.max(...mine.map((n) => answer.ious[n])).toFixed(2) : "none";
        return { cells: [lab.name(g), answer.ks[g], wishes, mine.length, ...levels, best], color: boxColor(g) };
      }),
    );
    sayStep(describeStep(lab));
  };
}

/** What the present step has done, in a sentence. @param {import("../data.js").Lab} lab */
function describeStep(lab) {
  const { boxes, box, step, topk } = lab.store.state;
  const { answer, priors } = lab;
  if (boxes.length === 0) return "There is no box: every prior is background.";
  const count = (/** @type {ArrayLike<number>} */ list) => Array.from(list).reduce((sum, value) => sum + Number(value > 0), 0);
  const found = count(answer.candidates);
  const contested = count(answer.contested);
  const name = lab.name(box);
  const shares = boxes.map((_, g) => `${lab.name(g)} ${answer.owners.reduce((sum, o) => sum + Number(o === g + 1), 0)}`);
  return [
    `${found} of ${priors.length} priors lie inside a box: these are the candidates.`,
    `What each candidate would cost the ${name}: bright is cheap.`,
    `The ${Math.min(topk, found)} best IoUs of the ${name} add up to ${answer.sums[box].toFixed(2)}: k is ${answer.ks[box]}.`,
    `Each box takes its k cheapest candidates. ${contested ? `${contested} are taken more than once (dark).` : "None is taken twice."}`,
    contested
      ? `${contested} contested: each goes to the box that it costs least.`
      : "No conflict. Lay one box over another of its size to see some.",
    `Positives: ${shares.join(", ")}.`,
  ][step];
}

/**
 * A bar for each box: its best IoUs in a row, in the colours of their levels, and a mark at k.
 *
 * @param {Element} parent
 * @param {import("../data.js").Lab} lab
 */
function makeSums(parent, lab) {
  const { store, priors } = lab;
  const list = make(parent, "div", { class: "lab-sums", role: "img" });
  return () => {
    const { boxes, topk } = store.state;
    const { answer } = lab;
    const scale = Math.max(13, ...answer.sums);
    while (list.children.length > boxes.length) list.lastElementChild.remove();
    boxes.forEach((_, g) => {
      const row = list.children[g] ?? make(list, "div", { class: "lab-sum" });
      const [name, bar, words] = row.children.length ? row.children : ["span", "div", "span"].map((tag) => make(row, tag));
      write(name, lab.name(g));
      set(name, { style: `--box: ${boxColor(g)}` });
      const ious = answer.costs.ious.subarray(g * priors.length, (g + 1) * priors.length);
      const best = priors.map((_, n) => n).sort((a, b) => ious[b] - ious[a]).slice(0, topk).filter((n) => ious[n] > 0);
      while (bar.children.length > best.length + 1) bar.lastElementChild.remove();
      while (bar.children.length < best.length + 1) make(bar, "i");
      best.forEach((n, index) => {
        const style = `width: ${(100 * ious[n]) / scale}%; background: ${LEVELS[priors[n].level]}`;
        set(bar.children[index], { style, class: "" });
      });
      set(bar.children[best.length], { class: "k", style: `left: ${(100 * answer.ks[g]) / scale}%` });
      write(words, `${answer.sums[g].toFixed(2)} → k ${answer.ks[g]}`);
    });
    const sums = boxes.map((_, g) => `${lab.name(g)} ${answer.sums[g].toFixed(2)}`);
    set(list, { "aria-label": `Sums of the best IoUs: ${sums.join(", ")}` });
  };
}

/**
 * A button that goes through the moments; the maps of all of them are loaded first.
 *
 * @param {Element} parent
 * @param {import("../data.js").Lab} lab
 */
function makeFilm(parent, lab) {
  const { store, scene } = lab;
  let timer = 0;
  let failed = false;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
  };
  const play = button(parent, "", async () => {
    if (timer) {
      stop();
      store.change({});
      return;
    }
    failed = false;
    timer = -1;
    store.change({});
    try {
      await Promise.all(scene.moments.map((_, index) => lab.loadMoment(index)));
    } catch {
      failed = true;
      timer = 0;
      store.change({});
      return;
    }
    if (timer !== -1) return; // pressed again meanwhile
    store.change({ moment: 0, step: 5 }, "film");
    timer = window.setInterval(() => {
      const next = store.state.moment + 1;
      if (next < scene.moments.length) store.change({ moment: next }, "film");
      if (next >= scene.moments.length - 1) {
        stop();
        store.lift();
        store.change({});
      }
    }, FILM);
  });
  play.classList.add("lab-film");
  return () => {
    if (failed) write(play, "The film could not be loaded: try again");
    else write(play, timer ? "Stop the film" : "Play the training as a film (0.4 MB)");
  };
}
