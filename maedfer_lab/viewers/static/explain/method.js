// The method on plain arrays, as maedfer_lab.method has it: masks, targets, baselines, losses.
// A clip is a Float32Array of (frame, row, column, colour) in [0, 1].

const GREY = 0.5;
const BASELINES = {
  interpolation: "interpolation of visible colours",
  nearest: "copy of the nearest visible cube",
  mean: "mean colour of the visible cubes",
  zero: "zero in units of the targets",
};

class Method {
  constructor(config) {
    Object.assign(this, config); // frames, size, tubelet, region, mean, std, motion_*: see explain.py
    const [pt, ph, pw] = this.tubelet;
    const size = this.size;
    this.grid = [this.frames / pt, size / ph, size / pw];
    [this.t, this.h, this.w] = this.grid;
    this.places = this.h * this.w; // of a frame
    this.n = this.t * this.places;
    this.p = pt * ph * pw * 3;
    this.windows = (this.h / this.region[1]) * (this.w / this.region[2]); // of a frame
    this.regions = (this.t / this.region[0]) * this.windows;
    this.perWindow = this.region[1] * this.region[2];
    this.order = this.regionOrder();
    // Where the values of a cube lie in a clip, in the order (frame, row, column, colour).
    this.inside = new Int32Array(this.p);
    this.isMotion = new Uint8Array(this.p);
    let i = 0;
    for (let f = 0; f < pt; f++) for (let y = 0; y < ph; y++) for (let x = 0; x < pw; x++) {
      for (let c = 0; c < 3; c++, i++) {
        this.inside[i] = ((f * size + y) * size + x) * 3 + c;
        this.isMotion[i] = f % this.motion_group ? 1 : 0;
      }
    }
    this.ofFrame = ph * pw * 3; // values of a cube's frame
    this.firsts = this.inside.map((_, k) => k - (Math.floor(k / this.ofFrame) % this.motion_group) * this.ofFrame);
  }

  /** Tokens region after region, (t, h, w) order within each. */
  regionOrder() {
    const [rt, rh, rw] = this.region;
    const order = [];
    for (let a = 0; a < this.t; a += rt) for (let b = 0; b < this.h; b += rh) for (let c = 0; c < this.w; c += rw) {
      for (let i = 0; i < rt; i++) for (let j = 0; j < rh; j++) for (let k = 0; k < rw; k++) {
        order.push(((a + i) * this.h + b + j) * this.w + c + k);
      }
    }
    return order;
  }

  /** Which window of the frame a place lies in. */
  windowOf(place) {
    const y = Math.floor(place / this.w / this.region[1]);
    return y * (this.w / this.region[2]) + Math.floor((place % this.w) / this.region[2]);
  }

  /** Which region a token lies in. */
  regionOf(token) {
    return Math.floor(token / this.places / this.region[0]) * this.windows + this.windowOf(token % this.places);
  }

  /** Where the first value of a token's cube lies in a clip. */
  base(token) {
    const [pt, ph, pw] = this.tubelet;
    const place = token % this.places;
    const [f, y, x] = [Math.floor(token / this.places) * pt, Math.floor(place / this.w) * ph, (place % this.w) * pw];
    return ((f * this.size + y) * this.size + x) * 3;
  }

  /** Visible tokens in the encoder's order and hidden ones in the grid's, of hidden places. */
  split(hidden) {
    const isHidden = (token) => hidden[token % this.places];
    return {
      visible: Int32Array.from(this.order.filter((token) => !isHidden(token))),
      masked: Int32Array.from({ length: this.n }, (_, i) => i).filter(isHidden),
    };
  }

  /** A clip as the model takes it, (colour, frame, row, column). */
  planes(clip) {
    const out = new Float32Array(clip.length);
    const size = clip.length / 3;
    for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) out[c * size + i] = clip[3 * i + c];
    return out;
  }

  /** The targets of `tokens`: pixels in ImageNet's units, motion in place of every second frame. */
  targets(clip, tokens) {
    const out = new Float32Array(tokens.length * this.p);
    tokens.forEach((token, i) => {
      const base = this.base(token);
      const unit = (k) => (clip[base + this.inside[k]] - this.mean[k % 3]) / this.std[k % 3];
      for (let k = 0; k < this.p; k++) {
        out[i * this.p + k] = this.isMotion[k] ? (unit(k) - unit(this.firsts[k])) * this.motion_scale : unit(k);
      }
    });
    return out;
  }

  /** A clip whose `tokens` show what `values` predict (the inverse of `targets`), from `clip`. */
  pasted(clip, tokens, values) {
    const out = clip.slice();
    tokens.forEach((token, i) => {
      const base = this.base(token);
      for (let k = 0; k < this.p; k++) {
        let value = values[i * this.p + k];
        if (this.isMotion[k]) value = value / this.motion_scale + values[i * this.p + this.firsts[k]];
        out[base + this.inside[k]] = Math.min(1, Math.max(0, value * this.std[k % 3] + this.mean[k % 3]));
      }
    });
    return out;
  }

  /** Mean squared errors of appearance and of motion. */
  losses(values, targets) {
    const sums = [0, 0];
    const counts = [0, 0];
    for (let i = 0; i < targets.length; i++) {
      const kind = this.isMotion[i % this.p];
      sums[kind] += ((values ? values[i] : 0) - targets[i]) ** 2;
      counts[kind]++;
    }
    return { appearance: sums[0] / counts[0], motion: sums[1] / counts[1] };
  }

  /** Mean colours of visible cubes by time step, frame of the cube and colour: (place, 3 x pt x t). */
  colours(clip, places) {
    const [pt] = this.tubelet;
    const wide = this.t * pt * 3;
    const out = new Float64Array(places.length * wide);
    places.forEach((place, i) => {
      for (let step = 0; step < this.t; step++) {
        const base = this.base(step * this.places + place);
        for (let k = 0; k < this.p; k++) {
          out[i * wide + (step * pt + Math.floor(k / this.ofFrame)) * 3 + (k % 3)] += clip[base + this.inside[k]];
        }
      }
    });
    return out.map((sum) => sum / (this.ofFrame / 3));
  }

  /** Clips that need no model, made of visible cubes alone; hidden places only are filled in. */
  guesses(clip, hidden, visible) {
    const [, ph, pw] = this.tubelet;
    const { size, frames } = this;
    const shown = [...hidden.keys()].filter((place) => !hidden[place]);
    const colours = this.colours(clip, shown);
    const wide = frames * 3;
    const mean = new Float64Array(wide);
    shown.forEach((_, i) => { for (let k = 0; k < wide; k++) mean[k] += colours[i * wide + k] / shown.length; });
    const clips = { interpolation: clip.slice(), mean: clip.slice(), nearest: clip.slice() };
    const weights = new Float64Array(shown.length);
    const sum = new Float64Array(wide);
    for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) {
      if (!hidden[Math.floor(y / ph) * this.w + Math.floor(x / pw)]) continue;
      let total = 0; // inverse squared distance, as in method.reconstruction.interpolate_visible
      shown.forEach((place, i) => {
        const dy = (y + 0.5) / ph - Math.floor(place / this.w) - 0.5;
        const dx = (x + 0.5) / pw - (place % this.w) - 0.5;
        total += weights[i] = 1 / (dy * dy + dx * dx + 1 / 16);
      });
      sum.fill(0);
      for (let i = 0; i < shown.length; i++) {
        const weight = weights[i] / total;
        for (let k = 0; k < wide; k++) sum[k] += weight * colours[i * wide + k];
      }
      for (let k = 0; k < wide; k++) {
        const at = ((Math.floor(k / 3) * size + y) * size + x) * 3 + (k % 3);
        clips.interpolation[at] = sum[k];
        clips.mean[at] = mean[k];
      }
    }
    for (let place = 0; place < this.places; place++) {
      if (!hidden[place]) continue;
      const far = (other) => (Math.floor(other / this.w) - Math.floor(place / this.w)) ** 2 + ((other % this.w) - (place % this.w)) ** 2;
      const order = [...visible].filter((token) => token < this.places); // the encoder's, for ties
      const from = order.reduce((best, other) => (far(other) < far(best) ? other : best));
      for (let step = 0; step < this.t; step++) {
        const [to, at] = [place, from].map((one) => this.base(step * this.places + one));
        for (const k of this.inside) clips.nearest[to + k] = clip[at + k];
      }
    }
    return clips;
  }

  /** All that is shown and told of a prediction for the hidden tokens. */
  result(clip, hidden, split, prediction) {
    const targets = this.targets(clip, split.masked);
    const guesses = this.guesses(clip, hidden, split.visible);
    const losses = { model: this.losses(prediction, targets), zero: this.losses(null, targets) };
    for (const [name, guess] of Object.entries(guesses)) {
      losses[name] = this.losses(this.targets(guess, split.masked), targets);
    }
    const error = new Float32Array(this.n);
    split.masked.forEach((token, i) => {
      for (let k = i * this.p; k < (i + 1) * this.p; k++) error[token] += (prediction[k] - targets[k]) ** 2 / this.p;
    });
    return { reconstruction: this.pasted(clip, split.masked, prediction), interpolation: guesses.interpolation, error, losses };
  }

  // ---------------------------------------------------------------------- masks

  /** Hide `count` places of each window at random; `random` gives numbers in [0, 1). */
  randomMask(count, random) {
    const hidden = new Uint8Array(this.places);
    for (const window of this.windowPlaces()) {
      for (const [, place] of window.map((one) => [random(), one]).sort((a, b) => a[0] - b[0]).slice(0, count)) hidden[place] = 1;
    }
    return hidden;
  }

  windowPlaces() {
    const found = Array.from({ length: this.windows }, () => []);
    for (let place = 0; place < this.places; place++) found[this.windowOf(place)].push(place);
    return found;
  }

  /** Hide (or show) `wanted` places, and as many in each other window: there the farthest from `keep`. */
  paint(hidden, wanted, hide, keep = null) {
    const out = hidden.slice();
    for (const place of wanted) out[place] = hide ? 1 : 0;
    const windows = this.windowPlaces();
    const asked = new Set(wanted);
    const counts = windows.map((window) => window.filter((place) => out[place]).length);
    const touched = windows.map((window) => window.some((place) => asked.has(place)));
    const goal = Math.min(this.perWindow - 1, Math.max(1, (hide ? Math.max : Math.min)(...counts.filter((_, i) => touched[i]))));
    windows.forEach((window, i) => {
      const twins = new Set(wanted.map((place) => this.twin(place, window)));
      const cost = (place) => (asked.has(place) ? 1e6 : 0) + (keep ? keep(place) : twins.has(place) ? 0 : this.nearest(place, twins));
      for (; counts[i] !== goal; counts[i] += counts[i] < goal ? 1 : -1) {
        const state = counts[i] < goal ? 0 : 1;
        const free = window.filter((place) => out[place] === state);
        out[free.reduce((best, place) => (cost(place) < cost(best) ? place : best))] = 1 - state;
      }
    });
    return out;
  }

  /** The same place within another window. */
  twin(place, window) {
    const [, rh, rw] = this.region;
    return window[(Math.floor(place / this.w) % rh) * rw + (place % rw)];
  }

  nearest(place, others) {
    const far = (a, b) => (Math.floor(a / this.w) - Math.floor(b / this.w)) ** 2 + ((a % this.w) - (b % this.w)) ** 2;
    return Math.min(...[...others].map((other) => far(place, other)));
  }
}

/** Whether the model beats the baselines: the sentence of maedfer_lab's viewer. */
function compare(kind, losses) {
  const model = losses.model[kind];
  const names = Object.keys(BASELINES);
  const best = names.reduce((a, b) => (losses[b][kind] < losses[a][kind] ? b : a));
  const [label, loss] = [BASELINES[best], losses[best][kind]];
  const beaten = names.filter((name) => model < 0.99 * losses[name][kind]).length;
  const share = (x) => `${Math.round(100 * x)}\u00a0%`;
  if (beaten === names.length) return `${share(1 - model / loss)} lower loss than the best baseline (${label})`;
  if (model > 1.01 * loss) return `${share(model / loss - 1)} higher loss than the best baseline (${label})`;
  return `no better than the best baseline (${label})`;
}

/** Random numbers in [0, 1) from a seed (mulberry32). */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
