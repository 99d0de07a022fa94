"""What a file or a folder holds: which layout, which part of a model, and what it says of itself.

Wrappers (`{"model": ...}`) and prefixes (`module.`, `backbone.`, `encoder.`) are taken off here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from maedfer_lab.checkpoints.constructors import CLASSIFIED
from maedfer_lab.checkpoints.reading import read_file
from maedfer_lab.config import ModelConfig, TargetConfig

Layout = Literal["official", "own"]
Part = Literal["autoencoder", "classifier", "encoder"]

WRAPPERS = ("model", "module", "state_dict")
PACKAGE = "maedfer_lab"  # among official args: our own configuration
CONFIG_FILE, WEIGHTS_FILE, RESUME_FILE = "config.json", "model.safetensors", "checkpoint.pt"
OUTER = re.compile(r"(?:(?:module|backbone|_orig_mod)\.)+")  # never part of a parameter's own name
DECODING = ("decoder.", "encoder_to_decoder.", "mask_token")
OWN = re.compile(r"encoder\.(embed\.|rep_tokens$|blocks\.\d+\.(local|inter|interact)_)")


@dataclass(frozen=True)
class Weights:
    """Weights out of a file, with all that the file says of them.

    state: parameters under their plain names, of the `layout`'s kind.
    told: clip, region, heads and the like in our names, as far as the file tells; told_by: where.
    config: the model's configuration, if we wrote the file.
    file: format and size, precision, wrapper and prefixes, in words.
    beside: what else lies in the file; epoch: when it was written, if it says so.
    """

    name: str
    state: dict[str, Tensor]
    layout: Layout
    part: Part
    told: dict[str, Any] = field(default_factory=dict)
    told_by: str = ""
    config: ModelConfig | None = None
    file: str = ""
    beside: tuple[str, ...] = ()
    epoch: str | None = None


def open_weights(path: Path) -> Weights:
    """Weights of a file, of a run's folder or of a folder that `save_pretrained` wrote."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no {CONFIG_FILE}; give a run's folder, a folder written by "
                "save_pretrained, or a checkpoint file itself"
            )
        files = [folder / name for name in (WEIGHTS_FILE, RESUME_FILE) if (folder / name).is_file()]
        if not files:
            raise FileNotFoundError(
                f"{folder} has a {CONFIG_FILE} but neither {WEIGHTS_FILE} nor {RESUME_FILE}"
            )
        path = files[0]
    read = read_file(path)
    form = f"{read.format}, {read.num_bytes / 1e6:,.1f} MB"
    weights = recognise(read.content, str(path), form)
    if weights.layout == "official":
        return weights
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"{path} holds a model of maedfer_lab, whose clip and regions stand in a {CONFIG_FILE} "
            f"beside it; there is none in {folder}"
        )
    return _with_config(weights, folder / CONFIG_FILE)


def recognise(content: Any, name: str = "the state dict", form: str = "in memory") -> Weights:
    """Weights out of what a file holds (or out of a state dict), and what it says beside them.

    name: for messages. form: the file's format, for the report.
    """
    values, around, wrapper = _unwrap(content, name)
    state, prefixes = _strip(values, name)
    bad = [n for n, x in state.items() if not isinstance(x, Tensor) or not x.is_floating_point()]
    if bad:
        what = state[bad[0]]
        kind = what.dtype if isinstance(what, Tensor) else type(what).__name__
        raise ValueError(f"{name}: {bad[0]} is {kind}; parameters are floating-point tensors")
    layout: Layout = "own" if any(OWN.match(n) for n in state) else "official"
    is_pretraining = any(n.startswith(DECODING) for n in state)
    has_head = any(n.startswith("head.") for n in state)
    part: Part = "autoencoder" if is_pretraining else "classifier" if has_head else "encoder"
    dtypes = Counter(str(x.dtype).removeprefix("torch.") for x in state.values())
    file = [form, " and ".join(dtypes)]
    if wrapper:
        file.append(f"weights under {wrapper!r}")
    if prefixes:
        file.append(f"prefix {' and '.join(map(repr, prefixes))}")
    arguments = around.get("args")
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    told, config = {}, None
    if isinstance(arguments, Mapping):
        if PACKAGE in arguments:  # what `save_official` adds: more than official names can say
            config, told = _read_config(arguments[PACKAGE], name)
        else:
            told = read_arguments(arguments, name)
    epoch = next((around[key] for key in ("epoch", "step") if key in around), None)
    return Weights(name, state, layout, part, told, "the file's args", config, ", ".join(file),
                   tuple(map(str, around)), None if epoch is None else str(epoch))  # fmt: skip


def _unwrap(content: Any, name: str) -> tuple[Mapping[str, Any], dict[str, Any], str]:
    """(state dict, what lies around it, name of the wrapper)."""
    around: dict[str, Any] = {}
    found: list[str] = []
    while isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            values = {str(k): x for k, x in content.items() if isinstance(x, Tensor) or found}
            if not values:
                break
            around |= {str(k): x for k, x in content.items() if str(k) not in values}
            return values, around, ".".join(found)
        around |= {str(k): x for k, x in content.items() if k != key}
        found.append(key)
        content = content[key]
    what = f"the keys {sorted(map(str, content))[:5]}" if isinstance(content, Mapping) else (
        type(content).__name__)  # fmt: skip
    raise ValueError(
        f"{name} holds no weights but {what}; a checkpoint is a state dict, or has one under "
        f"{', '.join(map(repr, WRAPPERS))}"
    )


def _strip(values: Mapping[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state dict without prefixes, and the prefixes."""
    prefixes: dict[str, None] = {}

    def without(pattern: re.Pattern[str], names: dict[str, str]) -> dict[str, str]:
        plain = {}
        for full, short in names.items():
            if match := pattern.match(short):
                prefixes[match[0]] = None
            plain[full] = short[match.end() if match else 0 :]
        return plain

    names = without(OUTER, {full: full for full in values})
    if not any(n.startswith(DECODING) or OWN.match(n) for n in names.values()):
        names = without(re.compile(rf"encoder\.(?:{OUTER.pattern})?"), names)
    if len(set(names.values())) < len(names):
        twice = next(n for n, count in Counter(names.values()).items() if count > 1)
        raise ValueError(f"{name}: {twice} stands there twice, under different prefixes")
    return {names[full]: x for full, x in values.items()}, tuple(prefixes)


# Where the official scripts (first) and constructors keep what parameters do not tell.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "frames": ("num_frames", "all_frames"),
    "size_px": ("input_size", "img_size"),
    "num_heads": ("encoder_num_heads", "num_heads"),
    "decoder_heads": ("decoder_num_heads",),
}


def read_arguments(arguments: Mapping[str, Any], name: str = "args") -> dict[str, Any]:
    """What official arguments tell, in our names; what is not among them is left out.

    arguments: of the official scripts (input_size, num_frames, ...) or constructors.
    """
    told: dict[str, Any] = {}
    try:
        for ours, names in ARGUMENTS.items():
            value = next((arguments[n] for n in names if arguments.get(n) is not None), None)
            if value is not None:
                told[ours] = int(value[0] if isinstance(value, list | tuple) else value)
        if (region := arguments.get("lg_region_size")) is not None:
            if len(region) != 3:
                raise ValueError(f"lg_region_size={region} must be three numbers, as (2, 5, 10)")
            t, h, w = region
            told["region"] = (int(t), int(h), int(w))
        if arguments.get("lg_classify_token_type") in CLASSIFIED:
            told["tokens"] = CLASSIFIED[arguments["lg_classify_token_type"]]
        if "use_frame_diff_as_target" in arguments:
            told["target"] = _target(arguments)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ValueError(f"{name}: its args do not read as official ones: {error}") from error
    return told


def _target(arguments: Mapping[str, Any]) -> TargetConfig:
    """The official target; without a weight all frames of a group count alike."""
    group = int(arguments.get("frame_diff_group_size") or 2)
    weight = arguments.get("target_diff_weight")
    return TargetConfig(
        units="cube" if arguments.get("normlize_target", True) else "pixel",
        motion=bool(arguments["use_frame_diff_as_target"]),
        motion_group=group,
        motion_weight=(group - 1) / group if weight is None else float(weight),
    )


def _model_config(values: dict[str, Any]) -> ModelConfig:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for default in dataclasses.fields(ModelConfig):
        kind = type(default.default)
        if default.name in fields and not isinstance(
            fields[default.name], (int, float) if kind is float else kind
        ):
            raise TypeError(f"{default.name}={fields[default.name]!r} should be {kind.__name__}")
    return ModelConfig(**fields)


def _read_config(values: Any, name: str) -> tuple[ModelConfig, dict[str, Any]]:
    """A model's configuration and what else is told in it: by a run or by `saving`."""
    try:
        told = {key: values[key] for key in ("tokens", "pooling") if key in values}
        if values.get("target") is not None:
            told["target"] = TargetConfig(**values["target"])
        return _model_config(values["model"]), told
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: no configuration of {PACKAGE}, which has the fields of ModelConfig under "
            f"'model' ({type(error).__name__}: {error})"
        ) from error


def _with_config(weights: Weights, path: Path) -> Weights:
    """Our own layout with its config.json."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    config, told = _read_config(values, str(path))
    return dataclasses.replace(weights, config=config, told=told, told_by=path.name)
