"""A model of ours beside the plain one with the same parameters, and the checks that they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer_lab.bench import plain
from maedfer_lab.bench.report import Check, checked
from maedfer_lab.bench.settings import NUM_CLASSES, Settings
from maedfer_lab.checkpoints.official import Kind, official_arguments
from maedfer_lab.checkpoints.parity import recipe_parameters
from maedfer_lab.config import EncoderKind
from maedfer_lab.fast import speed_up
from maedfer_lab.method.models import Classifier, MaskedAutoencoder, build_classifier
from maedfer_lab.method.targets import normalise_pixels
from maedfer_lab.training.optim import mixed_precision

STD = 0.02  # of random parameters; logits come to about 2, so that differences show


@dataclass(frozen=True)
class Twins:
    """A model of ours and its parameters under official names, for the plain way.

    arguments: of the official constructor.
    """

    ours: Any  # a Classifier or a MaskedAutoencoder
    state: dict[str, Tensor]
    arguments: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return next(self.ours.parameters()).device

    def clear(self) -> None:
        """Drop all gradients."""
        self.ours.zero_grad(set_to_none=True)
        for parameter in self.state.values():
            parameter.grad = None


def make_twins(model: Classifier | MaskedAutoencoder, device: torch.device) -> Twins:
    """Fill a model with random parameters, and copy them."""
    kind: Kind = "finetune" if isinstance(model, Classifier) else "pretrain"
    drawn = recipe_parameters(model, kind, STD)
    state = {name: x.to(device, copy=True).requires_grad_() for name, x in drawn.items()}
    arguments = official_arguments(model.config, kind)
    if isinstance(model, Classifier):
        arguments["lg_classify_token_type"] = "region"
    return Twins(speed_up(model).eval().to(device), state, arguments)


def classifier_twins(settings: Settings, encoder: EncoderKind, times: int = 1) -> Twins:
    """Classifiers of seven classes, for clips `times` as long as the published ones."""
    model = build_classifier(settings.model(encoder, times), NUM_CLASSES, seed=settings.seed)
    return make_twins(model, settings.device)


def random_clips(settings: Settings, num: int, times: int = 1) -> Tensor:
    """Clips of noise (num 3 T H W) in [0, 1]; no model's time depends on what they show."""
    config = settings.model("lgi", times)
    generator = torch.Generator().manual_seed(settings.seed)
    size = config.size_px
    return torch.rand(num, 3, config.frames, size, size, generator=generator).to(settings.device)


def plain_logits(twins: Twins, clips: Tensor) -> Tensor:
    """Logits the plain way; pixels in [0, 1]."""
    return plain.classify(twins.state, normalise_pixels(clips), twins.arguments)


def check_logits(twins: Twins, clips: Tensor, name: str) -> list[Check]:
    """Equal logits; how far bf16 moves them is told."""
    with torch.no_grad():
        ours, want = twins.ours(clips), plain_logits(twins, clips)
        with mixed_precision("bf16", clips.device):
            half = twins.ours(clips).float()
    found = [checked(f"{name} logits", _apart(ours, want))]
    if not torch.equal(half, ours):
        found.append(Check(f"{name} logits in bf16 against float32", _apart(half, ours), None))
    return found


def check_gradient(twins: Twins, clips: Tensor, name: str) -> list[Check]:
    """Equal gradient of the first layer, which all others have passed on."""
    labels = torch.arange(len(clips), device=clips.device) % NUM_CLASSES
    F.cross_entropy(twins.ours(clips), labels).backward()
    F.cross_entropy(plain_logits(twins, clips), labels).backward()
    ours: Tensor = twins.ours.encoder.embed.proj.weight.grad
    want = twins.state["patch_embed.proj.weight"].grad
    assert want is not None
    apart = _apart(ours, want) / float(want.abs().max())
    twins.clear()
    return [checked(f"{name} gradient of the embedding, of its largest", apart)]


def check_autoencoder(twins: Twins, clips: Tensor, mask: Tensor, name: str) -> list[Check]:
    """Equal predictions and equal loss."""
    with torch.no_grad():
        ours = twins.ours(clips, mask)
        prediction, loss = plain_pretraining(twins, clips, mask)
    return [
        checked(f"{name} predictions", _apart(ours.prediction, prediction)),
        checked(f"{name} pre-training loss", _apart(ours.loss.total, loss)),
    ]


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def plain_pretraining(twins: Twins, clips: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and loss the plain way."""
    mask = mask.to(clips.device)
    _, found = plain.reconstruct(twins.state, normalise_pixels(clips), mask, twins.arguments)
    with torch.no_grad():
        wanted = plain.targets(clips, mask, twins.arguments)
    return found, F.mse_loss(found.float(), wanted)
