// The detector itself: an image in; feature maps, logits, distances and detections out.
//
// The layers are those of minirtmdet.backbone, minirtmdet.neck and minirtmdet.head.network, with MMDetection's names.
// Weights are whole numbers with a factor for each output (benchmarks/record_network.py).  Convolutions are sums over
// columns of the image, in fp32; that takes some tenths of a second for 160 pixels.

import { iou } from "./boxes.js";
import { decode, gridPriors, sigmoid, STRIDES } from "./priors.js";

/** @typedef {{ channels: number, size: number, data: Float32Array }} FeatureMap [channels,size,size] */
/** @typedef {{ box: number[], label: number, score: number, prior: number }} Detection */
/** @typedef {{ weight: Float32Array, factor: Float32Array, addend: Float32Array, shape: number[] }} Layer */

export const SIZE = 160;
const MEAN = [103.53, 116.28, 123.675];
const STD = [57.375, 57.12, 58.395];
const NMS_IOU = 0.65;

/**
 * The weights by the names of their layers.
 *
 * @param {ArrayBuffer} file unpacked
 * @returns {Map<string, Layer>}
 */
export function readWeights(file) {
  const [length, count] = new Uint32Array(file, 0, 2);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
  const floats = new Float32Array(file, 8 + length, count);
  const wholes = new Int8Array(file, 8 + length + 4 * count);
  /** @type {Map<string, Layer>} */
  const layers = new Map();
  for (const [name, { shape, floats: first, wholes: start }] of Object.entries(header)) {
    const outputs = shape[0];
    const size = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b);
    layers.set(name, {
      shape,
      weight: Float32Array.from(wholes.subarray(start, start + size)),
      factor: floats.subarray(first, first + outputs),
      addend: floats.subarray(first + outputs, first + 2 * outputs),
    });
  }
  return layers;
}

/**
 * The values that a kernel sees, a row for each of its places and a column for each place of the result.
 *
 * @param {FeatureMap} input
 * @param {number} first channel
 * @param {number} channels
 * @param {number} kernel
 * @param {number} stride
 */
function columns({ size, data }, first, channels, kernel, stride) {
  const out = Math.floor((size - 1) / stride) + 1;
  const pad = (kernel - 1) / 2;
  const table = new Float32Array(channels * kernel * kernel * out * out);
  let row = 0;
  for (let c = first; c < first + channels; c++) {
    for (let ky = 0; ky < kernel; ky++) {
      for (let kx = 0; kx < kernel; kx++, row++) {
        for (let y = 0; y < out; y++) {
          const from = y * stride + ky - pad;
          if (from < 0 || from >= size) continue;
          const line = (c * size + from) * size;
          const place = (row * out + y) * out;
          for (let x = 0; x < out; x++) {
            const at = x * stride + kx - pad;
            if (at >= 0 && at < size) table[place + x] = data[line + at];
          }
        }
      }
    }
  }
  return table;
}

/**
 * A convolution with its factor and addend; SiLU after it where wanted.
 *
 * @param {FeatureMap} input
 * @param {Layer} layer
 * @param {number} [stride]
 * @param {boolean} [activate]
 * @returns {FeatureMap}
 */
export function convolve(input, { weight, factor, addend, shape }, stride = 1, activate = true) {
  const [outputs, inputs, kernel] = shape;
  const groups = input.channels / inputs;
  const size = Math.floor((input.size - 1) / stride) + 1;
  const area = size * size;
  const depth = inputs * kernel * kernel;
  const data = new Float32Array(outputs * area);
  for (let g = 0; g < groups; g++) {
    const plain = kernel === 1 && stride === 1;
    const table = plain ? input.data : columns(input, g * inputs, inputs, kernel, stride);
    const start = plain ? g * inputs * area : 0;
    for (let o = (g * outputs) / groups; o < ((g + 1) * outputs) / groups; o++) {
      sumRows(data.subarray(o * area, (o + 1) * area), weight, o * depth, table, start, depth);
    }
  }
  for (let o = 0; o < outputs; o++) {
    for (let place = o * area; place < (o + 1) * area; place++) {
      const value = data[place] * factor[o] + addend[o];
      data[place] = activate ? value / (1 + Math.exp(-value)) : value;
    }
  }
  return { channels: outputs, size, data };
}

/**
 * Rows of a table, each times its weight, added up; four at a time, so that the sum is read and written less often.
 *
 * @param {Float32Array} sum
 * @param {Float32Array} weight
 * @param {number} first weight
 * @param {Float32Array} table
 * @param {number} start of the first row
 * @param {number} depth how many rows
 */
function sumRows(sum, weight, first, table, start, depth) {
  const area = sum.length;
  let d = 0;
  for (; d + 3 < depth; d += 4) {
    const [a, b, c, e] = [weight[first + d], weight[first + d + 1], weight[first + d + 2], weight[first + d + 3]];
    const row = start + d * area;
    const [two, three, four] = [row + area, row + 2 * area, row + 3 * area];
    for (let x = 0; x < area; x++) {
      sum[x] += a * table[row + x] + b * table[two + x] + c * table[three + x] + e * table[four + x];
    }
  }
  for (; d < depth; d++) {
    const row = start + d * area;
    for (let x = 0; x < area; x++) sum[x] += weight[first + d] * table[row + x];
  }
}

/** Maps side by side. @param {FeatureMap[]} maps @returns {FeatureMap} */
function concatenate(maps) {
  const data = new Float32Array(maps.reduce((sum, map) => sum + map.data.length, 0));
  let place = 0;
  for (const map of maps) {
    data.set(map.data, place);
    place += map.data.length;
  }
  return { channels: maps.reduce((sum, map) => sum + map.channels, 0), size: maps[0].size, data };
}

/** Each cell four times. @param {FeatureMap} map @returns {FeatureMap} */
function enlarge({ channels, size, data }) {
  const large = new Float32Array(4 * data.length);
  for (let place = 0; place < large.length; place++) {
    const [x, y] = [place % (2 * size), Math.floor(place / (2 * size))]; // y counts the rows of all channels
    large[place] = data[(y >> 1) * size + (x >> 1)];
  }
  return { channels, size: 2 * size, data: large };
}

/** The largest of 5x5 cells. @param {FeatureMap} map @returns {FeatureMap} */
function pool({ channels, size, data }) {
  const best = new Float32Array(data.length);
  for (let place = 0; place < data.length; place++) {
    const x = place % size;
    const y = Math.floor(place / size) % size;
    let largest = -Infinity;
    for (let dy = Math.max(-2, -y); dy <= Math.min(2, size - 1 - y); dy++) {
      for (let dx = Math.max(-2, -x); dx <= Math.min(2, size - 1 - x); dx++) {
        largest = Math.max(largest, data[place + dy * size + dx]);
      }
    }
    best[place] = largest;
  }
  return { channels, size, data: best };
}

/** Weigh each channel by what the whole map holds. @param {FeatureMap} map @param {Layer} fc @returns {FeatureMap} */
function attend({ channels, size, data }, fc) {
  const area = size * size;
  const means = Float32Array.from({ length: channels }, (_, c) => {
    return data.subarray(c * area, (c + 1) * area).reduce((sum, value) => sum + value, 0) / area;
  });
  const gates = convolve({ channels, size: 1, data: means }, fc, 1, false).data;
  const weigh = (/** @type {number} */ gate) => Math.min(Math.max(gate / 6 + 0.5, 0), 1);
  return { channels, size, data: data.map((value, place) => value * weigh(gates[Math.floor(place / area)])) };
}

/**
 * Pixels to the network's input.
 *
 * @param {Uint8ClampedArray | number[]} rgba of SIZE x SIZE pixels
 * @returns {FeatureMap}
 */
export function normalise(rgba) {
  const area = SIZE * SIZE;
  const data = new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) {
    // blue, green, red
    for (let place = 0; place < area; place++) data[c * area + place] = (rgba[4 * place + 2 - c] - MEAN[c]) / STD[c];
  }
  return { channels: 3, size: SIZE, data };
}

/**
 * The whole network.
 *
 * @param {Map<string, Layer>} weights
 * @param {FeatureMap} image
 */
export function run(weights, image) {
  const layer = (/** @type {string} */ name) => /** @type {Layer} */ (weights.get(name));
  /** @param {FeatureMap} x @param {string} name @param {number} [stride] */
  const conv = (x, name, stride) => convolve(x, layer(name), stride);
  /** @param {FeatureMap} x @param {string} name @param {boolean} identity */
  const csp = (x, name, identity) => {
    let main = conv(x, `${name}.main_conv`);
    for (let block = 0; weights.has(`${name}.blocks.${block}.conv1`); block++) {
      const at = `${name}.blocks.${block}`;
      const seen = conv(conv(conv(main, `${at}.conv1`), `${at}.conv2.depthwise_conv`), `${at}.conv2.pointwise_conv`);
      if (identity) seen.data.forEach((value, place) => (seen.data[place] = value + main.data[place]));
      main = seen;
    }
    const halves = concatenate([main, conv(x, `${name}.short_conv`)]);
    const fc = weights.get(`${name}.attention.fc`);
    return conv(fc ? attend(halves, fc) : halves, `${name}.final_conv`);
  };

  /** @type {Record<string, FeatureMap>} */
  const maps = {};
  let x = conv(conv(conv(image, "backbone.stem.0", 2), "backbone.stem.1"), "backbone.stem.2");
  maps.stem = x;
  for (const stage of [1, 2, 3, 4]) {
    x = conv(x, `backbone.stage${stage}.0`, 2);
    if (stage === 4) {
      const pooled = [conv(x, "backbone.stage4.1.conv1")];
      for (let time = 0; time < 3; time++) pooled.push(pool(pooled[time]));
      x = conv(concatenate(pooled), "backbone.stage4.1.conv2");
    }
    x = csp(x, `backbone.stage${stage}.${stage === 4 ? 2 : 1}`, stage < 4);
    maps[`stage ${stage}`] = x;
  }

  const wide = conv(maps["stage 4"], "neck.reduce_layers.0");
  const middle = csp(concatenate([enlarge(wide), maps["stage 3"]]), "neck.top_down_blocks.0", false);
  const narrow = conv(middle, "neck.reduce_layers.1");
  const outs = [csp(concatenate([enlarge(narrow), maps["stage 2"]]), "neck.top_down_blocks.1", false)];
  for (const [level, lateral] of [narrow, wide].entries()) {
    const down = conv(outs[level], `neck.downsamples.${level}`, 2);
    outs.push(csp(concatenate([down, lateral]), `neck.bottom_up_blocks.${level}`, false));
  }

  const heads = outs.map((out, level) => {
    const seen = conv(out, `neck.out_convs.${level}`);
    maps[`neck, stride ${STRIDES[level]}`] = seen;
    const tower = (/** @type {string} */ name) => conv(conv(seen, `bbox_head.${name}.${level}.0`), `bbox_head.${name}.${level}.1`);
    const logits = convolve(tower("cls_convs"), layer(`bbox_head.rtm_cls.${level}`), 1, false);
    const raw = convolve(tower("reg_convs"), layer(`bbox_head.rtm_reg.${level}`), 1, false);
    return { logits, distances: { ...raw, data: raw.data.map((value) => Math.exp(value) * STRIDES[level]) } };
  });
  return {
    maps,
    logits: flatten(heads.map((head) => head.logits)),
    distances: flatten(heads.map((head) => head.distances)),
  };
}

/** Maps of all levels as rows of priors, [N,C]. @param {FeatureMap[]} levels */
function flatten(levels) {
  const { channels } = levels[0];
  const rows = new Float32Array(levels.reduce((sum, { data }) => sum + data.length, 0));
  let first = 0;
  for (const { size, data } of levels) {
    for (let place = 0; place < size * size; place++) {
      for (let c = 0; c < channels; c++) rows[(first + place) * channels + c] = data[c * size * size + place];
    }
    first += size * size;
  }
  return rows;
}

/**
 * Detections, best first: of those of one class that overlap, the best stays.
 *
 * @param {Float32Array} logits [N,C]
 * @param {Float32Array} distances [N,4]
 * @param {number} threshold
 * @returns {Detection[]}
 */
export function detect(logits, distances, threshold) {
  const boxes = decode(gridPriors(SIZE), distances);
  const count = boxes.length / 4;
  const classes = logits.length / count;
  /** @type {Detection[]} */
  const found = [];
  logits.forEach((logit, place) => {
    const score = sigmoid(logit);
    if (score <= threshold) return;
    const prior = Math.floor(place / classes);
    const box = [...boxes.subarray(4 * prior, 4 * prior + 4)].map((side) => Math.min(Math.max(side, 0), SIZE));
    found.push({ box, label: place % classes, score, prior });
  });
  /** @type {Detection[]} */
  const kept = [];
  for (const one of found.sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => other.label !== one.label || iou(other.box, one.box) <= NMS_IOU)) kept.push(one);
  }
  return kept;
}
