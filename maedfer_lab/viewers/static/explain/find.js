// Where is a face? The first two networks of MTCNN, which finds the faces in the package as well.

const LOOK = 280; // of the picture's longer side, in pixels
const LEAST_FACE = 40; // of those pixels
const SHRINK = 0.709; // from one size at which faces are looked for to the next
const MOST_PLACES = 100; // that the second network looks at
const SURE = [0.6, 0.9];

/** Boxes by falling score, without those that share more than `most` of their union with another. */
function distinct(boxes, most) {
  const kept = [];
  for (const box of boxes.sort((a, b) => b.score - a.score)) {
    const shared = (other) => {
      const across = Math.min(box.x + box.w, other.x + other.w) - Math.max(box.x, other.x);
      const down = Math.min(box.y + box.h, other.y + other.h) - Math.max(box.y, other.y);
      const both = Math.max(0, across) * Math.max(0, down);
      return both / (box.w * box.h + other.w * other.h - both);
    };
    if (kept.every((other) => shared(other) <= most)) kept.push(box);
  }
  return kept;
}

/** A box moved by the network's four numbers: of its edges, in its sides. */
function moved({ x, y, w, h }, [left, top, right, bottom], score) {
  return { x: x + left * w, y: y + top * h, w: w * (1 + right - left), h: h * (1 + bottom - top), score };
}

function squared({ x, y, w, h, score }) {
  const side = Math.max(w, h);
  return { x: x + (w - side) / 2, y: y + (h - side) / 2, w: side, h: side, score };
}

class Finder {
  constructor(engine) { this.engine = engine; }

  /** Part of a picture as the networks take it: across before down, from -1 to 1. */
  pixels(source, { x, y, w, h }, width, height) {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, width, height); // black beyond the edge
    context.drawImage(source, x, y, w, h, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const out = new Float32Array(width * height * 3);
    for (let i = 0; i < width; i++) for (let j = 0; j < height; j++) for (let c = 0; c < 3; c++) {
      out[(i * height + j) * 3 + c] = (data[(j * width + i) * 4 + c] - 127.5) / 128;
    }
    return out;
  }

  /** The largest face of a picture {x, y, w, h} in shares of its sides; null if there is none. */
  async find(source, width, height) {
    await (this.opened ??= Promise.all(["places", "faces"].map((name) => this.engine.open(name))));
    const scale = Math.min(1, LOOK / Math.max(width, height));
    const [across, down] = [width, height].map((length) => Math.round(length * scale));
    const look = new OffscreenCanvas(across, down);
    const context = look.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, across, down);

    let boxes = [];
    for (let size = 12 / LEAST_FACE; Math.min(across, down) * size >= 12; size *= SHRINK) {
      const [w, h] = [Math.ceil(across * size), Math.ceil(down * size)];
      const data = this.pixels(look, { x: 0, y: 0, w: across, h: down }, w, h);
      const { softmax, conv2d_4: moves } = await this.engine.pass("places", { input_1: ["float32", data, [1, w, h, 3]] });
      const rows = softmax.dims[2];
      const found = [];
      for (let k = 0; k < softmax.data.length / 2; k++) {
        const score = softmax.data[2 * k + 1];
        if (score < SURE[0]) continue;
        const box = { x: (2 * Math.floor(k / rows)) / size, y: (2 * (k % rows)) / size, w: 12 / size, h: 12 / size };
        found.push({ ...box, score, move: moves.data.slice(4 * k, 4 * k + 4) });
      }
      boxes.push(...distinct(found, 0.5));
    }
    boxes = distinct(boxes, 0.7).slice(0, MOST_PLACES).map((box) => squared(moved(box, box.move, box.score)));
    if (!boxes.length) return null;

    const data = new Float32Array(boxes.length * 24 * 24 * 3);
    boxes.forEach((box, i) => data.set(this.pixels(look, box, 24, 24), i * 24 * 24 * 3));
    const { softmax_1: scores, dense_2: moves } = await this.engine.pass("faces", { input_2: ["float32", data, [boxes.length, 24, 24, 3]] });
    const [best] = boxes.map((box, i) => moved(box, moves.data.slice(4 * i, 4 * i + 4), scores.data[2 * i + 1]))
      .filter(({ score }) => score >= SURE[1]).sort((a, b) => b.w * b.h - a.w * a.h);
    return best ? { x: best.x / across, y: best.y / down, w: best.w / across, h: best.h / down } : null;
  }
}
