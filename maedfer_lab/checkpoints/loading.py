"""Load a checkpoint: official, VideoMAE-style or our own, from a file or a folder.

Nothing is dropped in silence: every entry of the file and every parameter of the model is in the
report, and whatever fits by neither name nor shape is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor

from maedfer_lab.checkpoints.official import from_official, our_name, to_official
from maedfer_lab.checkpoints.recognising import Layout, Part, Weights, open_weights
from maedfer_lab.checkpoints.report import Group, LoadReport
from maedfer_lab.checkpoints.settling import KINDS, Settled, file_classifier, settle
from maedfer_lab.config import PRESETS, EncoderKind, ModelConfig, Shape3, TargetConfig, choose
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

DECODER_UNUSED = "a classifier has no decoder"
NORM_UNUSED = "fc_norm after the pooling takes its place, as in official fine-tuning"
FRESH = "not in a pre-training checkpoint"
SHOWN = 5  # differences that an error lists


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

    source: a file (.pth, .pt, .bin, .safetensors), a run's folder, a folder of `save_pretrained`,
        or what `recognise` has made of a state dict. Never executes code from a file.
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
    weights = source if isinstance(source, Weights) else open_weights(Path(source).expanduser())
    is_autoencoder = as_ == "autoencoder" or (as_ == "auto" and weights.part == "autoencoder")
    if is_autoencoder and weights.part != "autoencoder":
        raise ValueError(
            f"{weights.name} has no decoder, so as_='autoencoder' cannot be; use as_='classifier'"
        )
    given = {"frames": frames, "size_px": size_px, "region": region, "num_heads": num_heads,
             "decoder_heads": decoder_heads, "num_classes": num_classes, "tokens": tokens,
             "pooling": pooling, "target": target}  # fmt: skip
    settled = settle(weights, given, is_autoencoder=is_autoencoder)
    settled = replace(settled, config=replace(settled.config, drop_path=drop_path))
    _check_fit(weights, settled.config)
    _check_finite(weights)
    is_autoencoder = weights.part == "autoencoder" if as_ == "auto" else as_ == "autoencoder"
    with init_empty_weights():  # initialising what is overwritten would take seconds
        model = _build(settled, is_autoencoder)
    taken, ignored, fresh = _fill(model, weights, settled, seed)
    report = _report(weights, settled, model, taken, ignored, fresh)
    return LoadedCheckpoint(model.eval(), report)


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
    tokens: Tokens = "rep" if config.encoder == "lgi" else "tokens"
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
    dtypes = {x.dtype for x in state.values()} - {torch.float32}
    if dtypes:
        kinds = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        notes.append(f"weights in {kinds} were loaded as float32")
    everything = _group("", state, state, config)
    return LoadReport(
        name=weights.name,
        layout="official" if weights.layout == "official" else "maedfer_lab",
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
