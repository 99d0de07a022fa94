"""Load a checkpoint: official, VideoMAE's, transformers' or our own, from a file or a folder.

Every entry of the file and every parameter of the model is in the report; entries that fit
neither by name nor by shape are an error. Settings not implied by parameters are resolved first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor

from maedfer_lab.checkpoints.official import VIDEOMAE, Model, infer_model, to_official
from maedfer_lab.checkpoints.reading import Part, Weights, open_weights
from maedfer_lab.config import PRESETS, ModelConfig, Shape3, TargetConfig, choose
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
# Far above any known model, far below a full memory; checked before a model is built.
MAX_CLASSES, MAX_TABLE, MAX_MATRIX = 100_000, 2**24, 2**28
SHOWN = 5  # differences that an error lists
TO_KEEP = "maedfer checkpoint FILE --frames ... --to-folder DIR writes a folder that states them"
LEGACY = ("legacy_visible_order is on: the official decoder adds positions in another order than "
          "that of its tokens, and these weights were trained with that")  # fmt: skip
EPSILON = ("LayerNorms have VideoMAE's epsilon, 1e-6, with which such weights were trained; "
           "transformers' own is 1e-12")  # fmt: skip

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


class Group(NamedTuple):
    """Entries treated alike: their names, their number of parameters, and why."""

    why: str
    names: tuple[str, ...]
    parameters: int

    def describe(self, total: int, more: str = "") -> str:
        """Its names and its share of all parameters."""
        share = 100 * self.parameters / total if total else 0.0
        text = f"{len(self.names):,} keys, {self.parameters:,} parameters, {share:.1f} %{more}"
        rest = f" and {len(self.names) - 4} more" if len(self.names) > 4 else ""
        return f"{text}: {', '.join(self.names[:4])}{rest}: {self.why}" if self.why else text


class LoadReport(NamedTuple):
    """What a checkpoint is and what was loaded; `str` of it is what the command prints.

    num_parameters: of the file; parameters shared by several stages count once.
    used, ignored: entries of the file. fresh: newly initialised parameters of the model.
    """

    name: str
    part: Part
    file: str
    epoch: str | None
    num_classes: int | None
    num_parameters: int
    model_parameters: int
    used: Group
    ignored: tuple[Group, ...]
    fresh: tuple[Group, ...]
    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join([self.name, *(f"  {name:<11} {text}" for name, text in self.rows)])


class LoadedCheckpoint(NamedTuple):
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
    """Load a model and report what it is and how every parameter was used.

    source: a file (.pth, .pt, .bin, .safetensors), a run's folder, a folder of `save_pretrained`
        (ours or that of transformers), "demo" or "demo-expressions", or the result of `recognise`
        for a state dict. Never executes code from a file.
    as_: "classifier" makes a classifier of a pre-trained encoder, with a new fc_norm and head.
    num_classes: of a new head; by default those of the file.
    frames, size_px, region, num_heads, decoder_heads, tokens, pooling, target: settings not implied
        by parameters; by default as the file says, else as published. Position tables are computed,
        so other clips work if the number of regions stays the same.
    drop_path: for further training. seed: of new parameters.

    Raises ValueError or FileNotFoundError, naming the file, if it cannot be read, names a
    forbidden type, fits neither by name nor by shape, or holds NaN.
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


# --- settings that parameters do not imply ----------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A model to be built; without classes it is an autoencoder.

    origins: of each setting that parameters do not imply.
    """

    config: ModelConfig
    target: TargetConfig = field(default_factory=TargetConfig)
    num_classes: int = 0
    tokens: Tokens = "rep"
    pooling: Pooling = "mean"
    origins: dict[str, str] = field(default_factory=dict)

    def build(self) -> Model:
        """The model, initialised as by PyTorch."""
        if not self.num_classes:
            return MaskedAutoencoder(self.config, self.target)
        return Classifier(self.config, self.num_classes, self.tokens, self.pooling)


def _settle(weights: Weights, given: dict[str, Any], is_autoencoder: bool) -> Settled:
    """The model for these weights; ValueError if `given` contradicts them."""
    given = {name: value for name, value in given.items() if value is not None}
    origins: dict[str, str] = {}

    def pick(name: str, default: Any, why: str = "as published") -> Any:
        said = (vars(weights.config) if weights.config else {}) | weights.settings
        if name in given:
            origins[name] = "given"
            if said.get(name, given[name]) != given[name]:
                origins[name] = f"given ({weights.source} says {said[name]})"
            return given[name]
        origins[name] = weights.source if name in weights.settings else why
        return weights.settings.get(name, default)

    rep = next((x for n, x in weights.state.items()
                if n.endswith(("rep_tokens", "lg_region_tokens"))), None)  # fmt: skip
    has_decoder = weights.part == "autoencoder"
    if weights.config is not None:
        origins["model"], config = weights.source, weights.config
        config = replace(config, **{n: pick(n, None) for n in OF_MODEL if n in given})
    else:
        size_px = VIDEOMAE["size_px"][1] if weights.hugging_face else PUBLISHED.size_px
        clip = {"frames": pick("frames", PUBLISHED.frames), "size_px": pick("size_px", size_px)}
        for heads in ("num_heads", "decoder_heads") if has_decoder else ("num_heads",):
            if number := pick(heads, None, "as models of this width have"):
                clip[heads] = number
        try:
            config = infer_model(weights.state, has_decoder, **clip)
        except ValueError as error:
            raise ValueError(f"{weights.name}: {error}") from error
    grid = _check_sizes(weights.name, config)
    if weights.config is None:
        config = replace(config, region=_region(weights, config, rep, grid, pick))
    if config.has_regions and rep is not None:
        _check_regions(weights.name, config, grid, _rows(rep))
    own_classes, own_pooling = _file_head(weights)
    target = weights.settings.get("target", TargetConfig(motion=config.has_regions))
    if is_autoencoder:
        if weights.config is None and config.has_regions:
            origins["legacy_visible_order"] = "official pre-training has it"
            config = replace(config, legacy_visible_order=True)
        return Settled(config, pick("target", target), origins=origins)
    classes = given.get("num_classes", own_classes)
    if not classes:
        raise ValueError(
            f"{weights.name} has no classes; give num_classes, such as 7 for DFEW, for a head"
        )
    if classes > MAX_CLASSES or classes * config.width > MAX_MATRIX:
        raise ValueError(f"{weights.name}: num_classes={classes:,} is unreasonably large")
    tokens = pick("tokens", "rep") if config.has_regions else "tokens"
    how = "names of the parameters" if weights.part == "classifier" else "as published"
    pooling = pick("pooling", own_pooling, how)
    config = replace(config, legacy_visible_order=False)
    return Settled(config, target, classes, tokens, pooling, origins)


def _file_head(weights: Weights) -> tuple[int, Pooling]:
    """Classes and pooling of the classifier that the file holds."""
    head = weights.state.get("head.weight", weights.state.get("head.bias"))
    is_first = "fc_norm.weight" not in weights.state and "norm.weight" in weights.state
    pooling = "first" if is_first and weights.part == "classifier" else "mean"
    if "fc_norm.0.running_mean" in weights.state:
        pooling = "regions"
    return 0 if head is None else _rows(head), pooling


def _rows(x: Tensor) -> int:
    return x.shape[0] if x.ndim else 0


def _region(
    weights: Weights, config: ModelConfig, rep: Tensor | None, grid: Grid, pick: Any
) -> Shape3:
    """The given region, or the one that fits the number of representative tokens."""
    if not config.has_regions:
        return weights.settings.get("region", config.region)
    if rep is None:  # missing parameters are reported later
        region = pick("region", grid.shape, "not used")
        return region if region in region_shapes(grid) else grid.shape
    shapes = fitting_regions(_rows(rep), grid)
    if PUBLISHED.region not in shapes and len(shapes) == 1:
        return pick("region", shapes[0], f"the only shape that makes {_rows(rep)} regions")
    return pick("region", PUBLISHED.region)


def _check_sizes(name: str, config: ModelConfig) -> Grid:
    """The token grid of a model of reasonable sizes; allocates nothing for it."""
    try:
        grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    width, cube = max(config.width, config.decoder_width), 3 * math.prod(config.tubelet)
    matrix = width * max(cube, width * config.mlp_ratio)
    if grid.n * width > MAX_TABLE or matrix > MAX_MATRIX:
        raise ValueError(
            f"{name}: {grid.n:,} tokens of {cube:,} values, width={width} and mlp_ratio="
            f"{config.mlp_ratio:g} are unreasonably large; the largest known width is 1,408"
        )
    return grid


def fitting_regions(num_regions: int, grid: Grid) -> list[Shape3]:
    """Region shapes (t, h, w) that cut `grid` into exactly `num_regions`, smallest first."""
    return [s for s in region_shapes(grid) if math.prod(s) * num_regions == grid.n]


def _check_regions(name: str, config: ModelConfig, grid: Grid, num_regions: int) -> None:
    shapes, region = fitting_regions(num_regions, grid), config.region
    if region not in shapes:
        cut = f"cuts it into {grid.n // math.prod(region)}"
        cut = cut if region in region_shapes(grid) else "does not divide it"
        raise ValueError(
            f"{name} has {num_regions} region tokens; {config.frames} frames of {config.size_px} "
            f"px are a grid of {grid.shape} tokens, and region={region} {cut}. Give frames=, "
            f"size_px=, or region=, one of {', '.join(map(str, shapes)) or 'none on that grid'}; "
            f"{TO_KEEP}"
        )


# --- does the file fit the model that it seems to be? -----------------------------------------


@lru_cache(maxsize=32)
def _shapes(config: ModelConfig, is_own: bool, num_classes: int, pooling: Pooling) -> Shapes:
    """Names and shapes of a file with this layout for this model."""
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
    classes, pooling = _file_head(weights)
    classes = 0 if weights.part == "autoencoder" else max(1, classes)
    is_encoder = weights.part == "encoder"
    want = {
        name: shape
        for name, shape in _shapes(config, weights.is_own, classes, pooling).items()
        if not (is_encoder and name.startswith(("fc_norm.", "head."))) or name in weights.state
    }
    have = {name: tuple(x.shape) for name, x in weights.state.items()}
    differences = []
    for name, shape in want.items():
        if name not in have and not _is_alias(name, config):
            differences.append(f"{name}: not in the file; the model has {shape}")
        elif have.get(name, shape) != shape:
            differences.append(f"{name}: {have[name]} in the file; the model has {shape}")
    for name, shape in have.items():
        if name not in want and not (is_encoder and name.startswith("norm.")):
            why = "has no such parameter"
            why = "computes positions, and has none that are learnt" if "pos" in name else why
            differences.append(f"{name}: {shape} in the file; the model {why}")
    if differences:
        shown = "\n  ".join([*differences[:SHOWN], "..."][: len(differences)])
        raise ValueError(
            f"{weights.name} does not fit: {len(differences)} entries differ from the model that "
            f"it seems to be:\n  {shown}\nGive sizes that are missing (frames, size_px, region, "
            f"num_heads; {TO_KEEP}), or load_checkpoint(recognise(state_dict)) with the model's "
            "entries alone"
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
        raise ValueError(
            f"{weights.name}: weights are not finite in {len(bad)} of {len(weights.state)} "
            f"entries, such as {', '.join(bad[:SHOWN])}; take an earlier checkpoint"
        )


# --- filling the model, and saying so ---------------------------------------------------------


def _fill(
    model: Model, weights: Weights, settled: Settled, seed: int
) -> tuple[list[str], list[str]]:
    """Load every parameter; (our names newly initialised, names of the file that were used)."""
    empty = {n: torch.empty_like(x, device="cpu") for n, x in model.state_dict().items()}
    model.load_state_dict(empty, strict=False, assign=True)
    ours = model.state_dict()
    places = ours if weights.is_own else to_official(model)  # views of the same memory
    is_new = isinstance(model, Classifier) and weights.part != "classifier"
    prefix = "encoder." if is_new and not weights.is_own else ""
    filled = dict[str, int]()
    for name, x in weights.state.items():
        plain = name.removeprefix(prefix)
        place = None if is_new and plain.startswith("norm.") else places.get(plain)
        if place is not None and place.shape == x.shape:
            filled[name] = place.copy_(x).data_ptr()
    missing = [n for n, x in ours.items() if x.data_ptr() not in filled.values()]
    if missing:  # new fc_norm and head, from a classifier without blocks: quick
        s, config = settled, replace(settled.config, depth=0)
        start = build_classifier(config, s.num_classes, s.tokens, s.pooling, seed=seed)
        for name in missing:
            ours[name].copy_(start.state_dict()[name])
    return missing, [*filled]


def _report(
    weights: Weights, settled: Settled, model: Model, used: list[str], missing: list[str]
) -> LoadReport:
    c, state = settled.config, weights.state

    def group(why: str, names: Iterable[str], state: Mapping[str, Tensor] = state) -> Group:
        names = tuple(names)
        return Group(why, names, sum(state[n].numel() for n in names if not _is_alias(n, c)))

    reasons = defaultdict[str, list[str]](list)
    taken_names = set(used)
    for name in (name for name in state if name not in taken_names):
        why = "a classifier has no decoder"
        if name.startswith("head."):
            why = f"num_classes={settled.num_classes} was requested"
        elif name.startswith(("norm.", "encoder.norm.")):
            why = "fc_norm after the pooling takes its place, as in official fine-tuning"
        reasons[why].append(name)
    ignored = tuple(group(why, names) for why, names in reasons.items())
    if outside := weights.outside:
        beside = "outside of the model, in a larger module"
        ignored += (Group(beside, tuple(outside), sum(outside.values())),)
    why = "not in the file"
    if weights.part == "classifier":
        why = "another number of classes than the file's"
    fresh = (group(why, missing, model.state_dict()),) if missing else ()
    total = group("", state).parameters + sum(weights.outside.values())
    own = sum(p.numel() for p in model.parameters())
    taken, grid = group("", used), Grid.of_clip(c.frames, c.size_px, c.size_px, c.tubelet)
    layout = "maedfer_lab" if weights.is_own else "official"
    layout = "Hugging Face" if weights.hugging_face else layout
    epoch = "" if weights.epoch is None else f", epoch or step {weights.epoch}"
    stages = (f"; stages: local {c.local}, inter {'self' if c.inter else 'none'}, interact "
              f"{c.interact}; shared attention: {c.shared}") if c.has_regions else ""  # fmt: skip
    rows = [
        ("what", f"{PARTS[weights.part]}, {layout} layout{epoch}"),
        ("encoder", f"{ENCODERS.get(c.encoder, c.encoder)}, depth {c.depth}, width {c.width}, "
         f"{c.num_heads} heads{stages}"),
        ("clip", f"{c.frames} frames of {c.size_px} x {c.size_px} px, cubes {_by(c.tubelet)}, "
         f"{_by(grid.shape)} = {grid.n} tokens"),
    ]  # fmt: skip
    if c.has_regions:
        rows.append(("regions", f"{grid.n // math.prod(c.region)} of {_by(c.region)} tokens"))
    if weights.part == "autoencoder":
        rows.append(("decoder", f"depth {c.decoder_depth}, width {c.decoder_width}, "
                                f"{c.decoder_heads} heads"))  # fmt: skip
    kind, what = "classifier", ("classes", f"{settled.num_classes}, read from the "
                                f"{settled.pooling} of {READ[settled.tokens]}")  # fmt: skip
    if isinstance(model, MaskedAutoencoder):
        t, kind = model.target, "masked autoencoder"
        what = ("target", f"pixels of every frame, in {t.units} units")
        if t.motion:
            what = ("target", f"appearance and motion in groups of {t.motion_group} frames, in "
                    f"{t.units} units, motion weight {t.motion_weight:g}")  # fmt: skip
    sources = defaultdict[str, list[str]](list)
    for setting, source in settled.origins.items():
        sources[source].append(setting)
    beside = f"; besides the weights: {', '.join(weights.beside)}" if weights.beside else ""
    rows += [
        what,
        ("preset", preset_of(c) or "none (custom sizes)"),
        ("file", weights.file + beside),
        ("parameters", f"{total:,} in {len(state):,} state keys"),
        ("settings", "; ".join(f"{', '.join(names)}: {by}" for by, names in sources.items())),
        ("loaded as", f"{kind}, {own:,} parameters"),
        ("used", taken.describe(total, " of the file")),
        *([("ignored", one.describe(total)) for one in ignored] or [("ignored", "none")]),
        *([("fresh", one.describe(own)) for one in fresh] or [("fresh", "none")]),
        *[("note", LEGACY)] * c.legacy_visible_order,
        *[("note", EPSILON)] * weights.hugging_face,
    ]
    if dtypes := {x.dtype for x in state.values()} - {torch.float32}:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        rows.append(("note", f"weights in {kinds} were loaded as float32"))
    return LoadReport(
        weights.name, weights.part, weights.file, weights.epoch, settled.num_classes or None,
        total, own, taken, ignored, fresh, tuple(rows),
    )  # fmt: skip


def preset_of(config: ModelConfig) -> str | None:
    """The preset whose model has this structure, such as "base (lgi)"."""
    known = PRESETS if config.encoder in ENCODERS else {}
    models = [(n, make(config.encoder).model) for n, make in known.items()]  # type: ignore[arg-type]
    models.sort(key=lambda one: one[1].frames != config.frames)  # two presets share all else
    same = (n for n, m in models if all(getattr(m, f) == getattr(config, f) for f in STRUCTURE))
    return next((f"{name} ({config.encoder})" for name in same), None)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
