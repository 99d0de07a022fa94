// Plays a sprite on one canvas: a row of the sprite is a picture over time, a column is a frame.
//
// The same file runs in JupyterLab and Voila (anywidget hands in `model`) and in a saved page,
// whose `model` answers nothing. Scrubbing, playing and looking up numbers need no kernel.
//
// What Python sends: `sprite` (an encoded picture), `scene` (how to read it), `table` (numbers),
// `controls` (what can be asked of the kernel) and `status` (what the kernel is doing).
// What Python is sent: {name, value, serial}, one message for each change. What it sends back
// beside the above: {file} with the content of a file to be saved.

const GAP = 12; // px between pictures
const EDGE = 2; // px left free at both sides, for lines around pictures
const LABEL = 44; // px above a picture, at least, for its label; SHORT where pictures are many
const SHORT = 15;
const LARGEST = 280; // px, side of a picture
const TALLEST = 650; // px, height of a viewer, as far as its pictures can grow smaller
const SPEEDS = { "real time": 1, "half speed": 0.5, "quarter speed": 0.25 };
const FILES = { html: "page", png: "picture", gif: "GIF", mp4: "video" };
const PATIENCE = 6000; // ms without an answer before the kernel is said to be gone

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const bytesOf = (view) =>
  view instanceof ArrayBuffer
    ? new Uint8Array(view)
    : new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/** Whole-number clamp. */
const within = (value, low, high) => Math.max(low, Math.min(high, value));

class Player {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.frame = 0;
    this.scene = {}; // of the picture that is shown; a newer one may still be decoding
    this.table = new Uint8Array();
    this.serial = 0;
    this.query = null;
    this.strength = 0.7;
    this.showRegions = false;
    this.timer = null;
    this.speed = 1;
    this.cursor = null; // the picture and cube that the keyboard is at
    this.pointed = null; // those that pointer or keyboard are at
    this.stroke = null; // of the pointer, while it hides or shows cubes
    this.strokes = 0;
    this.pending = new Map(); // place -> hide, until a picture of it comes
    this.build();
    this.listeners = [
      ["change:sprite", () => this.decode()],
      ["change:scene", () => this.decode()],
      ["change:controls", () => this.showControls()],
      ["change:status", () => this.showStatus()],
      ["msg:custom", (content, buffers) => content.file && this.save(content.file, buffers[0])],
    ];
    for (const [name, callback] of this.listeners) model.on(name, callback);
    this.resized = new ResizeObserver(() => this.root.clientWidth !== this.width && this.lay());
    this.resized.observe(root);
    this.showControls();
    this.showStatus();
    this.decode();
  }

  // ---------------------------------------------------------------- building

  build() {
    this.root.classList.add("maedfer-viewer");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys stay out
    this.title = make("div", { class: "maedfer-title" });
    this.playButton = make("button", { type: "button", class: "maedfer-play", "aria-label": "play" });
    this.slider = make("input", { type: "range", name: "frame", min: 0, step: 1, "aria-label": "frame" });
    this.count = make("span", { class: "maedfer-count" });
    this.pace = make("select", { name: "speed", "aria-label": "speed" },
      ...Object.entries(SPEEDS).map(([text, value]) => make("option", { value }, text)));
    this.working = make("span", { class: "maedfer-working" }, "working");
    this.bar = make("div", { class: "maedfer-bar" }, this.playButton, this.slider, this.count, this.pace);
    this.regions = make("input", { type: "checkbox", name: "regions" });
    this.regionsLabel = make("label", { class: "maedfer-check" }, this.regions, "region boundaries");
    this.alpha = make("input", { type: "range", name: "strength", min: 0, max: 100, value: 70 });
    this.alphaLabel = make("label", { class: "maedfer-check" }, "overlay", this.alpha);
    this.bar.append(this.regionsLabel, this.alphaLabel, this.working, this.buildFiles());
    this.canvas = make("canvas", { class: "maedfer-canvas", tabindex: 0, role: "img" });
    this.labels = make("div", { class: "maedfer-labels" });
    this.stage = make("div", { class: "maedfer-stage" }, this.canvas, this.labels);
    this.hover = make("div", { class: "maedfer-hover" });
    this.controls = make("div", { class: "maedfer-controls" });
    this.message = make("p", { class: "maedfer-message", role: "status", "aria-live": "polite" });
    this.asking = make("div", { class: "maedfer-controls" });
    this.readout = make("div", { class: "maedfer-readout", role: "status", "aria-live": "polite" });
    this.numbers = make("details", { class: "maedfer-numbers" });
    this.footer = make("div", { class: "maedfer-note" });
    this.root.append(this.title, this.controls, this.bar, this.stage, this.hover, this.message,
      this.asking, this.readout, this.numbers, this.footer);

    this.playButton.addEventListener("click", () => this.play(this.timer === null));
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.regions.addEventListener("change", () => {
      this.showRegions = this.regions.checked;
      this.draw();
    });
    this.pace.addEventListener("change", () => {
      this.speed = Number(this.pace.value);
      if (this.timer !== null) this.play(true);
    });
    this.alpha.addEventListener("input", () => {
      this.strength = this.alpha.value / 100;
      this.draw();
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (this.stroke = null));
    this.canvas.addEventListener("pointerleave", () => this.pointAt(null));
    this.setPlaying(false);
  }

  buildFiles() {
    const button = (text, title, act) => {
      const made = make("button", { type: "button", title }, text);
      made.addEventListener("click", act);
      return made;
    };
    const whole = button("full screen", "", () =>
      document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen?.());
    this.root.addEventListener("fullscreenchange", () => this.lay());
    const files = !this.model.live ? [] : ["save as", ...Object.entries(FILES).map(([kind, text]) =>
      button(text, kind.toUpperCase(), () => this.ask("save", kind)))];
    return make("span", { class: "maedfer-control" }, ...files, whole);
  }

  save(name, content) {
    const link = make("a", { href: URL.createObjectURL(new Blob([bytesOf(content)])), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // ---------------------------------------------------------------- frames

  async decode() {
    const sprite = this.model.get("sprite");
    const scene = this.model.get("scene");
    const table = this.model.get("table");
    if (!sprite || !sprite.byteLength || !scene.rows) return;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const picture = await createImageBitmap(new Blob([bytesOf(sprite)], { type: scene.mime }));
    // Only the newest picture counts, and only with the scene that it was sent with.
    if (turn !== this.turn) return picture.close();
    const { width, height } = picture;
    if (width !== scene.frames * scene.tile[0] || height !== scene.strips * scene.tile[1]) return;
    this.picture?.close();
    this.picture = picture;
    this.scene = scene;
    this.table = bytesOf(table);
    this.frame = within(this.frame, 0, scene.frames - 1);
    this.showScene();
    this.lay();
  }

  show(frame) {
    if (!this.picture) return;
    this.frame = within(frame, 0, this.scene.frames - 1);
    this.draw();
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = null;
    if (on && this.picture && this.scene.frames > 1) {
      const step = () => this.show((this.frame + 1) % this.scene.frames);
      this.timer = setInterval(step, 1000 / (this.scene.fps * this.speed));
    }
    this.setPlaying(this.timer !== null);
  }

  setPlaying(on) {
    this.playButton.textContent = on ? "▮▮" : "▶";
    this.playButton.setAttribute("aria-label", on ? "pause" : "play");
    this.root.dataset.playing = on;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const target = event.target;
    if (target === this.canvas && this.move(event)) {
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    const isRange = target.type === "range";
    if (target.tagName === "SELECT" || (target.tagName === "INPUT" && target.type === "number")) {
      event.stopPropagation(); // its own keys work, the notebook's do not
      return;
    }
    if (isRange && target !== this.slider && (step || event.key === "Home" || event.key === "End")) {
      const jump = { Home: target.min, End: target.max }[event.key];
      target.value = jump ?? Number(target.value) + step * Number(target.step || 1);
      target.dispatchEvent(new Event("input", { bubbles: true }));
    } else if (step) {
      this.show(this.frame + step);
    } else if (event.key === "Home") {
      this.show(0);
    } else if (event.key === "End") {
      this.show(this.scene.frames - 1);
    } else if (event.key === " " && target.tagName !== "BUTTON" && target.type !== "checkbox") {
      this.play(this.timer === null);
    } else {
      if (event.key !== "Tab") event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  // ---------------------------------------------------------------- pictures

  lay() {
    const scene = this.scene;
    const width = this.root.clientWidth - 12 - 2 * EDGE; // 12: the root's padding
    if (!this.picture || width < 50) return; // nothing to show yet, or hidden
    this.width = this.root.clientWidth;
    const number = scene.rows.length;
    const aspect = scene.tile[1] / scene.tile[0];
    const full = document.fullscreenElement === this.root;
    let LABELS = scene.columns ? SHORT : LABEL;
    // All else keeps its height; pictures take what is left.
    const rest = this.root.offsetHeight - this.stage.offsetHeight - this.numbers.offsetHeight;
    const tallest = Math.max((full ? window.innerHeight : scene.tallest ?? TALLEST) - rest - 24, 150);
    const ways = [];
    for (let columns = scene.columns ?? 1; columns <= (scene.columns ?? number); columns++) {
      const lines = Math.ceil(number / columns);
      const widest = (width - (columns - 1) * GAP) / columns;
      const highest = (tallest / lines - LABELS - 4) / aspect;
      const side = Math.floor(Math.min(full ? Infinity : LARGEST, widest, Math.max(highest, 24)));
      ways.push({ columns, side, lines });
    }
    // Large pictures, but rather all in a line than a little larger.
    const largest = Math.max(...ways.map((way) => way.side));
    const good = ways.filter((way) => way.side >= 0.8 * largest);
    const { columns, side } = good.sort((a, b) => a.lines - b.lines || b.side - a.side)[0];
    const tall = Math.round(side * aspect);
    if (!scene.columns) { // above small pictures labels take more lines
      const labels = [...this.labels.children];
      for (const label of labels) Object.assign(label.style, { width: `${side}px`, height: "auto" });
      LABELS = Math.max(LABEL, ...labels.map((label) => label.offsetHeight + 2));
    }
    this.places = scene.rows.map((_, i) => ({
      x: (i % columns) * (side + GAP) + EDGE,
      y: Math.floor(i / columns) * (tall + LABELS + 4) + LABELS,
      w: side,
      h: tall,
    }));
    const wide = Math.min(columns, number) * (side + GAP) - GAP + 2 * EDGE;
    const high = Math.ceil(number / columns) * (tall + LABELS + 4);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(wide * ratio);
    this.canvas.height = Math.round(high * ratio);
    this.canvas.style.width = `${wide}px`;
    this.canvas.style.height = `${high}px`;
    this.ratio = ratio;
    for (const [i, place] of this.places.entries()) {
      const label = this.labels.children[i];
      if (label) Object.assign(label.style, {
        left: `${place.x}px`, top: `${place.y - LABELS}px`, width: `${side}px`, height: `${LABELS - 2}px`,
      });
    }
    this.draw();
  }

  draw() {
    const scene = this.scene;
    if (!this.picture || !this.places || this.places.length !== scene.rows.length) return;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = false;
    const [w, h] = scene.tile;
    scene.rows.forEach((row, i) => {
      const place = this.places[i];
      context.drawImage(this.picture, this.frame * w, row.strip * h, w, h, place.x, place.y, place.w, place.h);
      if (row.overlay != null) this.overlay(context, place, scene.overlays[row.overlay]);
      if (this.showRegions && scene.region) this.lines(context, place);
      if (scene.overlays && this.query) this.markQuery(context, place, row);
      for (const [at, hide] of this.pending) this.hatch(context, place, at, hide);
      if (this.pointed) this.frameCube(context, place, this.pointed, i);
    });
    this.slider.value = this.frame;
    const seconds = (frames) => (frames / scene.fps).toFixed(2);
    this.count.textContent = (scene.timed ? `${seconds(this.frame)} of ${seconds(scene.frames)} s, ` : "")
      + `frame ${this.frame + 1} of ${scene.frames}`;
    this.slider.setAttribute("aria-valuetext", this.count.textContent);
    this.root.dataset.frame = this.frame;
    this.canvas.setAttribute("aria-label", `${scene.title}, ${this.count.textContent}: ${scene.rows.map((row) => row.label).join("; ")}`);
    this.lastPointed?.();
  }

  get step() {
    return Math.floor(this.frame / this.scene.tubelet[0]);
  }

  cell(place) {
    const [, rows, columns] = this.scene.grid;
    return [place.w / columns, place.h / rows];
  }

  lines(context, place) {
    const [, rows, columns] = this.scene.grid;
    const [w, h] = this.cell(place);
    for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      for (let y = 0; y < rows; y += this.scene.region[1]) {
        for (let x = 0; x < columns; x += this.scene.region[2]) {
          context.rect(place.x + x * w, place.y + y * h, this.scene.region[2] * w, this.scene.region[1] * h);
        }
      }
      context.stroke();
    }
  }

  // ---------------------------------------------------------------- overlays of attention

  /** Weights from the query to every token, as bytes, and what 255 stands for. */
  weights(overlay) {
    const row = overlay.fixed ?? (this.query?.rep != null ? overlay.reps[this.query.rep] : overlay.tokens[this.query?.token ?? 0]);
    if (row == null || row < 0) return null;
    const [t, h, w] = this.scene.grid;
    const n = t * h * w;
    return { row, bytes: this.table.subarray(overlay.offset + row * n, overlay.offset + (row + 1) * n), top: overlay.tops[row] };
  }

  overlay(context, place, overlay) {
    const found = this.query && this.weights(overlay);
    if (!found) return;
    const [, rows, columns] = this.scene.grid;
    const [w, h] = this.cell(place);
    const first = this.step * rows * columns;
    context.globalAlpha = this.strength;
    for (let i = 0; i < rows * columns; i++) {
      context.fillStyle = this.scene.colours[found.bytes[first + i]];
      // Whole pixels, so that neighbours leave no seam.
      const [left, right] = [0, 1].map((step) => Math.round(place.x + ((i % columns) + step) * w));
      const [top, bottom] = [0, 1].map((step) => Math.round(place.y + (Math.floor(i / columns) + step) * h));
      context.fillRect(left, top, right - left, bottom - top);
    }
    context.globalAlpha = 1;
  }

  markQuery(context, place) {
    const [, rows, columns] = this.scene.grid;
    const [w, h] = this.cell(place);
    let box = null;
    if (this.query.rep != null) {
      const region = this.scene.regions?.[this.query.rep];
      if (region && this.step >= region[0] && this.step < region[0] + this.scene.region[0]) {
        box = [region[2], region[1], this.scene.region[2], this.scene.region[1]];
      }
    } else if (Math.floor(this.query.token / (rows * columns)) === this.step) {
      const inFrame = this.query.token % (rows * columns);
      box = [inFrame % columns, Math.floor(inFrame / columns), 1, 1];
    }
    if (!box) return;
    for (const [width, colour] of [[5, "#000"], [2.5, "#fff"]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(place.x + box[0] * w, place.y + box[1] * h, box[2] * w, box[3] * h);
    }
  }

  /** The same cube in every picture: the one that is pointed at is framed more strongly. */
  frameCube(context, place, at, i) {
    const [w, h] = this.cell(place);
    const whole = this.scene.click === "open"; // there a picture is what is chosen
    if (whole && i !== at.row) return;
    const box = whole ? [place.x, place.y, place.w, place.h] : [place.x + at.x * w, place.y + at.y * h, w, h];
    for (const [width, colour] of [[3, "#000"], [1.5, i === at.row ? "#ffd400" : "#fff"]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(...box);
    }
  }

  /** A cube that is being hidden (hatched) or shown (left bare, with a cross). */
  hatch(context, place, at, hide) {
    const [w, h] = this.cell(place);
    const columns = this.scene.grid[2];
    const [x, y] = [place.x + (at % columns) * w, place.y + Math.floor(at / columns) * h];
    context.strokeStyle = hide ? "#555" : "#ffd400";
    context.lineWidth = 1.5;
    context.beginPath();
    for (let step = 0; step <= 1; step += hide ? 0.25 : 1) {
      context.moveTo(x + step * w, y);
      context.lineTo(x, y + step * h);
      context.moveTo(x + w, y + step * h);
      context.lineTo(x + step * w, y + h);
    }
    context.stroke();
  }

  // ---------------------------------------------------------------- pointing and clicking

  /** Which picture and which token the pointer is on, or null. */
  find(event) {
    if (!this.places) return null;
    const box = this.canvas.getBoundingClientRect();
    const px = event.clientX - box.left;
    const py = event.clientY - box.top;
    const row = this.places.findIndex((p) => px >= p.x && px < p.x + p.w && py >= p.y && py < p.y + p.h);
    if (row < 0) return null;
    const [, rows, columns] = this.scene.grid;
    const place = this.places[row];
    const x = within(Math.floor(((px - place.x) / place.w) * columns), 0, columns - 1);
    const y = within(Math.floor(((py - place.y) / place.h) * rows), 0, rows - 1);
    return { row, x, y };
  }

  press(event) {
    const at = this.find(event);
    if (!at || event.button > 0) return;
    this.canvas.focus({ preventScroll: true }); // what a stroke is about to cross must not move
    this.act(at);
    if (this.stroke) this.canvas.setPointerCapture(event.pointerId);
  }

  /** What a click, or Enter at the keyboard's cursor, does. */
  act(at, held = true) {
    const { click, grid } = this.scene;
    const place = at.y * grid[2] + at.x;
    if (click === "tube" && this.model.live) {
      this.stroke = { hide: !this.isHidden(place), stroke: ++this.strokes };
      this.paint(place);
      if (!held) this.stroke = null;
    }
    if (click === "query") {
      this.query = { token: this.step * grid[1] * grid[2] + place };
      this.showQuery();
    }
    if (click === "open") this.ask("open", at.row);
  }

  isHidden(place) {
    return this.pending.get(place) ?? this.scene.hidden[place] === "1";
  }

  paint(place) {
    if (this.isHidden(place) === this.stroke.hide) return;
    this.pending.set(place, this.stroke.hide);
    this.ask("paint", { place, ...this.stroke });
    this.draw();
  }

  point(event) {
    const at = this.find(event);
    if (at && this.stroke) this.paint(at.y * this.scene.grid[2] + at.x);
    this.hover.removeAttribute("aria-live");
    this.pointAt(at);
    this.canvas.style.cursor = at && this.scene.click && (this.scene.click === "query" || this.model.live) ? "pointer" : "default";
  }

  pointAt(at) {
    const same = JSON.stringify(at) === JSON.stringify(this.pointed);
    this.pointed = at;
    this.lastPointed = at && (() => this.hover.replaceChildren(this.told(at)));
    if (!same) this.draw();
    if (!at) this.hover.replaceChildren();
  }

  /** Keys of the cursor over cubes: shift with arrows, Enter. Whether it was one. */
  move(event) {
    const way = event.shiftKey && { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!this.places || (!way && event.key !== "Enter")) return false;
    const [, rows, columns] = this.scene.grid;
    const at = this.cursor ?? { row: 0, x: Math.floor(columns / 2), y: Math.floor(rows / 2) };
    at.row = Math.min(at.row, this.scene.rows.length - 1);
    if (way && this.scene.click === "open") {
      at.row = within(at.row + way[0] + way[1] * this.scene.columns, 0, this.scene.rows.length - 1);
    } else if (way && this.cursor) {
      at.x = within(at.x + way[0], 0, columns - 1);
      at.y = within(at.y + way[1], 0, rows - 1);
    }
    this.cursor = at;
    this.hover.setAttribute("aria-live", "polite"); // told to those who do not see the pointer
    this.pointAt({ ...at });
    if (!way) this.act(at, false);
    return true;
  }

  told(at) {
    const scene = this.scene;
    const [, rows, columns] = scene.grid;
    const token = (this.step * rows + at.y) * columns + at.x;
    const row = scene.rows[at.row];
    const parts = [`time step ${this.step + 1}, row ${at.y + 1}, column ${at.x + 1}`];
    if (scene.region) {
      const across = columns / scene.region[2];
      const down = rows / scene.region[1];
      const k = (Math.floor(this.step / scene.region[0]) * down + Math.floor(at.y / scene.region[1])) * across;
      parts.push(`region ${k + Math.floor(at.x / scene.region[2]) + 1}`);
    }
    const hidden = row.hidden ?? scene.hidden;
    if (hidden) parts.push(hidden[hidden.length === rows * columns ? token % (rows * columns) : token] === "1" ? "hidden" : "visible");
    for (const value of scene.values ?? []) {
      const view = new DataView(this.table.buffer, this.table.byteOffset + value.offset + 4 * token, 4);
      parts.push(`${value.label} ${view.getFloat32(0, true).toPrecision(3)}`);
    }
    if (row.overlay != null && this.query) {
      const found = this.weights(scene.overlays[row.overlay]);
      if (found) parts.push(`weight ${((found.bytes[token] / 255) * found.top).toPrecision(3)} (equal share ${scene.overlays[row.overlay].share.toPrecision(3)})`);
    }
    return `${row.label} — ${parts.join(", ")}`;
  }

  showQuery() {
    const scene = this.scene;
    if (!scene.overlays) return;
    const known = scene.overlays[0];
    const asked = JSON.stringify(scene.query ?? { token: 0 });
    if (!this.query || asked !== this.asked) this.query = JSON.parse(asked); // Python asks for it
    this.asked = asked;
    const at = this.query;
    const [, rows, columns] = scene.grid;
    this.root.dataset.query = at.rep != null ? `rep ${at.rep}` : `token ${at.token}`;
    const words = at.rep != null
      ? `Query: representative token of region ${at.rep + 1}.`
      : `Query: cube at time step ${Math.floor(at.token / (rows * columns)) + 1}, row ${(Math.floor(at.token / columns) % rows) + 1}, column ${(at.token % columns) + 1}.`;
    const tops = scene.overlays.map((overlay) => {
      const found = this.weights(overlay);
      return found ? `${overlay.label}: brightest ${found.top.toPrecision(3)}${overlay.rest ? `, ${overlay.rest[found.row]}` : ""}.` : `${overlay.label}: this token is no query here.`;
    });
    if (scene.click === "query") this.queryLine.textContent = [words, ...tops].join(" ");
    if (known && this.querySelect) this.querySelect.value = at.rep != null ? at.rep : "";
    this.draw();
  }

  // ---------------------------------------------------------------- what Python says

  showScene() {
    const scene = this.scene;
    this.title.textContent = scene.title;
    this.root.setAttribute("aria-label", scene.title);
    this.root.dataset.viewer = scene.viewer;
    this.root.dataset.frames = scene.frames;
    this.root.dataset.serial = scene.serial;
    if (scene.visible != null) this.root.dataset.visible = scene.visible;
    this.slider.max = scene.frames - 1;
    this.slider.disabled = this.playButton.disabled = scene.frames < 2;
    this.regionsLabel.hidden = !scene.region;
    this.alphaLabel.hidden = !scene.overlays;
    this.labels.replaceChildren(...scene.rows.map((row) => {
      const label = make("div", { class: "maedfer-label" }, make("span", {}, row.label));
      if (row.scale) label.append(make("span", { class: "maedfer-scale" }, row.scale.low,
        make("i", { style: `background: linear-gradient(to right, ${row.scale.colours.join(", ")})` }), row.scale.high));
      if (row.note) label.append(make("span", { class: "maedfer-note" }, row.note));
      return label;
    }));
    const parts = (scene.readout?.sentences ?? []).map((text) => make("p", {}, text));
    this.readout.replaceChildren(...parts);
    this.numbers.hidden = !scene.readout?.table;
    if (scene.readout?.table) {
      const [head, ...body] = scene.readout.table;
      const cells = (row, tag) => make("tr", {}, ...row.map((text) => make(tag, {}, text)));
      const table = make("table", {}, make("thead", {}, cells(head, "th")), make("tbody", {}, ...body.map((row) => cells(row, "td"))));
      this.numbers.replaceChildren(make("summary", {}, "numbers"), make("div", { class: "maedfer-scroll" }, table));
    }
    this.footer.textContent = scene.footer;
    this.pace.hidden = !scene.timed;
    this.canvas.style.touchAction = scene.click === "tube" && this.model.live ? "none" : "";
    this.asking.replaceChildren();
    if (scene.overlays && scene.click === "query") {
      this.queryLine = make("p", { class: "maedfer-query" });
      const options = [make("option", { value: "" }, "a clicked cube")];
      (scene.regions ?? []).forEach((_, i) => options.push(make("option", { value: i }, `representative of region ${i + 1}`)));
      this.querySelect = make("select", { name: "query" }, ...options);
      this.querySelect.addEventListener("change", () => {
        const rep = this.querySelect.value;
        this.query = rep === "" ? { token: 0 } : { rep: Number(rep) };
        this.showQuery();
      });
      this.asking.replaceChildren(make("label", { class: "maedfer-control" }, "query", this.querySelect));
      this.readout.prepend(this.queryLine);
    }
    if (scene.overlays) this.showQuery();
  }

  showControls() {
    const live = this.model.live;
    const held = document.activeElement?.name;
    const wasInside = this.controls.contains(document.activeElement);
    const shown = this.model.get("controls").filter((control) => live || control.kind !== "buttons");
    this.controls.replaceChildren(...shown.map((control) => {
      if (!live) return make("span", { class: "maedfer-fact" }, `${control.label}: ${control.shown}`);
      return this.control(control);
    }));
    if (wasInside && held) this.controls.querySelector(`[name="${held}"]`)?.focus();
  }

  control(control) {
    const shared = { name: control.name, disabled: control.disabled, title: control.note };
    const label = make("label", { class: "maedfer-control" }, control.label);
    let input;
    if (control.kind === "buttons") {
      const group = make("span", { class: "maedfer-control", role: "group", "aria-label": control.label || control.name });
      for (const option of control.options) {
        const button = make("button", { type: "button", name: `${control.name}-${option.value}` }, option.label);
        const { overlays } = this.scene;
        button.addEventListener("click", () =>
          this.ask(control.name, overlays && control.name === "overview" ? { value: option.value, query: this.query } : option.value));
        group.append(button);
      }
      if (control.label) group.prepend(control.label);
      return group;
    }
    if (control.kind === "select") {
      input = make("select", shared, ...control.options.map((option) => make("option", { value: option.value }, option.label)));
      input.value = control.value;
      input.addEventListener("change", () => this.ask(control.name, input.value));
      label.append(input);
    } else if (control.kind === "steps") {
      const at = control.options.findIndex((option) => option.value === control.value);
      input = make("input", { ...shared, type: "range", min: 0, max: control.options.length - 1, step: 1, value: at });
      const output = make("span", { class: "maedfer-shown" }, control.shown);
      input.setAttribute("aria-valuetext", control.shown);
      input.addEventListener("input", () => {
        const option = control.options[Number(input.value)];
        output.textContent = option.label;
        input.setAttribute("aria-valuetext", option.label);
        this.ask(control.name, option.value);
      });
      label.append(input, output);
    } else {
      input = make("input", { ...shared, type: "number", min: control.low, max: control.high, step: 1, value: control.value });
      input.addEventListener("change", () => this.ask(control.name, Number(input.value)));
      label.append(input);
    }
    if (control.note) label.append(make("span", { class: "maedfer-note" }, control.note));
    return label;
  }

  ask(name, value) {
    if (!this.model.live) return;
    const serial = ++this.serial;
    this.setState("working");
    clearTimeout(this.waiting);
    const gone = () => {
      this.setState("idle");
      this.say("The kernel does not answer: it is busy or gone. What is shown still plays; run the cell again for new pictures.", true);
    };
    this.waiting = setTimeout(gone, PATIENCE);
    try {
      this.model.send({ name, value, serial });
    } catch {
      clearTimeout(this.waiting);
      gone();
    }
  }

  showStatus() {
    const status = this.model.get("status");
    if ((status.serial ?? 0) >= this.serial || status.state === "working") clearTimeout(this.waiting);
    if ((status.serial ?? 0) < this.serial && status.state === "idle") return; // a newer wish is on its way
    if (status.state === "idle" && this.pending.size) {
      this.pending.clear();
      this.draw();
    }
    this.setState(status.state ?? "idle");
    this.say(status.text ?? "", status.error);
    if (status.error) this.showControls(); // back to what is shown
  }

  setState(state) {
    this.root.dataset.state = state;
    this.root.setAttribute("aria-busy", state === "working");
  }

  say(text, error = false) {
    this.message.textContent = text;
    this.message.dataset.kind = error ? "error" : "info";
  }

  remove() {
    this.play(false);
    clearTimeout(this.waiting);
    this.resized.disconnect();
    for (const [name, callback] of this.listeners) this.model.off(name, callback);
    this.picture?.close();
  }
}

function render({ model, el }) {
  const live = {
    live: model.live ?? true,
    get: (name) => model.get(name),
    on: (name, callback) => model.on(name, callback),
    off: (name, callback) => model.off(name, callback),
    send: (content) => model.send(content),
  };
  const root = make("div");
  el.append(root);
  const player = new Player(live, root);
  return () => player.remove();
}

export default { render };
