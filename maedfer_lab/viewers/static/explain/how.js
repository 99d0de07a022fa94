// How it works: every step's picture and numbers, of the clip and the mask that Play shows.

class How {
  constructor(method, model, colours) {
    Object.assign(this, { method, model, colours, block: 0, head: "mean" });
    this.token = null; // the chosen cube; `motionOf` paints a motion (Kernel.motion)
    const byId = (id) => document.getElementById(id);
    this.step = byId("how-step");
    this.step.max = method.t - 1;
    const options = (select, values) => select.append(...values.map(([value, text]) => new Option(text, value)));
    options(byId("how-block"), Array.from({ length: model.depth }, (_, i) => [i, `${i + 1} of ${model.depth}`]));
    options(byId("how-head"), [["mean", "mean of all"], ...Array.from({ length: model.num_heads }, (_, i) => [i, `${i + 1}`])]);
    byId("how-block").addEventListener("change", ({ target }) => { this.block = Number(target.value); this.draw(); });
    byId("how-head").addEventListener("change", ({ target }) => { this.head = target.value === "mean" ? "mean" : Number(target.value); this.draw(); });
    this.step.addEventListener("input", () => this.select(Number(this.step.value), this.token % method.places));
    for (const canvas of document.querySelectorAll("#how canvas[data-pick]")) {
      canvas.addEventListener("click", (event) => {
        const at = canvas.getBoundingClientRect();
        const place = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
        const [x, y] = [place((event.clientX - at.left) / at.width, method.w), place((event.clientY - at.top) / at.height, method.h)];
        this.select(Number(this.step.value), y * method.w + x);
      });
      canvas.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -method.w, ArrowDown: method.w }[event.key];
        if (!way) return;
        event.preventDefault();
        this.walk(way);
      });
    }
    addEventListener("resize", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(result, clip) {
    Object.assign(this, { result, clip });
    const { method } = this;
    const middle = Math.floor(method.h * 0.45) * method.w + Math.floor(method.w / 2);
    this.select(Number(this.step.value), this.token === null ? middle : this.token % method.places);
  }

  /** The visible cube nearest to a place. */
  select(step, place) {
    const { method, result } = this;
    if (!result) return;
    const shown = [...result.hidden.keys()].filter((one) => !result.hidden[one]);
    const far = (one) => (Math.floor(one / method.w) - Math.floor(place / method.w)) ** 2 + ((one % method.w) - (place % method.w)) ** 2;
    this.token = step * method.places + shown.reduce((best, one) => (far(one) < far(best) ? one : best));
    this.draw();
  }

  /** To the next visible cube that way. */
  walk(way) {
    const { method, result } = this;
    const step = Number(this.step.value);
    const inRow = Math.abs(way) === 1;
    for (let place = (this.token % method.places) + way; place >= 0 && place < method.places; place += way) {
      if (inRow && Math.floor(place / method.w) !== Math.floor((this.token % method.places) / method.w)) return;
      if (!result.hidden[place]) return this.select(step, place);
    }
  }

  // ---------------------------------------------------------------------- attention

  /** A row of a stage's weights, averaged over heads unless one is chosen. */
  weights(stage, region, query, keys) {
    const { dims, data } = this.result.maps[`${stage}_${this.block}`];
    const [heads, queries, wide] = dims.slice(-3);
    const chosen = this.head === "mean" ? [...Array(heads).keys()] : [this.head];
    const row = new Float64Array(keys);
    for (const head of chosen) {
      const from = ((region * heads + head) * queries + query) * wide;
      for (let k = 0; k < keys; k++) row[k] += data[from + k] / chosen.length;
    }
    return row;
  }

  /** Everything of the clicked cube: its region, its rank there, and where it looks. */
  look() {
    const { method, result, token } = this;
    const perRegion = result.split.visible.length / method.regions;
    const rank = result.split.visible.indexOf(token);
    const region = Math.floor(rank / perRegion);
    return {
      perRegion, region,
      members: result.split.visible.subarray(region * perRegion, (region + 1) * perRegion),
      local: this.weights("local", region, 1 + (rank % perRegion), perRegion + 1),
      inter: Array.from({ length: method.regions }, (_, i) => this.weights("inter", 0, i, method.regions)),
      interact: this.weights("interact", 0, rank, method.regions),
    };
  }

  // ---------------------------------------------------------------------- drawing

  context(id, aspect = 1) {
    const canvas = document.getElementById(id);
    const width = canvas.clientWidth;
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = width * aspect * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    return [context, width];
  }

  /** A frame of a clip (the first of a time step) in a square, and a colour over each cube. */
  face(context, [left, top, side], clip, step, over = () => null) {
    const { method } = this;
    const small = new OffscreenCanvas(method.size, method.size);
    small.getContext("2d").putImageData(picture(clip, step * method.tubelet[0] * method.size ** 2 * 3, method.size), 0, 0);
    context.drawImage(small, left, top, side, side);
    const cell = side / method.w;
    for (let place = 0; place < method.places; place++) {
      const colour = over(place);
      if (!colour) continue;
      const [x, y] = [left + (place % method.w) * cell, top + Math.floor(place / method.w) * cell];
      if (colour === "hatch") {
        context.fillStyle = "#777";
        context.fillRect(x, y, cell + 0.5, cell + 0.5);
        context.strokeStyle = "#bbb";
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(x, y + cell);
        context.lineTo(x + cell, y);
        context.stroke();
      } else {
        context.fillStyle = colour;
        context.fillRect(x, y, cell + 0.5, cell + 0.5);
      }
    }
  }

  lines(context, [left, top, side], rows, columns, wide = 1) {
    for (const [width, colour] of [[wide + 2, "#000a"], [wide, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      for (let i = 0; i <= rows; i++) { context.moveTo(left, top + (i * side) / rows); context.lineTo(left + side, top + (i * side) / rows); }
      for (let i = 0; i <= columns; i++) { context.moveTo(left + (i * side) / columns, top); context.lineTo(left + (i * side) / columns, top + side); }
      context.stroke();
    }
  }

  mark(context, [left, top, side], place) {
    const { method } = this;
    const cell = side / method.w;
    for (const [width, colour] of [[5, "#000"], [2.5, "#ffd400"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.strokeRect(left + (place % method.w) * cell, top + Math.floor(place / method.w) * cell, cell, cell);
    }
  }

  heat(share, strength = 0.85) {
    const i = 3 * Math.round(255 * Math.min(1, Math.max(0, share)));
    return `rgb(${this.colours.attention.slice(i, i + 3).join(" ")} / ${strength})`;
  }

  /** Words with the numbers of this clip. */
  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      for (const element of document.querySelectorAll(`[data-n="${name}"]`)) element.textContent = value;
    }
  }

  draw() {
    const { method, model, result, clip } = this;
    if (!result || !document.getElementById("how").offsetParent) return;
    const { token } = this;
    const step = Math.floor(token / method.places);
    const place = token % method.places;
    const look = this.look();
    const [x, y] = [place % method.w, Math.floor(place / method.w)];
    const hidden = (one) => (result.hidden[one] ? "hatch" : null);
    const whole = (id, shown, over) => {
      const [context, side] = this.context(id);
      this.face(context, [0, 0, side], shown, step, over);
      return [context, [0, 0, side]];
    };
    document.getElementById("how-step-told").textContent = `${step + 1} of ${method.t}`;

    // 1 cubes
    let [context, box] = whole("how-cubes", clip);
    this.lines(context, box, method.h, method.w, 0.5);
    this.mark(context, box, place);
    const [cube, side] = this.context("how-cube", 0.5);
    const [, ph, pw] = method.tubelet;
    for (let f = 0; f < 2; f++) for (let i = 0; i < ph * pw; i++) {
      const at = method.base(token) + method.inside[(f * ph * pw + i) * 3];
      cube.fillStyle = `rgb(${[0, 1, 2].map((c) => Math.round(255 * clip[at + c])).join(" ")})`;
      const cell = (side * 0.48) / pw;
      cube.fillRect(f * side * 0.52 + (i % pw) * cell, Math.floor(i / pw) * cell, cell + 0.5, cell + 0.5);
    }
    // 2 hide, 3 regions
    whole("how-hide", clip, hidden);
    [context, box] = whole("how-regions", clip, (one) => hidden(one) ?? ["#0072b266", "#e69f0066"][method.windowOf(one) % 2]);
    this.lines(context, box, method.h / method.region[1], method.w / method.region[2], 2);
    this.mark(context, box, place);
    // stage 1: inside the region
    const local = new Map([...look.members].map((member, i) => [member, look.local[i + 1]]));
    const top = Math.max(...look.local.slice(1));
    [context, box] = whole("how-local", clip, (one) => {
      const weight = local.get(step * method.places + one);
      return weight === undefined ? hidden(one) ?? "rgb(128 128 128 / 70%)" : this.heat(weight / top);
    });
    this.mark(context, box, place);
    // stage 2: among representative tokens
    const [matrix, edge] = this.context("how-inter");
    const cell = edge / method.regions;
    const most = Math.max(...look.inter.flatMap((row) => [...row]));
    look.inter.forEach((row, i) => row.forEach((weight, j) => {
      matrix.fillStyle = this.heat(weight / most, 1);
      matrix.fillRect(j * cell, i * cell, cell + 0.5, cell + 0.5);
    }));
    for (const [width, colour] of [[5, "#000"], [2.5, "#ffd400"]]) {
      matrix.lineWidth = width;
      matrix.strokeStyle = colour;
      matrix.strokeRect(1, look.region * cell + 1, edge - 2, cell - 2);
    }
    // stage 3: every cube asks all representative tokens, drawn on the regions they stand for
    const groups = method.t / method.region[0];
    const columns = Math.min(2, groups);
    const rows = Math.ceil(groups / columns);
    const [far, wide] = this.context("how-interact", rows / columns);
    const best = Math.max(...look.interact);
    for (let group = 0; group < groups; group++) {
      const small = wide / columns - 3;
      const at = [(group % columns) * (small + 6), Math.floor(group / columns) * (small + 6), small];
      const first = group * method.region[0];
      const here = Math.floor(step / method.region[0]) === group;
      this.face(far, at, clip, here ? step : first, (one) => this.heat(look.interact[group * method.windows + method.windowOf(one)] / best, 0.7));
      this.lines(far, at, method.h / method.region[1], method.w / method.region[2], 1);
      if (here) this.mark(far, at, place);
    }
    // decoder, heads
    [context, box] = whole("how-decoder", clip, (one) => (result.hidden[one] ? "#5b5bd6" : null));
    this.lines(context, box, method.h, method.w, 0.5);
    whole("how-guess", result.reconstruction);
    whole("how-motion", this.motionOf(result.reconstruction));
    whole("how-motion-true", this.motionOf(clip));

    const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
    const n = result.split.visible.length;
    const [N, M] = [look.perRegion, method.regions];
    const pairs = { local: M * (N + 1) ** 2, inter: M ** 2, interact: n * M };
    const sum = pairs.local + pairs.inter + pairs.interact;
    const loss = result.losses.model;
    const weight = method.motion_weight;
    this.fill({
      clip: `${method.frames} × ${method.size} × ${method.size}`, grid: method.grid.join(" × "), n: method.n, p: method.p,
      cube: method.tubelet.join(" × "), d: model.width, e: model.decoder_width, depth: model.depth, heads: model.num_heads,
      visible: n, masked: result.split.masked.length, hiddenshare: percent(1 - n / method.n),
      N, M, region: method.region.join(" × "), at: `time step ${step + 1}, row ${y + 1}, column ${x + 1}`, home: look.region + 1,
      toprep: percent(look.local[0]), top: percent(top), equal: percent(1 / (N + 1)), equalrep: percent(1 / M),
      own: percent(look.inter[look.region][look.region]), best: percent(best), bestat: look.interact.indexOf(best) + 1,
      plocal: pairs.local.toLocaleString("en"), pinter: pairs.inter, pinteract: pairs.interact.toLocaleString("en"),
      pjoint: (n ** 2).toLocaleString("en"), pshare: percent(sum / n ** 2), psum: sum.toLocaleString("en"),
      la: loss.appearance.toFixed(4), lm: loss.motion.toFixed(4), w: weight, w1: 1 - weight,
      total: ((1 - weight) * loss.appearance + weight * loss.motion).toFixed(4), decoders: model.decoder_depth,
    });
    document.getElementById("how").dataset.token = token;
  }
}

/** Cost against ViT: the closed formula at any number of frames and size. */
function startCost(paper) {
  const byId = (id) => document.getElementById(id);
  const SIZES = [80, 160, 240, 320, 400, 480]; // whole cubes of 16, and whole regions
  const region = (size) => [2, 5, size % 160 ? 5 : 10];
  const config = (encoder, frames, size) => ({ ...paper[encoder], frames, size_px: size, region: region(size) });
  const total = (...about) => Object.values(macs(config(...about), byId("cost-task").value)).reduce((a, b) => a + b) / 1e9;
  const draw = () => {
    const [frames, size] = [Number(byId("cost-frames").value), SIZES[byId("cost-size").value]];
    byId("cost-frames-told").textContent = `${frames} frames`;
    byId("cost-size-told").textContent = `${size} × ${size} pixels`;
    for (const id of ["frames", "size"]) byId(`cost-${id}`).setAttribute("aria-valuetext", byId(`cost-${id}-told`).textContent);
    const [lgi, vit] = ["lgi", "vit"].map((encoder) => total(encoder, frames, size));
    const tokens = (frames / 2) * (size / 16) ** 2;
    byId("cost-told").textContent = `${tokens.toLocaleString("en")} cubes in regions of ${region(size).join(" × ")}: LGI-Former ${lgi.toFixed(1)}, ViT ${vit.toFixed(1)} billion multiply-adds, ${Math.round(100 * (1 - lgi / vit))} % less.`;
    const steps = Array.from({ length: 16 }, (_, i) => 4 * i + 4); // whole regions;
    const lines = ["lgi", "vit"].map((encoder) => steps.map((count) => total(encoder, count, size)));
    const top = Math.max(...lines.flat());
    const [left, right, low, high] = [52, 300, 150, 12];
    const x = (count) => left + ((count - 4) / 60) * (right - left);
    const y = (value) => low - (value / top) * (low - high);
    const path = (line) => line.map((value, i) => `${i ? "L" : "M"}${x(steps[i]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    byId("cost-chart").innerHTML = `
      <path class="axis" d="M${left} ${high}V${low}H${right}"/><path class="vit" d="${path(lines[1])}"/><path class="lgi" d="${path(lines[0])}"/>
      <circle class="vit" cx="${x(frames)}" cy="${y(vit)}" r="4"/><circle class="lgi" cx="${x(frames)}" cy="${y(lgi)}" r="4"/>
      <text x="${left - 6}" y="${high + 8}" text-anchor="end">${Math.round(top).toLocaleString("en")}</text><text x="${left - 6}" y="${low}" text-anchor="end">0</text>
      <text x="${left}" y="${low + 16}">4</text><text x="${right}" y="${low + 16}" text-anchor="end">64 frames</text>
      <text class="vit" x="${right + 6}" y="${y(lines[1].at(-1)) + 4}">ViT</text><text class="lgi" x="${right + 6}" y="${Math.min(low, y(lines[0].at(-1)) + 4)}">LGI-Former</text>`;
  };
  byId("cost-size").max = SIZES.length - 1;
  for (const id of ["cost-frames", "cost-size", "cost-task"]) byId(id).addEventListener("input", draw);
  draw();
}
