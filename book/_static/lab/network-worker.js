// The network beside the page, so that the page stays quick while it computes.

import { normalise, readWeights, run } from "./network.js";

/** @type {Promise<Map<string, import("./network.js").Layer>> | null} */
let weights = null;

async function load() {
  const answer = await fetch(new URL("network.bin", import.meta.url));
  if (!answer.ok || !answer.body) throw new Error(`network.bin: ${answer.status} ${answer.statusText}`);
  const unpacked = answer.body.pipeThrough(new DecompressionStream("gzip"));
  return readWeights(await new Response(unpacked).arrayBuffer());
}

addEventListener("message", async ({ data }) => {
  try {
    weights ??= load();
    const layers = await weights;
    const start = performance.now();
    const result = run(layers, normalise(data));
    postMessage({ ...result, milliseconds: performance.now() - start });
  } catch (error) {
    weights = null; // the next try loads anew
    postMessage({ error: String(error) });
  }
});
