// The networks: onnxruntime-web in a worker, one thread, from bytes that lie in this file.

/** A part of this page: base64 of gzip. */
async function part(name) {
  const text = document.getElementById(`part-${name}`).textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Bytes that lie as all even ones, then all odd ones: in their order again. */
function interleave(planes) {
  const from = new Uint8Array(planes);
  const half = Math.ceil(from.length / 2);
  const bytes = new Uint8Array(from.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = from[(i >> 1) + (i & 1) * half];
  return bytes.buffer;
}

const WORKER = `
let ort;
const sessions = {};
onmessage = async ({ data }) => {
  try {
    let outputs;
    const started = performance.now();
    if (data.code) {
      ort = await import(URL.createObjectURL(new Blob([data.code], { type: "text/javascript" })));
      Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: data.wasm });
    } else if (data.model) {
      sessions[data.name] = await ort.InferenceSession.create(new Uint8Array(data.model), { executionProviders: ["wasm"] });
    } else {
      const feeds = Object.entries(data.feeds).map(([name, about]) => [name, new ort.Tensor(...about)]);
      const found = Object.entries(await sessions[data.name].run(Object.fromEntries(feeds)));
      outputs = Object.fromEntries(found.map(([name, { dims, data }]) => [name, { dims, data }]));
    }
    postMessage({ serial: data.serial, outputs, ms: performance.now() - started });
  } catch (error) {
    postMessage({ serial: data.serial, error: String(error?.message ?? error) });
  }
};`;

class Engine {
  constructor(method) {
    this.method = method;
    this.waiting = new Map();
    this.serial = 0;
    // A classic worker: from disk, browsers start no module worker.
    this.worker = new Worker(URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" })));
    this.worker.onmessage = ({ data }) => {
      const [resolve, reject] = this.waiting.get(data.serial);
      this.waiting.delete(data.serial);
      data.error ? reject(new Error(data.error)) : resolve(data);
    };
    this.worker.onerror = (event) => {
      this.failed = new Error(event.message || "no worker starts");
      for (const [, reject] of this.waiting.values()) reject(this.failed);
    };
    this.ready = this.load();
  }

  ask(message, handed = []) {
    if (this.failed) throw this.failed;
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.serial, [resolve, reject]);
      this.worker.postMessage({ ...message, serial: this.serial }, handed);
    });
  }

  async load() {
    const [code, wasm, model] = await Promise.all(["code", "wasm", "model"].map(part));
    await this.ask({ code, wasm }, [code, wasm]);
    await this.add("model", interleave(model));
  }

  /** Another network that lies in this file. */
  async open(name) {
    await this.ready;
    await this.add(name, await part(name));
  }

  add(name, model) {
    return this.ask({ name, model }, [model]);
  }

  /** Outputs of a network by name; feeds: [type, values, dimensions] by name. */
  async pass(name, feeds) {
    await this.ready;
    const { outputs, ms } = await this.ask({ name, feeds });
    return { ...outputs, ms };
  }

  /** Predictions of the hidden tokens, attention maps by name, and what is made of them. */
  async run(clip, hidden) {
    const { method } = this;
    const split = method.split(hidden);
    const planes = method.planes(clip);
    const dims = [1, 3, method.frames, method.size, method.size];
    const ints = (values) => ["int32", values, [values.length]];
    const feeds = { clip: ["float32", planes, dims], visible: ints(split.visible), masked: ints(split.masked) };
    const { prediction, ms, ...maps } = await this.pass("model", feeds);
    return { split, maps, ms, prediction: prediction.data, ...method.result(clip, hidden, split, prediction.data) };
  }
}
