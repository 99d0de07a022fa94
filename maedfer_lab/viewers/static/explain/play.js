// Play: the widgets' player over a kernel that lives in this page; and one's own pictures.

const ERROR_TOP = 1; // of the error's colours, in squared target units: the same for every mask
const MOTION_GAIN = 5; // a change by a fifth of the range saturates

/** What player.js talks to: JupyterLab's kernel there, the model in this page here. */
class Kernel {
  constructor(method, engine, colours, { stride, footer }) {
    Object.assign(this, { method, engine, colours, footer, fps: 25 / stride, live: true, clips: new Map(), listeners: {}, history: [], serial: 0 });
    this.values = { controls: [], status: { state: "idle", serial: 0 }, scene: {}, table: new Uint8Array() };
  }

  get(name) { return this.values[name]; }
  on(name, callback) { (this.listeners[name] ??= []).push(callback); }
  off(name, callback) { this.listeners[name] = this.listeners[name]?.filter((one) => one !== callback); }
  tell(name, ...values) { for (const callback of this.listeners[name] ?? []) callback(...values); }

  set(name, value) {
    this.values[name] = value;
    this.tell(`change:${name}`);
  }

  /** From the player: a picture to save, or a cube of a stroke, all of which one undo takes back. */
  send({ name, value, serial }) {
    this.asked = serial;
    if (name === "save") return this.save();
    const { place, hide, stroke } = value;
    const goesOn = stroke === this.stroke;
    this.stroke = stroke;
    this.mask(this.hidden[place] === Number(hide) ? this.hidden : this.method.paint(this.hidden, [place], hide), goesOn);
  }

  choose(clip) {
    this.clip = clip;
    this.compute();
  }

  mask(hidden, goesOn = false) {
    if (this.hidden && !goesOn) this.history.push(this.hidden);
    this.hidden = hidden;
    this.compute();
  }

  undo() {
    if (!this.history.length) return;
    this.hidden = this.history.pop();
    this.compute();
  }

  /** One pass at a time; of many wishes the last one. */
  async compute() {
    const status = (state, more = {}) => this.set("status", { state, serial: this.asked ?? 0, ...more });
    const serial = ++this.serial;
    this.tell("mask");
    status("working");
    if (this.busy) return;
    this.busy = true;
    try {
      const begun = performance.now();
      const { clip, hidden } = this;
      if (!this.result) this.show(clip, hidden, null);
      const result = await this.engine.run(this.clips.get(clip), hidden);
      this.result = { ...result, clip, hidden };
      this.show(clip, hidden, this.result);
      this.took = performance.now() - begun;
      this.tell("result", this.result);
      if (serial === this.serial) status("idle");
    } catch (error) {
      status("idle", { text: `The model does not run in this browser: ${error.message}.`, error: true });
    } finally {
      this.busy = false;
    }
    if (serial !== this.serial) this.compute();
  }

  /** Pictures of one mask, as player.js reads them. */
  show(name, hidden, result) {
    const { method, colours } = this;
    const clip = this.clips.get(name);
    const { size, frames, grid, tubelet, region } = method;
    const masked = method.split(hidden).masked;
    const seen = clip.slice();
    const hatch = (at) => {
      const pixel = Math.floor(at / 3) % size ** 2;
      return (Math.floor((Math.floor(pixel / size) + (pixel % size)) / Math.max(2, tubelet[1] / 4)) % 2 ? 158 : 98) / 255;
    };
    for (const token of masked) for (const k of method.inside) seen[method.base(token) + k] = hatch(method.base(token) + k);
    const rows = [{ label: "truth", pixels: clip }, { label: "what the model sees", pixels: seen }];
    if (result) {
      const motion = { low: "darker", high: "brighter", colours: legend(colours.motion) };
      rows.push(
        { label: "the model's guess", pixels: result.reconstruction },
        { label: "interpolation, no model", pixels: result.interpolation },
        { label: "true motion", pixels: this.motion(clip), scale: motion },
        { label: "guessed motion", pixels: this.motion(result.reconstruction), scale: motion },
        { label: "error per cube", pixels: this.heat(result.error, hidden), scale: { low: "0", high: `${ERROR_TOP} and more`, colours: legend(colours.error) } },
      );
    }
    const count = hidden.reduce((a, b) => a + b) / method.windows;
    this.values.sprite = bitmap(rows.map((row) => row.pixels), size, frames);
    this.values.table = new Uint8Array((result?.error ?? new Float32Array(method.n)).buffer);
    this.set("scene", {
      viewer: "page", serial: this.serial, mime: "image/bmp", title: name, frames, fps: this.fps, timed: true,
      tallest: innerWidth < 600 ? 1400 : 780, // px; a phone scrolls
      tile: [size, size], grid, tubelet, region, click: "tube", strips: rows.length,
      rows: rows.map(({ label, scale }, strip) => ({ label, strip, ...(scale && { scale }) })),
      hidden: [...hidden].join(""), visible: method.n - masked.length, values: [{ label: "error", offset: 0 }],
      footer: `Hidden: ${count} of ${method.perWindow} cubes in each region, ${masked.length} of ${method.n} in the clip (${Math.round((100 * masked.length) / method.n)} %). ${this.footer}.`,
      readout: {
        table: result && [["mean squared error on hidden cubes", "appearance", "motion"],
          ...Object.entries({ model: "the model", ...BASELINES }).map(([key, label]) => [label, ...["appearance", "motion"].map((kind) => result.losses[key][kind].toFixed(4))])],
      },
    });
  }

  /** All pictures of the frame that is shown, as a PNG, with what stands under every export. */
  async save() {
    const { scene, sprite } = this.values;
    const [from, gap, line, columns] = [scene.tile[0], 12, 20, 4];
    const size = from * Math.max(1, Math.floor(200 / from));
    const sheet = await createImageBitmap(new Blob([sprite], { type: scene.mime }));
    const frame = Number(document.querySelector("#player [data-frame]").dataset.frame);
    const down = Math.ceil(scene.rows.length / columns);
    const canvas = new OffscreenCanvas(columns * (size + gap) + gap, 3 * line + down * (size + line + gap));
    const context = canvas.getContext("2d");
    const text = (words, x, y, room) => context.fillText(words, x, y, room);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = "#000";
    context.imageSmoothingEnabled = false;
    context.font = "12px system-ui, sans-serif";
    text(`${scene.title}, frame ${frame + 1} of ${scene.frames}`, gap, line, canvas.width - 2 * gap);
    scene.rows.forEach(({ label }, i) => {
      const [x, y] = [gap + (i % columns) * (size + gap), 2 * line + Math.floor(i / columns) * (size + line + gap)];
      text(label, x, y + line - 6, size);
      context.drawImage(sheet, frame * from, i * from, from, from, x, y + line, size, size);
    });
    text(scene.footer, gap, canvas.height - line / 2, canvas.width - 2 * gap);
    const file = await canvas.convertToBlob();
    this.tell("msg:custom", { file: `${scene.title.replace(/\.\w+$/, "")}.png` }, [await file.arrayBuffer()]);
    this.set("status", { state: "idle", serial: this.asked });
  }

  /** Change of brightness from even to odd frames, in colours. */
  motion(clip) {
    const out = new Float32Array(clip.length);
    const frame = this.method.size ** 2 * 3;
    for (let at = 0; at < clip.length; at += 3) {
      const first = at - (Math.floor(at / frame) % 2) * frame;
      let change = 0;
      [0.299, 0.587, 0.114].forEach((weight, c) => { change += weight * (clip[first + frame + c] - clip[first + c]); });
      this.paint(out, at, this.colours.motion, (change * MOTION_GAIN + 1) / 2);
    }
    return out;
  }

  heat(error, hidden) {
    const { method } = this;
    const out = new Float32Array(method.frames * method.size ** 2 * 3).fill(GREY);
    error.forEach((value, token) => {
      if (!hidden[token % method.places]) return;
      const base = method.base(token);
      for (let k = 0; k < method.p; k += 3) this.paint(out, base + method.inside[k], this.colours.error, value / ERROR_TOP);
    });
    return out;
  }

  paint(out, at, table, share) {
    const i = 3 * Math.round(255 * Math.min(1, Math.max(0, share)));
    for (let c = 0; c < 3; c++) out[at + c] = table[i + c] / 255;
  }
}

const legend = (table) => [0, 51, 102, 153, 204, 255].map((i) => `rgb(${table.slice(3 * i, 3 * i + 3).join(",")})`);

/** Clips as one uncompressed picture: a row each, frames side by side. */
function bitmap(clips, size, frames) {
  const [width, height] = [frames * size, clips.length * size];
  const file = new ArrayBuffer(54 + width * height * 4);
  const view = new DataView(file);
  view.setUint16(0, 0x424d);
  for (const [at, value] of [[2, file.byteLength], [10, 54], [14, 40], [18, width], [22, -height]]) view.setInt32(at, value, true);
  view.setUint16(26, 1, true);
  view.setUint16(28, 32, true);
  const out = new Uint8ClampedArray(file, 54);
  clips.forEach((clip, row) => {
    for (let f = 0, from = 0; f < frames; f++) for (let y = 0; y < size; y++) {
      let to = ((row * size + y) * width + f * size) * 4;
      for (let x = 0; x < size; x++, from += 3, to += 4) {
        for (let c = 0; c < 3; c++) out[to + 2 - c] = 255 * clip[from + c];
        out[to + 3] = 255;
      }
    }
  });
  return new Uint8Array(file);
}

/** Frames side by side (an encoded picture) as a clip. */
async function unpack(bytes, size, frames) {
  const picture = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const clip = new Float32Array(frames * size * size * 3);
  for (let f = 0; f < frames; f++) clip.set(pixels(context, f * size, size), f * size * size * 3);
  return clip;
}

/** A square of a canvas as numbers in [0, 1]. */
function pixels(context, left, size) {
  return Float32Array.from(context.getImageData(left, 0, size, size).data.filter((_, i) => i % 4 !== 3), (value) => value / 255);
}

/** Buttons and slider above the player. */
function startPlay(kernel, clips, face) {
  const { method } = kernel;
  const byId = (id) => document.getElementById(id);
  const slider = byId("ratio");
  slider.max = method.perWindow - 1;
  let seed = 0;
  const random = (count) => kernel.mask(method.randomMask(count, seeded(seed)));
  const part = ([[top, bottom], [left, right]]) => [...Array(method.places).keys()].filter((place) => {
    const [y, x] = [(Math.floor(place / method.w) + 0.5) / method.h, ((place % method.w) + 0.5) / method.w];
    return y > top && y < bottom && x > left && x < right;
  });
  // What must be hidden elsewhere, for equal regions, is taken far from the face's middle.
  const far = (place) => -(((Math.floor(place / method.w) + 0.5) / method.h - 0.5) ** 2 + ((place % method.w + 0.5) / method.w - 0.5) ** 2);
  const presets = {
    eyes: () => kernel.mask(method.paint(new Uint8Array(method.places), part(face.eyes), true, far)),
    mouth: () => kernel.mask(method.paint(new Uint8Array(method.places), part(face.mouth), true, far)),
    50: () => random(Math.round(method.perWindow * 0.5)),
    75: () => random(Math.round(method.perWindow * 0.75)),
    90: () => random(Math.round(method.perWindow * 0.9)),
    again: () => { seed += 1; random(Number(slider.value)); },
    undo: () => kernel.undo(),
    reset: () => { seed = 0; random(Math.round(method.perWindow * 0.75)); },
  };
  for (const [name, action] of Object.entries(presets)) byId(`do-${name}`).addEventListener("click", action);
  slider.addEventListener("input", () => random(Number(slider.value)));
  kernel.on("mask", () => {
    const count = kernel.hidden.reduce((a, b) => a + b) / method.windows;
    slider.value = count;
    byId("ratio-told").textContent = `${Math.round((100 * count) / method.perWindow)} % hidden`;
    slider.setAttribute("aria-valuetext", `${count} of ${method.perWindow} cubes of each region hidden`);
    byId("do-undo").disabled = !kernel.history.length;
  });
  kernel.on("result", ({ losses, ms }) => {
    byId("verdict").textContent = `Appearance: ${compare("appearance", losses)}.\nMotion: ${compare("motion", losses)}.`;
    byId("took").textContent = `The model took ${(ms / 1000).toFixed(2)} s for this, in this tab.`;
    document.body.dataset.passes = Number(document.body.dataset.passes ?? 0) + 1;
  });

  const people = byId("people");
  const offer = (name, clip) => {
    kernel.clips.set(name, clip);
    const canvas = Object.assign(document.createElement("canvas"), { width: method.size, height: method.size });
    const middle = (method.frames - 1) * method.size ** 2 * 3;
    canvas.getContext("2d").putImageData(picture(clip, middle, method.size), 0, 0);
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "person", value: name });
    input.addEventListener("change", () => kernel.choose(name));
    const label = document.createElement("label");
    label.append(input, canvas, name);
    people.append(label);
    return input;
  };
  for (const [name, clip] of clips) offer(name, clip);
  people.querySelector("input").checked = true;
  return (name, clip) => { // a clip of one's own: offered, and shown
    [...people.children].find((label) => label.firstChild.value === name)?.remove();
    offer(name, clip).checked = true;
    kernel.choose(name);
  };
}

/** A frame of a clip as ImageData. */
function picture(clip, from, size) {
  const data = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = 255 * clip[from + 3 * i + c];
    data.data[4 * i + 3] = 255;
  }
  return data;
}

/** Your own: a picture, a video or the camera; a square is dragged, and its frames become a clip. */
function startOwn(method, { stride, framing }, finder, take) {
  const byId = (id) => document.getElementById(id);
  const [canvas, video, told, start] = ["own-canvas", "own-video", "own-told", "own-start"].map(byId);
  const step = stride / 25; // seconds between frames, as the model was trained
  const span = step * (method.frames - 1);
  const square = { x: 0.5, y: 0.5, side: 0.9 }; // the side as a share of the picture's shorter one
  let source = null; // an ImageBitmap or the video
  let stream = null;
  const say = (text) => { told.textContent = text; };
  const size = () => (source === video ? [video.videoWidth, video.videoHeight] : [source.width, source.height]);

  const box = () => {
    const [w, h] = size();
    const side = square.side * Math.min(w, h);
    const clamp = (value, most) => Math.min(Math.max(value, side / 2), most - side / 2);
    const [x, y] = [clamp(square.x * w, w), clamp(square.y * h, h)];
    Object.assign(square, { x: x / w, y: y / h });
    return { left: x - side / 2, top: y - side / 2, side };
  };
  const draw = () => {
    if (!source || !size()[0]) return;
    const [w, h] = size();
    canvas.width = Math.min(640, w);
    canvas.height = Math.round((canvas.width * h) / w);
    const scale = canvas.width / w;
    const context = canvas.getContext("2d");
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    const { left, top, side } = box();
    const [x, y, s] = [left, top, side].map((value) => value * scale);
    context.fillStyle = "rgb(0 0 0 / 55%)";
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(x, y, s, s);
    context.fill("evenodd");
    for (const [width, colour] of [[5, "#000"], [2, "#fff"]]) { // and where a head should be
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.strokeRect(x, y, s, s);
      context.beginPath();
      context.ellipse(x + s / 2, y + s * 0.5, s * 0.22, s * 0.29, 0, 0, 2 * Math.PI);
      context.stroke();
    }
  };
  /** Lays the square around the largest face, as the model learnt faces. */
  const find = async (more = "") => {
    say("Looking for a face …");
    byId("own-take").disabled = true;
    try {
      const [w, h] = size();
      const face = await finder.find(source, w, h);
      if (!face) return say(`No face was found: drag the square. ${more}`);
      square.y = face.y + face.h * (0.5 - framing.lift);
      square.x = face.x + face.w / 2;
      square.side = 1;
      zoom((framing.side * Math.max(face.w * w, face.h * h)) / Math.min(w, h));
      say(`A face was found; drag the square if it is not right. ${more}`);
    } catch (error) {
      say(`Drag the square: the finder does not run here (${error.message}). ${more}`);
    } finally {
      byId("own-take").disabled = false;
    }
  };
  const live = () => {
    if (!stream) return;
    draw();
    requestAnimationFrame(live);
  };
  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.pause();
    video.removeAttribute("src");
    video.srcObject = null;
  };
  const show = (what, name) => {
    source = what;
    byId("own-stage").hidden = false;
    byId("own-start-row").hidden = source !== video || Boolean(stream);
    byId("own-name").textContent = name;
    draw();
  };
  const seek = (seconds) => new Promise((resolve) => {
    const done = () => { video.removeEventListener("seeked", done); resolve(); };
    video.addEventListener("seeked", done);
    video.currentTime = seconds;
  });
  const opened = () => new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error("this browser cannot play this file; try MP4 (H.264) or WebM"));
  });

  byId("own-file").addEventListener("change", async ({ target }) => {
    const file = target.files[0];
    if (!file) return;
    stop();
    try {
      if (file.type.startsWith("image/")) {
        show(await createImageBitmap(file), file.name);
        return find("A still picture: nothing in it moves, so the motion to guess is zero.");
      }
      const wait = opened();
      video.src = URL.createObjectURL(file);
      await wait;
      start.max = Math.max(0, video.duration - span).toFixed(1);
      start.value = start.max / 2;
      await seek(Number(start.value));
      show(video, file.name);
      find(video.duration < span ? `The video lasts ${video.duration.toFixed(1)} s; a clip needs ${span.toFixed(1)} s, so its last frame is repeated.` : "");
    } catch (error) {
      say(`${file.name}: ${error.message}.`);
    }
  });
  byId("own-camera").addEventListener("click", async () => {
    stop();
    try {
      if (!navigator.mediaDevices) throw new Error("this browser gives pages from disk no camera; use a picture or a video");
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, facingMode: "user" } });
      const wait = opened();
      video.srcObject = stream;
      await video.play();
      await wait;
      show(video, "camera");
      say(`Look into the oval, then press the button: it takes ${span.toFixed(1)} seconds.`);
      live();
    } catch (error) {
      stream = null;
      say(`No camera: ${error.message}.`);
    }
  });
  start.addEventListener("input", async () => {
    byId("own-start-told").textContent = `${Number(start.value).toFixed(1)} s`;
    await seek(Number(start.value));
    draw();
  });

  const move = (x, y) => { Object.assign(square, { x, y }); draw(); };
  const zoom = (factor) => { square.side = Math.min(1, Math.max(0.15, square.side * factor)); byId("own-side").value = square.side; draw(); };
  const drag = ({ clientX, clientY, buttons }) => {
    const at = canvas.getBoundingClientRect();
    if (buttons && source) move((clientX - at.left) / at.width, (clientY - at.top) / at.height);
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); drag(event); });
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] }[event.key];
    if (way) move(square.x + way[0], square.y + way[1]);
    else if ("+-".includes(event.key)) zoom(event.key === "+" ? 1.05 : 1 / 1.05);
    else return;
    event.preventDefault();
  });
  byId("own-find").addEventListener("click", () => find());
  byId("own-side").addEventListener("input", ({ target }) => zoom(target.value / square.side));

  byId("own-take").addEventListener("click", async () => {
    const small = new OffscreenCanvas(method.size, method.size);
    const context = small.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    const clip = new Float32Array(method.frames * method.size ** 2 * 3);
    const begun = performance.now();
    byId("own-take").disabled = true;
    for (let f = 0; f < method.frames; f++) {
      say(`frame ${f + 1} of ${method.frames}`);
      if (stream) await new Promise((done) => setTimeout(done, begun + 1000 * step * f - performance.now()));
      else if (source === video) await seek(Math.min(Number(start.value) + step * f, video.duration - 0.01));
      const { left, top, side } = box();
      context.drawImage(source, left, top, side, side, 0, 0, method.size, method.size);
      clip.set(pixels(context, 0, method.size), f * method.size ** 2 * 3);
    }
    byId("own-take").disabled = false;
    say("Your clip is in the player above. It is gone when you close this page.");
    take(byId("own-name").textContent, clip);
    byId("play").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  });
  return square;
}
