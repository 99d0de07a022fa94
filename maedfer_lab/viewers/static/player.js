// Plays a sprite on one canvas: a row of the sprite is a picture over time, a column is a frame.
//
// The same file runs in JupyterLab and Voila (anywidget hands in `model`) and in a saved page,
// whose `model` answers nothing. Scrubbing, playing and looking up numbers need no kernel.
//
// What Python sends: `sprite` (an encoded picture), `scene` (how to read it), `table` (numbers),
// `controls` (what can be asked of the kernel) and `status` (what the kernel is doing).
// What Python is sent: {name, value, serial}, one message for each change.

const GAP = 12; // px between pictures
const EDGE = 2; // px left free at both sides, for lines around pictures
const LABEL = 44; // px above a picture, for its label
const LARGEST = 280; // px, side of a picture
const TALLEST = 660; // px, height of all pictures
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
    this.build();
    this.listeners = [
      ["change:sprite", () => this.decode()],
      ["change:scene", () => this.decode()],
      ["change:controls", () => this.showControls()],
      ["change:status", () => this.showStatus()],
    ];
    for (const [name, callback] of this.listeners) model.on(name, callback);
    this.resized = new ResizeObserver(() => this.lay());
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
    this.count = make("output", { class: "maedfer-count" });
    this.working = make("span", { class: "maedfer-working" }, "working");
    this.bar = make("div", { class: "maedfer-bar" }, this.playButton, this.slider, this.count);
    this.regions = make("input", { type: "checkbox", name: "regions" });
    this.regionsLabel = make("label", { class: "maedfer-check" }, this.regions, "region boundaries");
    this.alpha = make("input", { type: "range", name: "strength", min: 0, max: 100, value: 70 });
    this.alphaLabel = make("label", { class: "maedfer-check" }, "overlay", this.alpha);
    this.bar.append(this.regionsLabel, this.alphaLabel, this.working);
    this.canvas = make("canvas", { class: "maedfer-canvas", tabindex: 0, role: "img" });
    this.labels = make("div", { class: "maedfer-labels" });
    this.stage = make("div", { class: "maedfer-stage" }, this.canvas, this.labels);
    this.hover = make("div", { class: "maedfer-hover" });
    this.controls = make("div", { class: "maedfer-controls" });
    this.message = make("p", { class: "maedfer-message", role: "status", "aria-live": "polite" });
    this.readout = make("div", { class: "maedfer-readout" });
    this.root.append(this.title, this.bar, this.stage, this.hover, this.controls, this.message, this.readout);

    this.playButton.addEventListener("click", () => this.play(this.timer === null));
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.regions.addEventListener("change", () => {
      this.showRegions = this.regions.checked;
      this.draw();
    });
    this.alpha.addEventListener("input", () => {
      this.strength = this.alpha.value / 100;
      this.draw();
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("click", (event) => this.click(event));
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.hover.replaceChildren());
    this.setPlaying(false);
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
    if (width !== scene.frames * scene.tile[0] || height !== scene.rows.length * scene.tile[1]) return;
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
      this.timer = setInterval(step, 1000 / this.scene.fps);
    }
    this.setPlaying(this.timer !== null);
  }

  setPlaying(on) {
    this.playButton.textContent = on ? "⏸" : "▶";
    this.playButton.setAttribute("aria-label", on ? "pause" : "play");
    this.root.dataset.playing = on;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const target = event.target;
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
    const number = scene.rows.length;
    const aspect = scene.tile[1] / scene.tile[0];
    const ways = [];
    for (let columns = 1; columns <= number; columns++) {
      const side = Math.floor(Math.min(LARGEST, (width - (columns - 1) * GAP) / columns));
      const lines = Math.ceil(number / columns);
      const height = lines * (side * aspect + LABEL + 4);
      if (height <= TALLEST || columns === number) ways.push({ columns, side, lines });
    }
    // Large pictures, but rather all in a line than a little larger.
    const largest = Math.max(...ways.map((way) => way.side));
    const good = ways.filter((way) => way.side >= 0.8 * largest);
    const { columns, side } = good.sort((a, b) => a.lines - b.lines || b.side - a.side)[0];
    const tall = Math.round(side * aspect);
    this.places = scene.rows.map((_, i) => ({
      x: (i % columns) * (side + GAP) + EDGE,
      y: Math.floor(i / columns) * (tall + LABEL + 4) + LABEL,
      w: side,
      h: tall,
    }));
    const wide = Math.min(columns, number) * (side + GAP) - GAP + 2 * EDGE;
    const high = Math.ceil(number / columns) * (tall + LABEL + 4);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(wide * ratio);
    this.canvas.height = Math.round(high * ratio);
    this.canvas.style.width = `${wide}px`;
    this.canvas.style.height = `${high}px`;
    this.ratio = ratio;
    for (const [i, place] of this.places.entries()) {
      const label = this.labels.children[i];
      if (label) Object.assign(label.style, {
        left: `${place.x}px`, top: `${place.y - LABEL}px`, width: `${side}px`, height: `${LABEL - 2}px`,
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
      context.drawImage(this.picture, this.frame * w, i * h, w, h, place.x, place.y, place.w, place.h);
      if (row.overlay != null) this.overlay(context, place, scene.overlays[row.overlay]);
      if (this.showRegions && scene.region) this.lines(context, place);
      if (scene.overlays && this.query) this.markQuery(context, place, row);
    });
    this.slider.value = this.frame;
    this.count.textContent = `frame ${this.frame + 1} of ${scene.frames}`;
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
    const row = this.query?.rep != null ? overlay.reps[this.query.rep] : overlay.tokens[this.query?.token ?? 0];
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

  click(event) {
    const at = this.find(event);
    if (!at) return;
    this.canvas.focus();
    const [, rows, columns] = this.scene.grid;
    if (this.scene.click === "tube") this.ask("tube", at.y * columns + at.x);
    if (this.scene.click === "query") {
      this.query = { token: this.step * rows * columns + at.y * columns + at.x };
      this.showQuery();
    }
  }

  point(event) {
    const at = this.find(event);
    this.lastPointed = at ? () => this.hover.replaceChildren(this.told(at)) : null;
    if (at) this.lastPointed();
    else this.hover.replaceChildren();
    this.canvas.style.cursor = at && this.scene.click && (this.scene.click !== "tube" || this.model.live) ? "pointer" : "default";
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
    this.queryLine.textContent = [words, ...tops].join(" ");
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
    if (scene.readout?.table) {
      const [head, ...body] = scene.readout.table;
      const cells = (row, tag) => make("tr", {}, ...row.map((text) => make(tag, {}, text)));
      parts.push(make("table", {}, make("thead", {}, cells(head, "th")), make("tbody", {}, ...body.map((row) => cells(row, "td")))));
    }
    this.readout.replaceChildren(...parts);
    if (scene.overlays) {
      this.queryLine = make("p", { class: "maedfer-query", "aria-live": "polite" });
      const options = [make("option", { value: "" }, "a clicked cube")];
      (scene.regions ?? []).forEach((_, i) => options.push(make("option", { value: i }, `representative of region ${i + 1}`)));
      this.querySelect = make("select", { name: "query" }, ...options);
      this.querySelect.addEventListener("change", () => {
        const rep = this.querySelect.value;
        this.query = rep === "" ? { token: 0 } : { rep: Number(rep) };
        this.showQuery();
      });
      this.readout.prepend(make("label", { class: "maedfer-control" }, "query", this.querySelect), this.queryLine);
      this.showQuery();
    }
  }

  showControls() {
    const live = this.model.live;
    const held = document.activeElement?.name;
    const wasInside = this.controls.contains(document.activeElement);
    this.controls.replaceChildren(...this.model.get("controls").map((control) => {
      if (!live) return make("span", { class: "maedfer-fact" }, `${control.label}: ${control.shown}`);
      return this.control(control);
    }));
    if (wasInside && held) this.controls.querySelector(`[name="${held}"]`)?.focus();
  }

  control(control) {
    const shared = { name: control.name, disabled: control.disabled, title: control.note };
    const label = make("label", { class: "maedfer-control" }, control.label);
    let input;
    if (control.kind === "select") {
      input = make("select", shared, ...control.options.map((option) => make("option", { value: option.value }, option.label)));
      input.value = control.value;
      input.addEventListener("change", () => this.ask(control.name, input.value));
      label.append(input);
    } else if (control.kind === "steps") {
      const at = control.options.findIndex((option) => option.value === control.value);
      input = make("input", { ...shared, type: "range", min: 0, max: control.options.length - 1, step: 1, value: at });
      const output = make("output", {}, control.shown);
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
