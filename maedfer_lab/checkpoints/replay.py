"""What a model of ours gives for the inputs of a golden archive, under the archive's names."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.config import TargetConfig
from maedfer_lab.method.grid import take
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import Classifier, MaskedAutoencoder
from maedfer_lab.method.targets import (
    make_target,
    motion_frames,
    reconstruction_loss,
    unnormalise_pixels,
)

KINDS = ("diff", "plain", "diff_w05", "diff_w03", "diff_raw", "diff_g4")
DOUBLE = "64"  # ends the names of outputs that were computed in float64


@dataclass(frozen=True)
class Answers:
    """Outputs under the names of an archive, and gradients under official parameter names.

    gradients: of the loss; for shared parameters the same one under every name; zero where the
    loss does not depend on a parameter.
    """

    outputs: dict[str, np.ndarray]
    gradients: dict[str, Tensor] = field(default_factory=dict)


def gradients(model: MaskedAutoencoder | Classifier) -> dict[str, Tensor]:
    """Gradients under the official names: query and key-value parts apart."""
    shell = copy.deepcopy(model)  # holds gradients in place of parameters; sharing is kept
    with torch.no_grad():
        for slot, parameter in zip(shell.parameters(), model.parameters(), strict=True):
            slot.zero_() if parameter.grad is None else slot.copy_(parameter.grad)
    return to_official(shell)


def answer_classifier(
    model: Classifier, x: np.ndarray, y: np.ndarray, wanted: Iterable[str] = ()
) -> Answers:
    """logits, feature, loss and gradients of the cross-entropy, in eval mode.

    x: ImageNet-normalised clips (b, 3, T, H, W). y: class of each clip (b,).
    wanted: names that the archive has; those in float64 are computed only if they are among them.
    """
    model.eval().zero_grad()
    clip = unnormalise_pixels(torch.from_numpy(x).double())
    feature = model.features(clip.float())
    logits = model.head(feature)
    loss = F.cross_entropy(logits, torch.from_numpy(y).long())
    loss.backward()
    outputs = {"logits": logits, "feature": feature, "loss": loss}
    found = Answers({k: v.detach().numpy() for k, v in outputs.items()}, gradients(model))
    if {f"{name}{DOUBLE}" for name in outputs} & set(wanted):
        with torch.no_grad():
            double = copy.deepcopy(model).double()
            feature = double.features(clip)
            logits = double.head(feature)
            loss = F.cross_entropy(logits, torch.from_numpy(y).long())
        outputs = {"logits64": logits, "feature64": feature, "loss64": loss}
        found.outputs.update({k: v.numpy() for k, v in outputs.items()})
    return found


def answer_autoencoder(
    model: MaskedAutoencoder, x: np.ndarray, mask: np.ndarray, wanted: Iterable[str] = ()
) -> Answers:
    """encoder_out, pred, labels and losses of every kind; gradients of `loss_diff`.

    x: ImageNet-normalised clips (b, 3, T, H, W). mask: (b, n), True = masked.
    wanted: names that the archive has, such as "loss_diff_w03" or "labels_plain"; of kinds that
        are not among them nothing is computed. See `parse_kind`.
    """
    model.eval().zero_grad()
    wanted = set(wanted)
    exact = unnormalise_pixels(torch.from_numpy(x).double())
    clip = exact.float()
    split = model.split(torch.from_numpy(mask))
    encoded = model.norm(model.encoder(clip, split.visible).tokens)
    prediction = model.decoder(encoded, split.decoder_positions, split.masked)
    found = Answers({"encoder_out": encoded.detach().numpy(), "pred": prediction.detach().numpy()})
    kinds = {name.partition("_")[2] for name in wanted if name.startswith(("loss_", "labels_"))}
    for kind in sorted({"diff", *kinds}):
        parsed = parse_kind(kind)
        if parsed is None:
            continue
        target, loss = _loss_of(model, clip, prediction, split, parsed)
        found.outputs[f"labels_{kind}"] = target.numpy()
        found.outputs[f"loss_{kind}"] = loss.detach().numpy()
        if kind == "diff":
            loss.backward(retain_graph=True)
            found.gradients.update(gradients(model))
    if {f"encoder_out{DOUBLE}", f"pred{DOUBLE}"} & wanted:
        with torch.no_grad():
            double = copy.deepcopy(model).double()
            encoded = double.norm(double.encoder(exact, split.visible).tokens)
            prediction = double.decoder(encoded, split.decoder_positions, split.masked)
        found.outputs.update(encoder_out64=encoded.numpy(), pred64=prediction.numpy())
    return found


@dataclass(frozen=True)
class LossKind:
    """A loss of the official pre-training. weight: of the motion half; None is the plain mean."""

    target: TargetConfig
    weight: float | None = None


def parse_kind(name: str) -> LossKind | None:
    """The loss that an archive calls "diff", "plain", "diff_w05", "diff_raw", "diff_g4", ...

    plain: pixels of every frame; diff: motion targets in groups of two frames. `raw`: cubes are
    not normalised. `gN`: groups of N frames. `wNN`: weight of motion, 05 and 0.5 are a half, 03 is
    0.3, 25 is a quarter. None for a name that does not read so.
    """
    target, *options = name.split("_")
    if target not in ("diff", "plain"):
        return None
    units, group, weight = "cube", 2, None
    for option in options:
        if option == "raw":
            units = "pixel"
        elif re.fullmatch(r"g\d+", option) and int(option[1:]) > 1:
            group = int(option[1:])
        elif re.fullmatch(r"w\d+(\.\d+)?", option):
            weight = _weight(option[1:])
        else:
            return None
    if weight is not None and (group != 2 or target == "plain"):
        return None  # the official code weighs groups of two frames alone
    config = TargetConfig(units=units, motion=target == "diff", motion_group=group)
    return LossKind(config, weight)


def _weight(text: str) -> float:
    if "." in text:
        return float(text)
    value = int(text) / 10 ** (len(text) - 1)
    return value if value <= 1 else value / 10


def _loss_of(
    model: MaskedAutoencoder, clip: Tensor, prediction: Tensor, split: TokenSplit, kind: LossKind
) -> tuple[Tensor, Tensor]:
    grid, tubelet, target = model.grid, model.config.tubelet, kind.target
    labels = take(make_target(clip, tubelet, target), split.masked)
    weight = kind.weight
    if weight is None:  # one mean over all outputs: motion weighs by its share of the frames
        moving = motion_frames(grid, tubelet, target.motion_group)[split.masked]
        weight = float(moving.float().mean())
    target = TargetConfig(target.units, target.motion, target.motion_group, weight)
    loss = reconstruction_loss(prediction, labels, split.masked, grid, tubelet, target)
    return labels, loss.total
