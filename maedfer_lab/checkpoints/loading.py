"""Load a checkpoint: official, VideoMAE's, transformers' or our own, from a file or a folder.

Nothing is dropped in silence: every entry of the file and every parameter of the model is in the
report, and whatever fits by neither name nor shape is an error. What parameters alone do not tell
(clip, regions, heads, tokens, target) is settled first: what is given comes first, then what the
file says, then shapes and the published models' values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor

from maedfer_lab.checkpoints.official import (
    VIDEOMAE,
    Kind,
    from_official,
    infer_model,
    our_name,
    to_official,
)
from maedfer_lab.checkpoints.reading import Layout, Part, Weights, open_weights
from maedfer_lab.config import PRESETS, EncoderKind, ModelConfig, Shape3, TargetConfig, choose
from maedfer_lab.method.grid import Grid, region_shapes
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    Pooling,
    Tokens,
    build_classifier,
)

Model = MaskedAutoencoder | Classifier
LoadAs = Literal["auto", "autoencoder", "classifier"]
Shapes = dict[str, tuple[int, ...]]

PUBLISHED = ModelConfig()
KINDS: dict[Part, Kind] = {"autoencoder": "pretrain", "classifier": "finetune",
                           "encoder": "finetune"}  # fmt: skip
REGION_TOKENS = ("rep_tokens", "lg_region_tokens")
CLIP_FRAMES, CLIP_SIZES = (8, 16, 32), (112, 160, 224)  # proposed where a region does not fit
# Far above any model that is known, far below what would fill the memory: checked before anything
# is built.
LARGEST = {"frames": 4096, "size_px": 65_536, "width": 8192, "depth": 256, "num_heads": 1024,
           "decoder_width": 8192, "decoder_depth": 256, "decoder_heads": 1024, "mlp_ratio": 64,
           "num_classes": 100_000}  # fmt: skip
MAX_TOKENS, MAX_TABLE, MAX_MATRIX = 65_536, 2**24, 2**28

DECODER_UNUSED = "a classifier has no decoder"
NORM_UNUSED = "fc_norm after the pooling takes its place, as in official fine-tuning"
FRESH = "not in a pre-training checkpoint"
SHOWN = 5  # differences that an error lists


# --- the report -------------------------------------------------------------------------------

ENCODERS: dict[str, str] = {"lgi": "LGI-Former", "vit": "ViT (joint attention)"}
# What makes two models the same preset: all but clip size, drop path and orders.
STRUCTURE = ("encoder", "width", "depth", "num_heads", "tubelet", "mlp_ratio", "qkv_bias",
             "local", "inter", "interact", "shared")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Entries that share a fate: their names, their number of parameters, and why."""

    why: str
    names: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint is and what was done with it; `str` of it is what the command prints.

    num_keys, num_parameters: of the file; parameters that several stages share count once.
    used, ignored: entries of the file. fresh: parameters of the model that are not from the file.
    told: where each setting that parameters do not tell was found.
    """

    name: str
    layout: str
    part: str
    loaded_as: str
    file: str
    beside: tuple[str, ...]
    epoch: str | None
    config: ModelConfig
    target: TargetConfig | None
    num_classes: int | None
    tokens: str | None
    pooling: str | None
    num_keys: int
    num_parameters: int
    model_parameters: int
    used: Group
    ignored: tuple[Group, ...]
    fresh: tuple[Group, ...]
    told: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("what", self._what()), *self._model_rows()]
        rows += [("preset", preset_of(self.config) or "none (a shape of its own)")]
        file = self.file + (
            f"; beside the weights: {', '.join(self.beside)}" if self.beside else ""
        )
        rows += [
            ("file", file),
            ("parameters", f"{self.num_parameters:,} in {self.num_keys:,} state keys"),
            ("settings", _by_source(self.told)),
            ("loaded as", f"{self.loaded_as}, {self.model_parameters:,} parameters"),
            ("used", self._share(self.used)),
        ]
        for name, groups, total in (
            ("ignored", self.ignored, self.num_parameters),
            ("fresh", self.fresh, self.model_parameters),
        ):
            rows += [(name, f"{_counts(g, total)}: {_names(g.names)}: {g.why}") for g in groups]
            if not groups:
                rows.append((name, "none"))
        rows += [("note", note) for note in self.notes]
        return "\n".join([self.name, *(f"  {name:<11} {text}" for name, text in rows)])

    def _what(self) -> str:
        kinds = {
            "autoencoder": "pre-training checkpoint (encoder and decoder)",
            "classifier": "fine-tuned checkpoint (classifier)",
            "encoder": "encoder alone, without decoder or head",
        }
        epoch = "" if self.epoch is None else f", epoch or step {self.epoch}"
        return f"{kinds[self.part]}, {self.layout} layout{epoch}"

    def _model_rows(self) -> list[tuple[str, str]]:
        c = self.config
        grid = Grid.of_clip(c.frames, c.size_px, c.size_px, c.tubelet)
        stages = "" if not c.has_regions else (
            f"; stages: local {c.local}, inter {'self' if c.inter else 'none'}, "
            f"interact {c.interact}; shared attention: {c.shared}"
        )  # fmt: skip
        rows = [
            ("encoder", f"{ENCODERS.get(c.encoder, c.encoder)}, depth {c.depth}, width {c.width}, "
                        f"{c.num_heads} heads{stages}"),
            ("clip", f"{c.frames} frames of {c.size_px} x {c.size_px} px, cubes "
                     f"{_by(c.tubelet)}, {_by(grid.shape)} = {grid.n} tokens"),
        ]  # fmt: skip
        if c.has_regions:
            num = grid.n // math.prod(c.region)
            rows.append(("regions", f"{num} of {_by(c.region)} tokens"))
        if self.part == "autoencoder":
            rows.append(("decoder", f"depth {c.decoder_depth}, width {c.decoder_width}, "
                                    f"{c.decoder_heads} heads"))  # fmt: skip
        if self.target is not None:
            rows.append(("target", _target(self.target)))
        if self.num_classes is not None:
            read = {
                "rep": "representative tokens",
                "tokens": "original tokens",
                "all": "all tokens",
            }
            how = f"{'mean' if self.pooling == 'mean' else 'first'} of {read[str(self.tokens)]}"
            rows.append(("classes", f"{self.num_classes}, read from the {how}"))
        return rows

    def _share(self, group: Group) -> str:
        return f"{_counts(group, self.num_parameters)} of the file"


def preset_of(config: ModelConfig) -> str | None:
    """The preset whose model has this structure, such as "base (lgi)"."""
    encoder = config.encoder
    if encoder not in ENCODERS:
        return None
    for name, make in PRESETS.items():
        model = make(encoder).model  # type: ignore[arg-type]
        if all(getattr(model, f) == getattr(config, f) for f in STRUCTURE):
            return f"{name} ({encoder})"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _target(target: TargetConfig) -> str:
    if not target.motion:
        return f"pixels of every frame, in {target.units} units"
    return (
        f"appearance and motion in groups of {target.motion_group} frames, in {target.units} "
        f"units, motion weight {target.motion_weight:g}"
    )


def _counts(group: Group, total: int) -> str:
    share = 100 * group.parameters / total if total else 0.0
    return f"{len(group.names):,} keys, {group.parameters:,} parameters, {share:.1f} %"


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _by_source(told: dict[str, str]) -> str:
    sources: dict[str, list[str]] = {}
    for setting, source in told.items():
        sources.setdefault(source, []).append(setting)
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())


# --- loading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model in float32 on the CPU, in evaluation mode, and the report of its loading."""

    model: Model
    report: LoadReport

    def __str__(self) -> str:
        return str(self.report)


def load_checkpoint(
    source: Path | str | Weights,
    *,
    as_: LoadAs = "auto",
    num_classes: int | None = None,
    frames: int | None = None,
    size_px: int | None = None,
    region: Shape3 | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    tokens: Tokens | None = None,
    pooling: Pooling | None = None,
    target: TargetConfig | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> LoadedCheckpoint:
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
    settled = settle(weights, given, is_autoencoder=is_autoencoder)
    settled = replace(settled, config=replace(settled.config, drop_path=drop_path))
    _check_fit(weights, settled.config)
    _check_finite(weights)
    with init_empty_weights():  # initialising what is overwritten would take seconds
        model = _build(settled, is_autoencoder)
    taken, ignored, fresh = _fill(model, weights, settled, seed)
    report = _report(weights, settled, model, taken, ignored, fresh)
    return LoadedCheckpoint(model.eval(), report)


# --- settling what parameters do not tell -----------------------------------------------------


@dataclass(frozen=True)
class Settled:
    """A model to be built. told: where each setting that parameters do not tell comes from.

    num_classes, tokens, pooling are read for a classifier only, target for an autoencoder only.
    """

    config: ModelConfig
    target: TargetConfig
    num_classes: int
    tokens: Tokens
    pooling: Pooling
    told: dict[str, str]
    notes: tuple[str, ...] = ()


def settle(weights: Weights, given: dict[str, Any], *, is_autoencoder: bool) -> Settled:
    """The model to build of these weights.

    given: frames, size_px, region, num_heads, decoder_heads, num_classes, tokens, pooling, target;
        None is not given. ValueError where they contradict the weights.
    is_autoencoder: an autoencoder is wanted, not a classifier.
    """
    given = {name: value for name, value in given.items() if value is not None}
    told: dict[str, str] = {}

    def pick(name: str, default: Any, why: str) -> Any:
        if name in given:
            told[name] = "given"
            if weights.told.get(name, given[name]) != given[name]:
                told[name] = f"given ({weights.told_by} says {weights.told[name]})"
            return given[name]
        if name in weights.told:
            told[name] = weights.told_by
            return weights.told[name]
        told[name] = why
        return default

    notes: tuple[str, ...] = ()
    if weights.config is not None:
        config = _own(weights, weights.config, given, told)
    else:
        config = _official(weights, pick)
    own = file_classifier(weights, config)
    if not is_autoencoder:
        classes = given.get("num_classes", own.num_classes)
        if not classes:
            raise ValueError(
                f"{weights.name} has no classes; give num_classes, such as 7 for DFEW, for a head"
            )
        check_size(weights.name, "num_classes", classes)
        if classes * config.width > MAX_MATRIX:
            raise ValueError(f"{weights.name}: {classes:,} classes are out of all reason")
        tokens: Tokens = "tokens"
        if config.has_regions:
            tokens = pick("tokens", own.tokens, "as published")
        how = "names of the parameters" if weights.part == "classifier" else "as published"
        pooling = pick("pooling", own.pooling, how)
        config = replace(config, legacy_visible_order=False)
        return Settled(config, own.target, classes, tokens, pooling, told)
    target = pick("target", own.target, "as published")
    if weights.config is None and config.has_regions:
        legacy = pick("legacy_visible_order", True, "official pre-training has it")
        config = replace(config, legacy_visible_order=legacy)
    if config.legacy_visible_order:
        notes = ("legacy_visible_order is on: the official decoder adds positions in another order "
                 "than that of its tokens, and these weights have learnt with that",)  # fmt: skip
    return Settled(config, target, 0, "rep", "mean", told, notes)


def file_classifier(weights: Weights, config: ModelConfig) -> Settled:
    """The classifier that the file holds: its classes, as published where it does not say."""
    head = weights.state.get("head.weight", weights.state.get("head.bias"))
    is_first = "fc_norm.weight" not in weights.state and "norm.weight" in weights.state
    return Settled(
        config,
        weights.told.get("target", TargetConfig(motion=config.has_regions)),
        _rows(head) if head is not None else 0,
        "rep" if config.has_regions else "tokens",
        "first" if is_first and weights.part == "classifier" else "mean",
        {},
    )


def _rows(x: Tensor) -> int:
    return x.shape[0] if x.ndim else 0


def _own(
    weights: Weights, config: ModelConfig, given: dict[str, Any], told: dict[str, str]
) -> ModelConfig:
    changes = {name: given[name] for name in ("frames", "size_px", "region", "num_heads",
                                              "decoder_heads") if name in given}  # fmt: skip
    told["model"] = weights.told_by
    for name, value in changes.items():
        told[name] = f"given ({weights.told_by} says {getattr(config, name)})"
        config = replace(config, **{name: value})
    _check_sizes(weights.name, config)
    rep = _rep_tokens(weights)
    if config.has_regions and rep is not None:
        _check_regions(weights.name, config, _rows(rep))
    return config


def _rep_tokens(weights: Weights) -> Tensor | None:
    return next((x for n, x in weights.state.items() if n.endswith(REGION_TOKENS)), None)


def check_size(name: str, setting: str, value: int | float) -> None:
    """Raise where a size is out of all reason."""
    if not value <= LARGEST[setting]:
        raise ValueError(
            f"{name}: {setting}={value:,} is out of all reason; at most {LARGEST[setting]:,} "
            "is loaded"
        )


def _check_sizes(name: str, config: ModelConfig) -> Grid:
    """The token grid of a model whose sizes are within reason; nothing is allocated for it."""
    for setting in LARGEST.keys() - {"num_classes"}:
        check_size(name, setting, getattr(config, setting))
    try:
        grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if grid.n > MAX_TOKENS:
        raise ValueError(
            f"{name}: {config.frames} frames of {config.size_px} px make {grid.n:,} tokens; at "
            f"most {MAX_TOKENS:,} are loaded; give frames=16, size_px=160 or the like"
        )
    width, cube = max(config.width, config.decoder_width), 3 * math.prod(config.tubelet)
    if grid.n * width > MAX_TABLE or width * max(cube, width * config.mlp_ratio) > MAX_MATRIX:
        raise ValueError(
            f"{name}: width={width} with {grid.n:,} tokens, cubes of {cube:,} values and "
            f"mlp_ratio={config.mlp_ratio:g} is out of all reason; the largest known is 1,408 wide"
        )
    return grid


def _official(weights: Weights, pick: Callable[[str, Any, str], Any]) -> ModelConfig:
    kind, state = KINDS[weights.part], weights.state
    published = VIDEOMAE if weights.hugging_face else {}
    why = "heads of 64 channels, as published"
    try:
        heads = {"num_heads": pick("num_heads", None, why)}
        if kind == "pretrain":
            heads["decoder_heads"] = pick("decoder_heads", None, why)
        config = infer_model(
            state,
            frames=pick("frames", PUBLISHED.frames, "as published"),
            size_px=pick("size_px", published.get("size_px", PUBLISHED.size_px), "as published"),
            **heads,
        )
    except ValueError as error:
        raise ValueError(f"{weights.name}: {error}") from error
    grid = _check_sizes(weights.name, config)
    rep = _rep_tokens(weights)
    if not config.has_regions or rep is None:  # without them, what is missing is said later
        region = pick("region", grid.shape, "not used") if config.has_regions else (
            weights.told.get("region", config.region))  # fmt: skip
        fits = not config.has_regions or region in region_shapes(grid)
        return replace(config, region=region if fits else grid.shape)
    num = _rows(rep)
    shapes = fitting_regions(num, grid)
    region, why = PUBLISHED.region, "as published"
    if region not in shapes and len(shapes) == 1:
        region, why = shapes[0], f"the only shape that makes {num} regions"
    config = replace(config, region=pick("region", region, why))
    _check_regions(weights.name, config, num)
    return config


def fitting_regions(num_regions: int, grid: Grid) -> list[Shape3]:
    """Region shapes (t, h, w) that cut `grid` into exactly `num_regions`, smallest first."""
    return [s for s in region_shapes(grid) if math.prod(s) * num_regions == grid.n]


def fitting_sizes(num_regions: int, region: Shape3, tubelet: Shape3) -> list[tuple[int, int]]:
    """Usual (frames, size_px) whose grid `region` cuts into exactly `num_regions`."""
    found = []
    for frames in CLIP_FRAMES:
        for size in CLIP_SIZES:
            if frames % tubelet[0] or size % tubelet[1] or size % tubelet[2]:
                continue
            grid = Grid.of_clip(frames, size, size, tubelet)
            if region in fitting_regions(num_regions, grid):
                found.append((frames, size))
    return found


def _check_regions(name: str, config: ModelConfig, num_regions: int) -> None:
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    shapes = fitting_regions(num_regions, grid)
    if config.region in shapes:
        return
    clip = f"{config.frames} frames of {config.size_px} px"
    tiles = config.region in region_shapes(grid)
    cut = f"cuts it into {grid.n // math.prod(config.region)}" if tiles else "does not divide it"
    sizes = [
        f"{frames} x {size} px" for frames, size in
        fitting_sizes(num_regions, config.region, config.tubelet)
    ]  # fmt: skip
    raise ValueError(
        f"{name} has {num_regions} region tokens; {clip} are a grid of {grid.shape} tokens, and "
        f"region={config.region} {cut}. Regions that make {num_regions} of that grid: "
        f"{', '.join(map(str, shapes)) or 'none'}; clips for region={config.region}: "
        f"{', '.join(sizes) or 'none of the usual sizes'}. Give region=, frames= or size_px="
    )


def _build(settled: Settled, is_autoencoder: bool) -> Model:
    if is_autoencoder:
        return MaskedAutoencoder(settled.config, settled.target)
    return Classifier(settled.config, settled.num_classes, settled.tokens, settled.pooling)


# --- does the file fit the model that it seems to be? -----------------------------------------


def _entries(weights: Weights, config: ModelConfig) -> Shapes:
    """Names and shapes that a file of this layout and part has for this model."""
    own = file_classifier(weights, config)
    shapes = _shapes(config, weights.layout, weights.part, max(1, own.num_classes), own.pooling)
    unwanted = ("fc_norm.", "head.") if weights.part == "encoder" else ()
    return {name: shape for name, shape in shapes.items() if not name.startswith(unwanted)}


@lru_cache(maxsize=32)
def _shapes(
    config: ModelConfig, layout: Layout, part: Part, num_classes: int, pooling: Pooling
) -> Shapes:
    tokens: Tokens = "rep" if config.has_regions else "tokens"
    with init_empty_weights():
        model = _build(Settled(config, TargetConfig(), num_classes, tokens, pooling, {}),
                       part == "autoencoder")  # fmt: skip
    state = model.state_dict() if layout == "own" else to_official(model)
    return {name: tuple(x.shape) for name, x in state.items()}


def is_alias(name: str, config: ModelConfig) -> bool:
    """Whether an entry repeats shared attention parameters under a further name."""
    stages = {"none": (), "local_interact": ("third", "interact"),
              "all": ("third", "interact", "second", "inter")}[config.shared]  # fmt: skip
    return any(f".{stage}_attn." in name for stage in stages)


def _check_fit(weights: Weights, config: ModelConfig) -> None:
    want = _entries(weights, config)
    have = {name: tuple(x.shape) for name, x in weights.state.items()}
    differences = []
    for name, shape in want.items():
        if name not in have and not is_alias(name, config):
            differences.append(f"{name}: not in the file; the model has {shape}")
        elif have.get(name, shape) != shape:
            differences.append(f"{name}: {have[name]} in the file; the model has {shape}")
    for name, shape in have.items():
        if name not in want and not _is_unused_norm(name, weights):
            differences.append(f"{name}: {shape} in the file; the model has no such parameter")
    if differences:
        more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
        lines = "\n  ".join([*differences[:SHOWN], *more])
        raise ValueError(
            f"{weights.name} does not fit: {len(differences)} entries differ from the model that "
            f"it seems to be:\n  {lines}\nThe nearest preset is {_nearest_preset(weights, have)}"
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


def _is_unused_norm(name: str, weights: Weights) -> bool:
    return weights.part == "encoder" and name.startswith("norm.")


def _nearest_preset(weights: Weights, have: Shapes) -> str:
    found = []
    for name, make in PRESETS.items():
        for encoder in get_args(EncoderKind):
            want = _entries(weights, make(encoder).model)
            fits = sum(have.get(n) == shape for n, shape in want.items())
            found.append((fits / len(want), f"{name} ({encoder}): {fits} of its {len(want)} fit"))
    share, text = max(found)
    return text if share >= 0.5 else "none; give its sizes (frames, size_px, region, num_heads)"


# --- filling the model ------------------------------------------------------------------------


def _fill(
    model: Model, weights: Weights, settled: Settled, seed: int
) -> tuple[list[str], tuple[Group, ...], tuple[Group, ...]]:
    """Give every parameter its value; (names in the file that were used, ignored, fresh)."""
    official = weights.layout == "official"
    kind = KINDS[weights.part]
    values = from_official(weights.state, kind) if official else weights.state
    name_of: Callable[[str], str] = (lambda n: our_name(n, kind)) if official else (lambda n: n)
    places = model.state_dict()
    takes = {n for n, x in places.items() if n in values and values[n].shape == x.shape}
    if weights.part != "classifier" and isinstance(model, Classifier):
        takes -= {n for n in takes if not n.startswith("encoder.")}
    in_file = {id(x) for x in weights.state.values()}  # those that were joined are copies already
    filled = {n: values[n].to(torch.float32, copy=id(values[n]) in in_file) for n in takes}
    missing = [n for n in places if n not in takes and not is_alias(n, settled.config)]
    if missing:
        start = _fresh(settled, seed)
        filled |= {name: start[name] for name in missing}
    model.load_state_dict(filled, strict=False, assign=True)
    assert not any(p.is_meta for p in model.parameters()), "a parameter was left without value"
    used = [n for n in weights.state if name_of(n) in takes]
    ignored = [n for n in weights.state if name_of(n) not in takes]
    return used, tuple(_ignored(ignored, weights, settled)), _fresh_groups(missing, model, weights)


def _fresh(settled: Settled, seed: int) -> Mapping[str, Tensor]:
    """A freshly initialised fc_norm and head: of a classifier without blocks, which is quick."""
    config = replace(settled.config, depth=0)
    fresh = build_classifier(
        config, settled.num_classes, settled.tokens, settled.pooling, seed=seed
    )
    return fresh.state_dict()


def _group(why: str, names: Iterable[str], state: Mapping[str, Tensor], config: ModelConfig):
    names = tuple(names)
    return Group(why, names, sum(state[n].numel() for n in names if not is_alias(n, config)))


def _ignored(names: list[str], weights: Weights, settled: Settled) -> list[Group]:
    reasons: dict[str, list[str]] = {}
    for name in names:
        if name.startswith("head."):
            why = f"{settled.num_classes} classes were asked for"
        elif "norm." in name and name.startswith(("norm.", "encoder.norm.")):
            why = NORM_UNUSED
        else:
            why = DECODER_UNUSED
        reasons.setdefault(why, []).append(name)
    return [_group(why, group, weights.state, settled.config) for why, group in reasons.items()]


def _fresh_groups(names: list[str], model: Model, weights: Weights) -> tuple[Group, ...]:
    if not names:
        return ()
    why = FRESH if weights.part != "classifier" else "another number of classes than the file's"
    return (_group(why, names, model.state_dict(), model.config),)


def _report(
    weights: Weights,
    settled: Settled,
    model: Model,
    used: list[str],
    ignored: tuple[Group, ...],
    fresh: tuple[Group, ...],
) -> LoadReport:
    config, state = settled.config, weights.state
    notes = list(settled.notes)
    if weights.hugging_face:
        notes.append("LayerNorms have VideoMAE's epsilon, 1e-6, with which such weights were "
                     "trained; transformers' own is 1e-12")  # fmt: skip
    dtypes = {x.dtype for x in state.values()} - {torch.float32}
    if dtypes:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        notes.append(f"weights in {kinds} were loaded as float32")
    everything = _group("", state, state, config)
    return LoadReport(
        name=weights.name,
        layout="Hugging Face"
        if weights.hugging_face
        else "official"
        if weights.layout == "official"
        else "maedfer_lab",
        part=weights.part,
        loaded_as="classifier" if isinstance(model, Classifier) else "masked autoencoder",
        file=weights.file,
        beside=weights.beside,
        epoch=weights.epoch,
        config=config,
        target=model.target if isinstance(model, MaskedAutoencoder) else None,
        num_classes=settled.num_classes if isinstance(model, Classifier) else None,
        tokens=settled.tokens,
        pooling=settled.pooling,
        num_keys=len(state),
        num_parameters=everything.parameters,
        model_parameters=sum(p.numel() for p in model.parameters()),
        used=_group("", used, state, config),
        ignored=ignored,
        fresh=fresh,
        told=settled.told,
        notes=tuple(notes),
    )
