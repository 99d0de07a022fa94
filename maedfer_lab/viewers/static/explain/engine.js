// The model: onnxruntime-web in a worker, one thread, from bytes that lie in this file.

/** A part of this page: base64 of gzip. */
async function part(name) {
  const text = document.getElementById(`part-${name}`).textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const WORKER = `
let ort, session;
onmessage = async ({ data }) => {
  try {
    if (data.code) {
      ort = await import(URL.createObjectURL(new Blob([data.code], { type: "text/javascript" })));
      Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: data.wasm });
      session = await ort.InferenceSession.create(new Uint8Array(data.model), { executionProviders: ["wasm"] });
      return postMessage({ serial: data.serial });
    }
    const started = performance.now();
    const ints = (values) => new ort.Tensor("int32", values, [values.length]);
    const found = await session.run({
      clip: new ort.Tensor("float32", data.clip, data.dims), visible: ints(data.visible), masked: ints(data.masked),
    });
    const outputs = {};
    for (const [name, value] of Object.entries(found)) outputs[name] = { dims: value.dims, data: value.data };
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
    await this.ask({ code, wasm, model }, [code, wasm, model]);
  }

  /** Predictions of the hidden tokens, attention maps by name, and what is made of them. */
  async run(clip, hidden) {
    await this.ready;
    const { method } = this;
    const split = method.split(hidden);
    const planes = method.planes(clip);
    const dims = [1, 3, method.frames, method.size, method.size];
    const { outputs, ms } = await this.ask({ clip: planes, dims, ...split }, [planes.buffer]);
    const { prediction, ...maps } = outputs;
    return { split, maps, ms, prediction: prediction.data, ...method.result(clip, hidden, split, prediction.data) };
  }
}
