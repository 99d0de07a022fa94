"""Load a checkpoint: official, VideoMAE's, transformers' or our own, from a file or a folder.

Nothing is dropped in silence: every entry of the file and every parameter of the model is in the
report, and whatever fits by neither name nor shape is an error. What parameters alone do not tell
(clip, regions, heads, tokens, target) is settled first: what is given comes first, then what the
file says, then shapes and the published models' values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor

from maedfer_lab.checkpoints.official import (
    VIDEOMAE,
    Model,
    from_official,
    infer_model,
    our_name,
    to_official,
)
from maedfer_lab.checkpoints.reading import Part, Weights, open_weights
from maedfer_lab.config import PRESETS, EncoderKind, ModelConfig, Shape3, TargetConfig, choose
from maedfer_lab.method.grid import Grid, region_shapes
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    Pooling,
    Tokens,
    build_classifier,
)

LoadAs = Literal["auto", "autoencoder", "classifier"]
Shapes = dict[str, tuple[int, ...]]

PUBLISHED = ModelConfig()
OF_MODEL = ("frames", "size_px", "region", "num_heads", "decoder_heads")  # may be given
CLIP_FRAMES, CLIP_SIZES = (8, 16, 32), (112, 160, 224)  # proposed where a region does not fit
# Far above any model that is known, far below what would fill the memory: checked before anything
# is built.
MAX_TOKENS, MAX_DEPTH, MAX_CLASSES, MAX_TABLE, MAX_MATRIX = 65_536, 256, 100_000, 2**24, 2**28
SHOWN = 5  # differences that an error lists
LEGACY = (
    "legacy_visible_order is on: the official decoder adds positions in another order than that of "
    "its tokens, and these weights have learnt with that"
)
EPSILON = (
    "LayerNorms have VideoMAE's epsilon, 1e-6, with which such weights were trained; transformers' "
    "own is 1e-12"
)

ENCODERS: dict[str, str] = {"lgi": "LGI-Former", "vit": "ViT (joint attention)"}
PARTS = {
    "autoencoder": "pre-training checkpoint (encoder and decoder)",
    "classifier": "fine-tuned checkpoint (classifier)",
    "encoder": "encoder alone, without decoder or head",
}
READ = {"rep": "representative tokens", "tokens": "original tokens", "all": "all tokens"}
# What makes two models the same preset: all but clip size, drop path and orders.
STRUCTURE = ("encoder", "width", "depth", "num_heads", "tubelet", "mlp_ratio", "qkv_bias",
             "local", "inter", "interact", "shared")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Entries that share a fate: their names, their number of parameters, and why."""

    why: str
    names: tuple[str, ...]
    parameters: int

    def describe(self, total: int, more: str = "") -> str:
        """Its names and its share of all parameters."""
        share = 100 * self.parameters / total if total else 0.0
        text = f"{len(self.names):,} keys, {self.parameters:,} parameters, {share:.1f} %{more}"
        rest = f" and {len(self.names) - 4} more" if len(self.names) > 4 else ""
        return f"{text}: {', '.join(self.names[:4])}{rest}: {self.why}" if self.why else text


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint is and what was done with it; `str` of it is what the command prints.

    num_parameters: of the file; parameters that several stages share count once.
    used, ignored: entries of the file. fresh: parameters of the model that are not from the file.
    """

    name: str
    part: Part
    file: str
    epoch: str | None
    config: ModelConfig
    num_classes: int | None
    num_parameters: int
    model_parameters: int
    used: Group
    ignored: tuple[Group, ...]
    fresh: tuple[Group, ...]
    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  {name:<11} {text}" for name, text in self.rows)])


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in float32 on the CPU, in evaluation mode, and the report of its loading."""

    model: Model
    report: LoadReport

    def __str__(self) -> str:
        return str(self.report)


def load_checkpoint(
    source: Path | str | Weights, *, as_: LoadAs = "auto", num_classes: int | None = None,
    frames: int | None = None, size_px: int | None = None, region: Shape3 | None = None,
    num_heads: int | None = None, decoder_heads: int | None = None, tokens: Tokens | None = None,
    pooling: Pooling | None = None, target: TargetConfig | None = None, drop_path: float = 0.0,
    seed: int = 0,
) -> LoadedCheckpoint:  # fmt: skip
    """Load a model and say what it is and what became of every parameter.

    source: a file (.pth, .pt, .bin, .safetensors), a run's folder, a folder of `save_pretrained`
        (ours or that of transformers), "demo" or "demo-expressions", or what `recognise` has made
        of a state dict. Never executes code from a file.
    as_: "classifier" makes a classifier of a pre-trained encoder, with a fresh fc_norm and head.
    num_classes: of a fresh head; by default those of the file.
    frames, size_px, region, num_heads, decoder_heads, tokens, pooling, target: what parameters do
        not tell; by default as the file says, else as published. Position tables are computed,
        so other clips work wherever the regions keep their number.
    drop_path: for training on. seed: of what is freshly initialised.

    Raises ValueError or FileNotFoundError, naming the file, where it cannot be read, names a
    forbidden type, fits by neither name nor shape, or holds NaN.
    """
    choose("as_", as_, get_args(LoadAs))
    weights = source if isinstance(source, Weights) else open_weights(source)
    is_autoencoder = as_ == "autoencoder" or (as_ == "auto" and weights.part == "autoencoder")
    if is_autoencoder and weights.part != "autoencoder":
        raise ValueError(f"{weights.name} has no decoder, so it loads with as_='classifier' alone")
    given = {"frames": frames, "size_px": size_px, "region": region, "num_heads": num_heads,
             "decoder_heads": decoder_heads, "num_classes": num_classes, "tokens": tokens,
             "pooling": pooling, "target": target}  # fmt: skip
    settled = _settle(weights, given, is_autoencoder)
    settled = replace(settled, config=replace(settled.config, drop_path=drop_path))
    _check_fit(weights, settled.config)
    _check_finite(weights)
    with init_empty_weights():  # initialising what is overwritten would take seconds
        model = settled.build()
    missing, used = _fill(model, weights, settled, seed)
    return LoadedCheckpoint(model.eval(), _report(weights, settled, model, used, missing))


# --- settling what parameters do not tell -----------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A model to be built; without classes it is an autoencoder.

    told: where each setting that parameters do not tell comes from.
    """

    config: ModelConfig
    target: TargetConfig = field(default_factory=TargetConfig)
    num_classes: int = 0
    tokens: Tokens = "rep"
    pooling: Pooling = "mean"
    told: dict[str, str] = field(default_factory=dict)

    def build(self) -> Model:
        """The model, initialised as PyTorch stands."""
        if not self.num_classes:
            return MaskedAutoencoder(self.config, self.target)
        return Classifier(self.config, self.num_classes, self.tokens, self.pooling)


def _settle(weights: Weights, given: dict[str, Any], is_autoencoder: bool) -> Settled:
    """The model to build of these weights; ValueError where `given` contradicts them."""
    given = {name: value for name, value in given.items() if value is not None}
    told: dict[str, str] = {}

    def pick(name: str, default: Any, why: str = "as published") -> Any:
        said = weights.told if weights.config is None else vars(weights.config) | weights.told
        if name in given:
            told[name] = "given"
            if said.get(name, given[name]) != given[name]:
                told[name] = f"given ({weights.told_by} says {said[name]})"
            return given[name]
        told[name] = weights.told_by if name in weights.told else why
        return weights.told.get(name, default)

    rep = next((x for n, x in weights.state.items()
                if n.endswith(("rep_tokens", "lg_region_tokens"))), None)  # fmt: skip
    if weights.config is not None:
        told["model"], config = weights.told_by, weights.config
        config = replace(config, **{n: pick(n, None) for n in OF_MODEL if n in given})
    else:
        clip = {"frames": pick("frames", PUBLISHED.frames)}
        size_px = VIDEOMAE["size_px"][1] if weights.hugging_face else PUBLISHED.size_px
        clip["size_px"] = pick("size_px", size_px)
        for heads in ("num_heads", "decoder_heads")[: 2 if weights.part == "autoencoder" else 1]:
            if number := pick(heads, None, "heads of 64 channels, as published"):
                clip[heads] = number
        try:
            config = infer_model(weights.state, weights.part == "autoencoder", **clip)
        except ValueError as error:
            raise ValueError(f"{weights.name}: {error}") from error
    grid = _check_sizes(weights.name, config)
    if weights.config is None:
        config = _with_region(weights, config, rep, grid, pick)
    if config.has_regions and rep is not None:
        _check_regions(weights.name, config, grid, _rows(rep))
    own = _file_classifier(weights, config)
    if is_autoencoder:
        if weights.config is None and config.has_regions:
            told["legacy_visible_order"] = "official pre-training has it"
            config = replace(config, legacy_visible_order=True)
        return Settled(config, pick("target", own.target), told=told)
    classes = given.get("num_classes", own.num_classes)
    if not classes:
        raise ValueError(
            f"{weights.name} has no classes; give num_classes, such as 7 for DFEW, for a head"
        )
    if classes > MAX_CLASSES or classes * config.width > MAX_MATRIX:
        raise ValueError(f"{weights.name}: num_classes={classes:,} is out of all reason")
    tokens = pick("tokens", own.tokens) if config.has_regions else "tokens"
    how = "names of the parameters" if weights.part == "classifier" else "as published"
    pooling = pick("pooling", own.pooling, how)
    config = replace(config, legacy_visible_order=False)
    return Settled(config, own.target, classes, tokens, pooling, told)


def _file_classifier(weights: Weights, config: ModelConfig) -> Settled:
    """The classifier that the file holds: its classes, as published where it does not say."""
    head = weights.state.get("head.weight", weights.state.get("head.bias"))
    is_first = "fc_norm.weight" not in weights.state and "norm.weight" in weights.state
    pooling = "first" if is_first and weights.part == "classifier" else "mean"
    if "fc_norm.0.running_mean" in weights.state:
        pooling = "regions"
    return Settled(
        config,
        weights.told.get("target", TargetConfig(motion=config.has_regions)),
        _rows(head) if head is not None else 0,
        "rep" if config.has_regions else "tokens",
        pooling,
    )


def _rows(x: Tensor) -> int:
    return x.shape[0] if x.ndim else 0


def _with_region(
    weights: Weights, config: ModelConfig, rep: Tensor | None, grid: Grid, pick: Any
) -> ModelConfig:
    """The region that is told, or that the number of representative tokens leaves."""
    if not config.has_regions or rep is None:  # without them, what is missing is said later
        region = weights.told.get("region", config.region)
        if config.has_regions:
            region = pick("region", grid.shape, "not used")
            region = region if region in region_shapes(grid) else grid.shape
        return replace(config, region=region)
    shapes = fitting_regions(_rows(rep), grid)
    if PUBLISHED.region not in shapes and len(shapes) == 1:
        why = f"the only shape that makes {_rows(rep)} regions"
        return replace(config, region=pick("region", shapes[0], why))
    return replace(config, region=pick("region", PUBLISHED.region))


def _check_sizes(name: str, config: ModelConfig) -> Grid:
    """The token grid of a model whose sizes are within reason; nothing is allocated for it."""
    try:
        grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    width, depth = (max(getattr(config, n), getattr(config, f"decoder_{n}"))
                    for n in ("width", "depth"))  # fmt: skip
    cube = 3 * math.prod(config.tubelet)
    matrix = width * max(cube, width * config.mlp_ratio)
    if not (grid.n <= MAX_TOKENS and depth <= MAX_DEPTH and grid.n * width <= MAX_TABLE
            and matrix <= MAX_MATRIX):  # fmt: skip
        raise ValueError(
            f"{name}: {grid.n:,} tokens of {cube:,} values, width={width}, depth={depth} and "
            f"mlp_ratio={config.mlp_ratio:g} are out of all reason; at most {MAX_TOKENS:,} tokens "
            f"and a depth of {MAX_DEPTH} are loaded, and the largest known width is 1,408"
        )
    return grid


def fitting_regions(num_regions: int, grid: Grid) -> list[Shape3]:
    """Region shapes (t, h, w) that cut `grid` into exactly `num_regions`, smallest first."""
    return [s for s in region_shapes(grid) if math.prod(s) * num_regions == grid.n]


def fitting_sizes(num_regions: int, region: Shape3, tubelet: Shape3) -> list[tuple[int, int]]:
    """Usual (frames, size_px) whose grid `region` cuts into exactly `num_regions`."""
    return [
        (frames, size)
        for frames in CLIP_FRAMES
        for size in CLIP_SIZES
        if not (frames % tubelet[0] or size % tubelet[1] or size % tubelet[2])
        and region in fitting_regions(num_regions, Grid.of_clip(frames, size, size, tubelet))
    ]


def _check_regions(name: str, config: ModelConfig, grid: Grid, num_regions: int) -> None:
    shapes, region = fitting_regions(num_regions, grid), config.region
    if region in shapes:
        return
    tiles = region in region_shapes(grid)
    cut = f"cuts it into {grid.n // math.prod(region)}" if tiles else "does not divide it"
    sizes = [f"{t} x {px} px" for t, px in fitting_sizes(num_regions, region, config.tubelet)]
    raise ValueError(
        f"{name} has {num_regions} region tokens; {config.frames} frames of {config.size_px} px "
        f"are a grid of {grid.shape} tokens, and region={region} {cut}. Regions that make "
        f"{num_regions} of that grid: {', '.join(map(str, shapes)) or 'none'}; clips for "
        f"region={region}: {', '.join(sizes) or 'none of the usual sizes'}. Give region=, frames= "
        "or size_px="
    )


# --- does the file fit the model that it seems to be? -----------------------------------------


def _entries(weights: Weights, config: ModelConfig) -> Shapes:
    """Names and shapes that a file of this layout and part has for this model."""
    own = _file_classifier(weights, config)
    classes = 0 if weights.part == "autoencoder" else max(1, own.num_classes)
    shapes = _shapes(config, weights.is_own, classes, own.pooling)
    unwanted = ("fc_norm.", "head.") if weights.part == "encoder" else ()
    return {name: shape for name, shape in shapes.items() if not name.startswith(unwanted)}


@lru_cache(maxsize=32)
def _shapes(config: ModelConfig, is_own: bool, num_classes: int, pooling: Pooling) -> Shapes:
    tokens: Tokens = "rep" if config.has_regions else "tokens"
    with init_empty_weights():
        model = Settled(config, TargetConfig(), num_classes, tokens, pooling).build()
    state = model.state_dict() if is_own else to_official(model)
    return {name: tuple(x.shape) for name, x in state.items()}


def _is_alias(name: str, config: ModelConfig) -> bool:
    """Whether an entry repeats shared attention parameters under a further name."""
    stages = {"none": (), "local_interact": ("third", "interact"),
              "all": ("third", "interact", "second", "inter")}[config.shared]  # fmt: skip
    return any(f".{stage}_attn." in name for stage in stages)


def _check_fit(weights: Weights, config: ModelConfig) -> None:
    want = _entries(weights, config)
    have = {name: tuple(x.shape) for name, x in weights.state.items()}
    differences = []
    for name, shape in want.items():
        if name not in have and not _is_alias(name, config):
            differences.append(f"{name}: not in the file; the model has {shape}")
        elif have.get(name, shape) != shape:
            differences.append(f"{name}: {have[name]} in the file; the model has {shape}")
    for name, shape in have.items():
        if name not in want and not (weights.part == "encoder" and name.startswith("norm.")):
            differences.append(f"{name}: {shape} in the file; the model has no such parameter")
    if not differences:
        return
    presets = []
    for preset, make in PRESETS.items():
        for encoder in get_args(EncoderKind):
            its = _entries(weights, make(encoder).model)
            fits = sum(have.get(n) == shape for n, shape in its.items())
            presets.append((fits / len(its), f"{preset} ({encoder}): {fits} of its {len(its)} fit"))
    share, nearest = max(presets)
    if share < 0.5:
        nearest = "none; give its sizes (frames, size_px, region, num_heads)"
    lines = differences[:SHOWN] + [f"and {len(differences) - SHOWN} more"] * (
        len(differences) > SHOWN
    )
    raise ValueError(
        f"{weights.name} does not fit: {len(differences)} entries differ from the model that it "
        "seems to be:\n  " + "\n  ".join(lines) + f"\nThe nearest preset is {nearest}"
    )


def _check_finite(weights: Weights) -> None:
    bad = []
    for name, x in weights.state.items():
        if x.sum(dtype=torch.float32).isfinite():  # one quick pass: NaN and infinity survive sums
            continue
        nan, infinite = int(x.isnan().sum()), int(x.float().isinf().sum())
        if nan or infinite:
            bad.append(f"{name} ({nan} NaN, {infinite} infinite)")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(
            f"{weights.name}: weights are not finite in {len(bad)} of {len(weights.state)} "
            f"entries: {', '.join(bad[:SHOWN])}{more}; take an earlier checkpoint"
        )


# --- filling the model, and saying so ---------------------------------------------------------


def _fill(
    model: Model, weights: Weights, settled: Settled, seed: int
) -> tuple[list[str], list[str]]:
    """Give every parameter its value; (our names that are fresh, names of the file's used)."""
    name_of = {n: n if weights.is_own else our_name(n, weights.part == "autoencoder")
               for n in weights.state}  # fmt: skip
    values: Mapping[str, Tensor] = weights.state
    if not weights.is_own:
        values = from_official(weights.state, weights.part == "autoencoder")
    places = model.state_dict()
    takes = {n for n, x in places.items() if n in values and values[n].shape == x.shape}
    if weights.part != "classifier" and isinstance(model, Classifier):
        takes = {n for n in takes if n.startswith("encoder.")}
    in_file = {id(x) for x in weights.state.values()}  # those that were joined are copies already
    filled = {n: values[n].to(torch.float32, copy=id(values[n]) in in_file) for n in takes}
    missing = [n for n in places if n not in takes and not _is_alias(n, settled.config)]
    if missing:  # fc_norm and head: those of a classifier without blocks, which is quick
        s = settled
        start = build_classifier(
            replace(s.config, depth=0), s.num_classes, s.tokens, s.pooling, seed=seed
        ).state_dict()
        filled |= {name: start[name] for name in missing}
    model.load_state_dict(filled, strict=False, assign=True)
    assert not any(p.is_meta for p in model.parameters()), "a parameter was left without value"
    return missing, [n for n in weights.state if name_of[n] in takes]


def _report(
    weights: Weights, settled: Settled, model: Model, used: list[str], missing: list[str]
) -> LoadReport:
    c, state = settled.config, weights.state

    def group(why: str, names: Iterable[str], state: Mapping[str, Tensor] = state) -> Group:
        names = tuple(names)
        return Group(why, names, sum(state[n].numel() for n in names if not _is_alias(n, c)))

    reasons: dict[str, list[str]] = {}
    for name in state.keys() - set(used):
        why = "a classifier has no decoder"
        if name.startswith("head."):
            why = f"{settled.num_classes} classes were asked for"
        elif name.startswith(("norm.", "encoder.norm.")):
            why = "fc_norm after the pooling takes its place, as in official fine-tuning"
        reasons.setdefault(why, []).append(name)
    ignored = tuple(group(why, [n for n in state if n in names]) for why, names in reasons.items())
    why = "not in a pre-training checkpoint"
    if weights.part == "classifier":
        why = "another number of classes than the file's"
    fresh = (group(why, missing, model.state_dict()),) if missing else ()
    total, own = group("", state).parameters, sum(p.numel() for p in model.parameters())
    taken = group("", used)

    grid, stages = Grid.of_clip(c.frames, c.size_px, c.size_px, c.tubelet), ""
    if c.has_regions:
        stages = (f"; stages: local {c.local}, inter {'self' if c.inter else 'none'}, "
                  f"interact {c.interact}; shared attention: {c.shared}")  # fmt: skip
    layout = "maedfer_lab" if weights.is_own else "official"
    layout = "Hugging Face" if weights.hugging_face else layout
    rows = [
        ("what", f"{PARTS[weights.part]}, {layout} layout"
         + (f", epoch or step {weights.epoch}" if weights.epoch is not None else "")),
        ("encoder", f"{ENCODERS.get(c.encoder, c.encoder)}, depth {c.depth}, width {c.width}, "
         f"{c.num_heads} heads{stages}"),
        ("clip", f"{c.frames} frames of {c.size_px} x {c.size_px} px, cubes {_by(c.tubelet)}, "
         f"{_by(grid.shape)} = {grid.n} tokens"),
    ]  # fmt: skip
    if c.has_regions:
        number = grid.n // math.prod(c.region)
        rows.append(("regions", f"{number} of {_by(c.region)} tokens"))
    if weights.part == "autoencoder":
        rows.append(("decoder", f"depth {c.decoder_depth}, width {c.decoder_width}, "
                                f"{c.decoder_heads} heads"))  # fmt: skip
    if isinstance(model, MaskedAutoencoder):
        t = model.target
        what = f"pixels of every frame, in {t.units} units"
        if t.motion:
            what = (f"appearance and motion in groups of {t.motion_group} frames, in {t.units} "
                    f"units, motion weight {t.motion_weight:g}")  # fmt: skip
        rows.append(("target", what))
    else:
        rows.append(("classes", f"{settled.num_classes}, read from the {settled.pooling} of "
                                f"{READ[settled.tokens]}"))  # fmt: skip
    sources: dict[str, list[str]] = {}
    for setting, source in settled.told.items():
        sources.setdefault(source, []).append(setting)
    beside = f"; beside the weights: {', '.join(weights.beside)}" if weights.beside else ""
    kind = "classifier" if isinstance(model, Classifier) else "masked autoencoder"
    rows += [
        ("preset", preset_of(c) or "none (a shape of its own)"),
        ("file", weights.file + beside),
        ("parameters", f"{total:,} in {len(state):,} state keys"),
        ("settings", "; ".join(f"{', '.join(names)}: {by}" for by, names in sources.items())),
        ("loaded as", f"{kind}, {own:,} parameters"),
        ("used", taken.describe(total, " of the file")),
        *(("ignored", g.describe(total)) for g in ignored),
        *[("ignored", "none")] * (not ignored),
        *(("fresh", g.describe(own)) for g in fresh),
        *[("fresh", "none")] * (not fresh),
        *[("note", LEGACY)] * c.legacy_visible_order,
        *[("note", EPSILON)] * weights.hugging_face,
    ]
    if dtypes := {x.dtype for x in state.values()} - {torch.float32}:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        rows.append(("note", f"weights in {kinds} were loaded as float32"))
    return LoadReport(
        weights.name, weights.part, weights.file, weights.epoch, c, settled.num_classes or None,
        total, own, taken, ignored, fresh, tuple(rows),
    )  # fmt: skip


def preset_of(config: ModelConfig) -> str | None:
    """The preset whose model has this structure, such as "base (lgi)"."""
    if config.encoder not in ENCODERS:
        return None
    for name, make in PRESETS.items():
        model = make(config.encoder).model  # type: ignore[arg-type]
        if all(getattr(model, f) == getattr(config, f) for f in STRUCTURE):
            return f"{name} ({config.encoder})"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
