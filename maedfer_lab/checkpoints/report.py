"""The report of a loaded checkpoint: what it is, and what became of every parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maedfer_lab.config import PRESETS, EncoderKind, ModelConfig, TargetConfig
from maedfer_lab.method.grid import Grid

ENCODERS: dict[EncoderKind, str] = {"lgi": "LGI-Former", "vit": "ViT (joint attention)"}
SHOWN = 4  # names of a group that are written out
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
        stages = "" if c.encoder == "vit" else (
            f"; stages: local {c.local}, inter {'self' if c.inter else 'none'}, "
            f"interact {c.interact}; shared attention: {c.shared}"
        )  # fmt: skip
        rows = [
            ("encoder", f"{ENCODERS[c.encoder]}, depth {c.depth}, width {c.width}, "
                        f"{c.num_heads} heads{stages}"),
            ("clip", f"{c.frames} frames of {c.size_px} x {c.size_px} px, cubes "
                     f"{_by(c.tubelet)}, {_by(grid.shape)} = {grid.n} tokens"),
        ]  # fmt: skip
        if c.encoder == "lgi":
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
    for name, make in PRESETS.items():
        model = make(encoder).model
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
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _by_source(told: dict[str, str]) -> str:
    sources: dict[str, list[str]] = {}
    for setting, source in told.items():
        sources.setdefault(source, []).append(setting)
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())
