// The playground: the book's scene, boxes to drag, settings to move, and the package's own assigner, which answers.
//
// scene.json, scene.png and assigner.onnx are written by book/_ext/playground.py, with the answer for what the page
// shows at first. onnxruntime-web runs the file; it is loaded when the reader asks for it.

const ROOT = new URL("./", import.meta.url);
const FILES = new URL("playground/", ROOT);
const SIZE = 160; // pixels of the image
const LEAST = 4; // pixels that a box keeps
const STRIDES = [8, 16, 32];
const BOXES = ["#0077bb", "#ee7733", "#ee3377"]; // minirtmdet.plots.canvas.BOXES
const SLIDERS = [
  { name: "stage", label: "moment", least: 0, step: 1 },
  { name: "topk", label: "top IoUs", least: 1, most: 13, step: 1 },
  { name: "iou_weight", label: "IoU weight", least: 0, most: 6, step: 0.5 },
  { name: "radius", label: "radius, strides", least: 0.5, most: 6, step: 0.5 },
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const root = document.getElementById("playground-widget");
const scene = await (await fetch(new URL("scene.json", FILES))).json();
const start = () => ({ boxes: structuredClone(scene.boxes), ...scene.settings });
root.replaceChildren(); // the words for readers whose browser does not come this far
let state = start();
let session = null;
let ort = null;
let asked = false; // whether an answer is being computed
let changed = false; // whether something moved meanwhile

// ------------------------------------------------------------------------------------------------ what is on the page

function element(parent, name, attributes = {}, text = "") {
  const svg = parent instanceof SVGElement || name === "svg";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

const image = element(root, "svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group", "aria-label": "The scene" });
element(image, "image", { href: new URL("scene.png", FILES), width: SIZE, height: SIZE });

const marks = scene.priors.map(([x, y, stride], index) => {
  const group = element(image, "g", { class: "prior", transform: `translate(${x} ${y})`, "data-owner": 0 });
  const level = STRIDES.indexOf(stride);
  const shape = [
    ["circle", { r: 1 }],
    ["rect", { x: -1, y: -1, width: 2, height: 2 }],
    ["path", { d: "M0 -1.4 1.4 0 0 1.4 -1.4 0z" }],
  ][level];
  const mark = element(group, ...shape);
  if (index === scene.follow) element(group, "circle", { class: "follow", r: 4.4 });
  return { group, mark };
});

const frames = scene.names.map((name, index) => {
  const group = element(image, "g", { class: "box", tabindex: 0, role: "img", style: `--box: ${BOXES[index]}` });
  element(group, "rect", { class: "side" });
  for (const corner of ["0 1", "2 1", "0 3", "2 3"]) {
    element(group, "rect", { class: "corner", width: 6, height: 6, "data-corner": corner });
  }
  return group;
});

const controls = element(root, "div", { class: "playground-controls" });
const button = element(controls, "button", { type: "button" }, "Start: loads 14 MB, once");
const sliders = SLIDERS.map(({ name, label, least, most = scene.stages.length - 1, step }) => {
  const row = element(controls, "label", {}, label);
  const input = element(row, "input", { type: "range", name, min: least, max: most, step, disabled: "" });
  const output = element(row, "span", { class: "value" });
  input.addEventListener("input", () => change({ [name]: Number(input.value) }));
  return { name, input, output };
});
const reset = element(controls, "button", { type: "button", disabled: "" }, "Back to the start");

const table = element(root, "table", { class: "table" });
const head = element(element(table, "thead"), "tr");
for (const title of ["box", "k", "positives", ...STRIDES.map((stride) => `stride ${stride}`), "best IoU"]) {
  element(head, "th", {}, title);
}
const body = element(table, "tbody");
const status = element(root, "p", { role: "status", class: "playground-status" });

// ------------------------------------------------------------------------------------------------------------- showing

function showState() {
  state.boxes.forEach(([x1, y1, x2, y2], index) => {
    const [side, ...corners] = frames[index].querySelectorAll("rect");
    for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) {
      side.setAttribute(key, value);
    }
    for (const corner of corners) {
      const [x, y] = corner.dataset.corner.split(" ").map((place) => state.boxes[index][place]);
      corner.setAttribute("x", x - 3);
      corner.setAttribute("y", y - 3);
    }
    frames[index].dataset.box = [x1, y1, x2, y2].join(" ");
    frames[index].setAttribute(
      "aria-label",
      `${scene.names[index]}, from ${x1}, ${y1} to ${x2}, ${y2}. Arrows move it, Shift with arrows its right lower corner.`,
    );
  });
  for (const { name, input, output } of sliders) {
    input.value = state[name];
    output.textContent = name === "stage" ? scene.stages[state.stage] : state[name];
    input.setAttribute("aria-valuetext", output.textContent);
  }
}

function showAnswer({ owners, ious, ks }) {
  marks.forEach(({ group, mark }, index) => {
    const owner = owners[index];
    group.dataset.owner = owner;
    group.style.setProperty("--box", owner ? BOXES[owner - 1] : "");
    mark.setAttribute("transform", `scale(${owner ? 1.6 + 1.6 * ious[index] : 0.5})`);
  });
  body.replaceChildren();
  const words = scene.names.map((name, box) => {
    const mine = owners.flatMap((owner, index) => (owner === box + 1 ? [index] : []));
    const levels = STRIDES.map((stride) => mine.filter((index) => scene.priors[index][2] === stride).length);
    const best = mine.length ? Math.max(...mine.map((index) => ious[index])).toFixed(2) : "none";
    const row = element(body, "tr", { style: `--box: ${BOXES[box]}` });
    for (const cell of [name, ks[box], mine.length, ...levels, best]) element(row, "td", {}, String(cell));
    return `${name} ${mine.length}`;
  });
  status.textContent = `Positives: ${words.join(", ")}.`;
}

// ----------------------------------------------------------------------------------------------------------- computing

async function load() {
  button.disabled = true;
  button.textContent = "Loading…";
  try {
    const runtime = new URL(scene.runtime, new URL("../", ROOT));
    ort = await import(runtime.href);
    ort.env.wasm.wasmPaths = new URL("./", runtime).href;
    ort.env.wasm.numThreads = 1;
    session = await ort.InferenceSession.create(new URL("assigner.onnx", FILES).href);
  } catch (error) {
    button.disabled = false;
    button.textContent = "Try again";
    status.textContent = `The assigner could not be loaded, from this site or from the one that it is on: ${error.message}`;
    return;
  }
  for (const { input } of sliders) input.disabled = false;
  reset.disabled = false;
  button.remove();
  root.dataset.ready = "";
  await compute();
}

async function compute() {
  changed = true;
  if (asked || !session) return;
  asked = true;
  while (changed) {
    changed = false;
    root.dataset.busy = "";
    const float = (values, shape) => new ort.Tensor("float32", Float32Array.from(values), shape);
    const whole = (value) => new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), [1]);
    const { owners, ious, ks } = await session.run({
      boxes: float(state.boxes.flat(), [1, state.boxes.length, 4]),
      stage: whole(state.stage),
      radius: float([state.radius], [1]),
      iou_weight: float([state.iou_weight], [1]),
      topk: whole(state.topk),
    });
    showAnswer({ owners: Array.from(owners.data, Number), ious: Array.from(ious.data), ks: Array.from(ks.data, Number) });
  }
  asked = false;
  delete root.dataset.busy;
}

function change(values) {
  Object.assign(state, values);
  showState();
  compute();
}

// ------------------------------------------------------------------------------------------------------------- dragging

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

function moveBox(index, [x1, y1, x2, y2], dx, dy) {
  const right = clamp(Math.round(dx), -x1, SIZE - x2);
  const down = clamp(Math.round(dy), -y1, SIZE - y2);
  change({ boxes: state.boxes.with(index, [x1 + right, y1 + down, x2 + right, y2 + down]) });
}

function moveCorner(index, box, [across, along], dx, dy) {
  const moved = [...box];
  for (const [place, distance] of [[across, dx], [along, dy]]) {
    const other = box[(place + 2) % 4];
    const limits = place < 2 ? [0, other - LEAST] : [other + LEAST, SIZE];
    moved[place] = clamp(Math.round(box[place] + distance), ...limits);
  }
  change({ boxes: state.boxes.with(index, moved) });
}

// a large box must not cover a small one, which nobody could take hold of
function raiseSmall() {
  const area = (frame) => {
    const [x1, y1, x2, y2] = frame.dataset.box.split(" ");
    return (x2 - x1) * (y2 - y1);
  };
  image.append(...frames.toSorted((one, other) => area(other) - area(one)));
}

frames.forEach((frame, index) => {
  frame.addEventListener("pointerdown", (down) => {
    if (!session) return;
    const target = down.target;
    const box = state.boxes[index];
    const pixel = SIZE / image.getBoundingClientRect().width;
    const corner = target.dataset.corner?.split(" ").map(Number);
    const follow = (move) => {
      const [dx, dy] = [(move.clientX - down.clientX) * pixel, (move.clientY - down.clientY) * pixel];
      corner ? moveCorner(index, box, corner, dx, dy) : moveBox(index, box, dx, dy);
    };
    target.setPointerCapture(down.pointerId);
    target.addEventListener("pointermove", follow);
    const end = () => {
      target.removeEventListener("pointermove", follow);
      raiseSmall();
    };
    target.addEventListener("pointerup", end, { once: true });
    target.addEventListener("pointercancel", end, { once: true });
  });
  // a browser that takes the finger's first pixels for scrolling would cancel the pointer
  frame.addEventListener("touchstart", (touch) => session && touch.preventDefault(), { passive: false });
  frame.addEventListener("keydown", (press) => {
    const arrow = ARROWS[press.key];
    if (!arrow || !session) return;
    press.preventDefault();
    const box = state.boxes[index];
    press.shiftKey ? moveCorner(index, box, [2, 3], ...arrow) : moveBox(index, box, ...arrow);
  });
});

button.addEventListener("click", load);
reset.addEventListener("click", () => change(start()));
showState();
raiseSmall();
showAnswer(scene.answer);
root.dataset.shown = "";
