"""Digests: a model built by the recipe, and a few of its numbers, small enough for a JSON file.

`full.json` beside the golden archives holds those of the official full-size models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from maedfer_lab.checkpoints.archives import (
    answer,
    own_names,
    recipe_inputs,
    recipe_parameters,
)
from maedfer_lab.checkpoints.comparison import (
    FLOAT32,
    GRADIENT,
    Comparison,
    compare,
    compare_gradients,
    norm,
    total_norm,
)
from maedfer_lab.checkpoints.constructors import CLASSIFIED, official_arguments, official_model
from maedfer_lab.checkpoints.replay import Answers
from maedfer_lab.config import base

SELECTED = "grad_sel"
# A mean near zero has no magnitude of its own: its difference is relative to the deviation.
SCALES = {"feature_mean": "feature_std", "pred_mean": "pred_std", "label_mean": "label_std"}


def full_size(key: str) -> dict[str, Any]:
    """Constructor arguments behind a key of full.json, such as "ft_region_std0.05" or "pt_vit"."""
    read = re.fullmatch(r"(ft_(?P<tokens>\w+?)|vit|pt|pt_vit)(_std(?P<std>[\d.]+))?", key)
    if read is None or read["tokens"] not in (None, *CLASSIFIED):
        raise ValueError(
            f"{key!r} is not a full-size model; known are ft_region, ft_org, ft_all, vit, pt and "
            "pt_vit, followed by _std0.02 or the like"
        )
    config = base("vit" if "vit" in key else "lgi").model
    std = float(read["std"] or 0.02)
    if key.startswith("pt"):
        kwargs = official_arguments(config, "pretrain")
        mask = {"h": config.region[1], "w": config.region[2], "ratio": 0.9}
        return {"class": "PretrainVisionTransformer", "kwargs": kwargs, "std": std, "mask": mask}
    kwargs = {**official_arguments(config, "finetune"), "num_classes": 7}
    if read["tokens"]:
        kwargs["lg_classify_token_type"] = read["tokens"]
    return {"class": "VisionTransformer", "kwargs": kwargs, "std": std}


def replay(spec: Mapping[str, Any], *, num: int = 2, classes: list[int] | None = None) -> Digest:
    """Build the model, fill it by the recipe, run it once forward and backward.

    num: clips. classes: of the clips, for a classifier; the recipe's by default.
    """
    official = official_model(spec)
    model = official.build()
    recipe_parameters(model, official.kind, spec.get("std", 0.125))
    inputs = recipe_inputs(official, model.encoder.grid, spec, num)
    if classes is not None and "y" in inputs:
        inputs["y"] = np.array(classes)
    answers = answer(model, inputs, ["loss_diff", "labels_diff"])
    return Digest(inputs, answers, own_names(model, official.kind))


class Digest:
    """The numbers of one replay. `numbers` names them as full.json does."""

    def __init__(
        self, inputs: Mapping[str, np.ndarray], answers: Answers, names: list[str]
    ) -> None:
        self.gradients, self.names = answers.gradients, names
        out = answers.outputs
        self.numbers: dict[str, np.ndarray] = {}
        if "logits" in out:
            self.numbers |= {"logits": out["logits"], "loss": out["loss"]}
            self.numbers |= {"feature16": out["feature"][0, :16], **_moments("feature", out)}
        else:
            pred, labels, mask = out["pred"], out["labels_diff"], inputs["mask"]
            half = labels.shape[-1] // 2
            self.numbers |= {
                "loss_diff": out["loss_diff"],
                **_moments("pred", out),
                "pred_0_0_16": pred[0, 0, :16],
                "pred_1_last_16": pred[-1, -1, -16:],
                **_moments("label", {"label": labels}),
                "label_0_0_16": labels[0, 0, :16],
                f"label_0_0_{half}_16": labels[0, 0, half : half + 16],
                "mask_sum": np.asarray(mask.sum()),
                "mask_first_visible": np.flatnonzero(~mask[0])[:10],
            }
        self.total = total_norm(self.gradients[name] for name in names)
        self.numbers["grad_total"] = np.asarray(self.total)

    def to_json(self, every: int = 5) -> dict[str, Any]:
        """The numbers for a JSON file, with the gradient norm of every n-th parameter."""
        selected = {n: float(norm(self.gradients[n])) for n in self.names[::every]}
        return {**{k: v.tolist() for k, v in self.numbers.items()}, SELECTED: selected}

    def compare(self, archive: str, entry: Mapping[str, Any]) -> Iterator[Comparison]:
        """Compare with an entry of a JSON file; what it holds beyond our numbers is named."""
        for name, value in entry.items():
            if name == SELECTED:
                yield compare_gradients(archive, self.gradients, value, self.total)
            elif name in self.numbers:
                theirs = np.asarray(value, np.float64)
                tolerance = GRADIENT if name == "grad_total" else FLOAT32
                scale = entry.get(SCALES.get(name, ""))
                yield compare(archive, name, self.numbers[name], theirs, tolerance, scale)
            elif name not in ("config", "num"):
                yield Comparison(archive, name, "not compared", note="not a name we know")


def _moments(name: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = outputs[name].astype(np.float64)
    return {f"{name}_mean": np.asarray(x.mean()), f"{name}_std": np.asarray(x.std(ddof=1))}


def compare_digest(key: str, entry: Mapping[str, Any]) -> list[Comparison]:
    """Replay one entry: its own `config` and `num`, else the full-size model that `key` names."""
    if "config" in entry:
        digest = replay(entry["config"], num=entry["num"])
    elif "logits" in entry:
        num = len(entry["logits"])
        digest = replay(full_size(key), num=num, classes=list(range(1, num + 1)))
    else:
        digest = replay(full_size(key))
    return list(digest.compare(key, entry))
