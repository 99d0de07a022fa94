// Parameters aside, cost/formula.py in JavaScript: multiply-adds of one clip's forward pass.

/** config: as ModelConfig has it, of "lgi" (self, inter, cross) or "vit". task: classify, pretrain. */
function macs(config, task = "classify", { classes = 7, ratio = 0.9, asPublished = false } = {}) {
  const { width, depth, mlp_ratio: mlp } = config;
  const [t, h, w] = tokenGrid(config);
  const [tokens, cube] = [t * h * w, config.tubelet.reduce((a, b) => a * b) * 3];
  const joint = config.encoder === "vit";
  const places = joint ? h * w : config.region[1] * config.region[2];
  const seen = task === "classify" ? tokens : (tokens * (places - Math.round(ratio * places))) / places;
  const parts = { embedding: (asPublished ? tokens : seen) * cube * width };
  const add = (more, prefix = "") => {
    for (const [name, count] of Object.entries(more)) parts[prefix + name] = (parts[prefix + name] ?? 0) + count;
  };
  for (let i = 0; i < depth; i++) {
    const repOnly = task === "classify" && !asPublished && i === depth - 1;
    add(joint ? vitBlock(width, mlp, seen, seen) : lgiBlock(config, tokens, seen, repOnly));
  }
  if (task === "classify") return { ...parts, head: width * classes };
  const [narrow, masked] = [config.decoder_width, tokens - seen];
  parts.decoder_embedding = seen * width * narrow;
  for (let i = 0; i < config.decoder_depth; i++) {
    const last = i === config.decoder_depth - 1 && !asPublished ? masked : tokens;
    add(vitBlock(narrow, mlp, tokens, last), "decoder_");
  }
  return { ...parts, decoder_head: masked * narrow * cube };
}

const tokenGrid = ({ frames, size_px: size, tubelet: [t, h, w] }) => [frames / t, size / h, size / w];
const attending = (width, queries, keys, sequences = 1) =>
  sequences * (2 * (queries + keys) * width ** 2 + 2 * queries * keys * width);
const feedForward = (width, mlp, tokens) => 2 * tokens * width * Math.floor(width * mlp);
const vitBlock = (width, mlp, tokens, last) => ({ joint: attending(width, last, tokens), feed_forward: feedForward(width, mlp, last) });

function lgiBlock(config, tokens, seen, repOnly) {
  const { width, mlp_ratio: mlp } = config;
  const regions = tokens / config.region.reduce((a, b) => a * b);
  const size = seen / regions;
  const parts = {
    local: attending(width, repOnly ? 1 : size + 1, size + 1, regions),
    inter: attending(width, regions, regions),
  };
  if (!repOnly) parts.interact = attending(width, seen, regions);
  return { ...parts, feed_forward: feedForward(width, mlp, repOnly ? regions : seen + regions) };
}
