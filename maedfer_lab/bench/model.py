"""Section "model": forward, backward and a pre-training step, beside their matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer_lab.bench import plain
from maedfer_lab.bench.floor import Operators, products_of, replay
from maedfer_lab.bench.measuring import NUM_CLASSES, Bench, Works
from maedfer_lab.checkpoints.official import arguments_of, to_official
from maedfer_lab.config import EncoderKind, OptimConfig, Precision
from maedfer_lab.cost.formula import total_macs
from maedfer_lab.fast import speed_up
from maedfer_lab.method import models
from maedfer_lab.method.targets import normalise_pixels
from maedfer_lab.training.optim import make_optimiser, mixed_precision

NAMES: dict[EncoderKind, str] = {"lgi": "LGI-B", "vit": "ViT-B"}


class Pair(NamedTuple):
    """A model of ours, and its parameters under official names for the plain way."""

    ours: Any  # a Classifier or a MaskedAutoencoder
    state: dict[str, Tensor]
    arguments: dict[str, Any]  # of the official constructor

    def logits(self, clips: Tensor) -> Tensor:
        """Logits the plain way; pixels in [0, 1]."""
        return plain.classify(self.state, normalise_pixels(clips), self.arguments)

    def reconstruct(self, clips: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and pre-training loss the plain way."""
        mask = mask.to(clips.device)
        found = plain.reconstruct(self.state, normalise_pixels(clips), mask, self.arguments)[1]
        with torch.no_grad():
            wanted = plain.targets(clips, mask, self.arguments)
        return found, F.mse_loss(found.float(), wanted)

    def clear(self) -> None:
        """Drop all gradients."""
        for parameter in (*self.ours.parameters(), *self.state.values()):
            parameter.grad = None


def make_pair(model: models.Classifier | models.MaskedAutoencoder, device: torch.device) -> Pair:
    """Fill a model with random parameters, by which logits come to about 2, and copy them."""
    generator = torch.Generator().manual_seed(0)
    for name, x in model.named_parameters():
        is_scale = x.ndim == 1 and name.endswith("weight")  # of a LayerNorm
        nn.init.normal_(x, float(is_scale), 0.1 if is_scale else 0.02, generator=generator)
    official = to_official(model)
    state = {name: x.to(device, copy=True).requires_grad_() for name, x in official.items()}
    arguments = arguments_of(model) | {"lg_classify_token_type": "region"}
    return Pair(speed_up(model).eval().to(device), state, arguments)


def classifiers(bench: Bench, encoder: EncoderKind = "lgi") -> Pair:
    """Classifiers of seven classes."""
    model = models.build_classifier(bench.model(encoder), NUM_CLASSES, seed=bench.seed)
    return make_pair(model, bench.device)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def forward(bench: Bench) -> None:
    """Classification of both models, all in turn."""
    clips, works = bench.noise(bench.num), dict[str, Works]()
    for encoder, title in NAMES.items():
        pair = classifiers(bench, encoder)
        check_logits(bench, pair, clips, title)
        plainly = partial(_infer, pair.logits, clips) if encoder == "lgi" else None
        ours, macs = partial(_infer, pair.ours, clips), total_macs(pair.ours.config, "classify")
        works |= _works(bench, f"{title} forward", macs, pair.ours, ours, plainly)
        if encoder == "lgi":
            products = products_of(partial(ours, "float32"), pair.ours)
            by_torch = replay(products, bench.device, only_torch=True)
            works["LGI-B products by torch.mm alone, float32"] = Works(by_torch, macs=macs)
    bench.measure("model", works, len(clips))


def longer(bench: Bench) -> None:
    """Classification of clips of 32 and of 64 frames, one model against the other."""
    for times in (2,) if bench.smoke else (2, 4):
        clips, works = bench.noise(1, times), dict[str, Works]()
        for encoder, title in NAMES.items():
            model = models.build_classifier(bench.model(encoder, times), NUM_CLASSES)
            ours = partial(_infer, speed_up(model).eval().to(bench.device), clips, "float32")
            macs = total_macs(model.config, "classify")
            works[f"{title} forward, {16 * times} frames"] = Works(ours, macs=macs)
        bench.measure("model", works)


def backward(bench: Bench, encoder: EncoderKind) -> None:
    """Classification with its gradient."""
    pair, clips = classifiers(bench, encoder), bench.noise(bench.num)
    check_gradient(bench, pair, clips, NAMES[encoder])
    labels = torch.arange(len(clips), device=bench.device) % NUM_CLASSES

    def learn(logits: Callable[[Tensor], Tensor], precision: Precision) -> None:
        with mixed_precision(precision, bench.device):
            loss = F.cross_entropy(logits(clips).float(), labels)
        loss.backward()
        pair.clear()

    works = _works(
        bench, f"{NAMES[encoder]} forward + backward", 3 * total_macs(pair.ours.config, "classify"),
        pair.ours, partial(learn, pair.ours),
        partial(learn, pair.logits) if encoder == "lgi" else None,
    )  # fmt: skip
    bench.measure("model", works, len(clips))


def pretraining_step(bench: Bench, encoder: EncoderKind) -> None:
    """A whole step: 90 % hidden, forward, loss, backward, AdamW."""
    recipe, clips = bench.recipe(encoder), bench.noise(2 * bench.num)
    # The paper's targets, also for the tiny model: the plain way has no others.
    pair = make_pair(models.build_autoencoder(recipe.model, seed=bench.seed), bench.device)
    ratio, generator = recipe.mask_ratio[0], torch.Generator().manual_seed(bench.seed)
    mask = models.model_mask(pair.ours, ratio, len(clips), generator)
    check_autoencoder(bench, pair, clips, mask, NAMES[encoder])

    def step(loss: Callable[[], Tensor], optimiser: Any, precision: Precision) -> None:
        with mixed_precision(precision, bench.device):
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()

    # The rate is 0, so weights stay the same; the work is that of any rate.
    ours = partial(step, lambda: pair.ours(clips, mask).loss.total,
                   make_optimiser(pair.ours, OptimConfig()))  # fmt: skip
    plain_optimiser = torch.optim.AdamW(pair.state.values(), lr=0.0, betas=(0.9, 0.95))
    plainly = partial(step, lambda: pair.reconstruct(clips, mask)[1], plain_optimiser)
    title, precision = f"{NAMES[encoder]} pre-training step", bench.precisions[-1]
    with Operators() as issued:
        ours(precision)
    bench.notes.append(f"{title}, {precision}: {issued.names.total():,} operators are issued, "
                       "unless captured")  # fmt: skip
    macs = 3 * total_macs(recipe.model, "pretrain", mask_ratio=ratio)
    works = _works(bench, title, macs, pair.ours, ours, plainly if encoder == "lgi" else None)
    bench.measure("model", works, len(clips))


def _works(
    bench: Bench, title: str, macs: int, model: nn.Module,
    ours: Callable[[Precision], None], plainly: Callable[[Precision], None] | None,
) -> dict[str, Works]:  # fmt: skip
    """Works of a row per precision; a backward pass has twice the multiply-adds of the forward."""
    works = {}
    for precision in bench.precisions:
        work = partial(ours, precision)
        floor = replay(products_of(work, model), bench.device)
        plain_work = plainly and partial(plainly, precision)
        works[f"{title}, {precision}"] = Works(work, floor, plain_work, macs)
    return works


def _infer(model: Callable[[Tensor], Tensor], clips: Tensor, precision: Precision) -> None:
    with torch.no_grad(), mixed_precision(precision, clips.device):
        model(clips)


def check_logits(bench: Bench, pair: Pair, clips: Tensor, name: str) -> None:
    """Equal logits; how far bf16 moves them is reported."""
    with torch.no_grad():
        ours, want = pair.ours(clips), pair.logits(clips)
        with mixed_precision("bf16", clips.device):
            half = pair.ours(clips).float()
    bench.check(f"{name} logits", _apart(ours, want))
    if not torch.equal(half, ours):
        bench.check(f"{name} logits in bf16 against float32", _apart(half, ours), None)


def check_gradient(bench: Bench, pair: Pair, clips: Tensor, name: str) -> None:
    """Equal gradient of the first layer, which all others have passed on."""
    labels = torch.arange(len(clips), device=clips.device) % NUM_CLASSES
    for logits in (pair.ours, pair.logits):
        F.cross_entropy(logits(clips), labels).backward()
    want = pair.state["patch_embed.proj.weight"].grad
    assert want is not None
    difference = _apart(pair.ours.encoder.embed.proj.weight.grad, want) / float(want.abs().max())
    pair.clear()
    bench.check(f"{name} gradient of the embedding, of its largest", difference)


def check_autoencoder(bench: Bench, pair: Pair, clips: Tensor, mask: Tensor, name: str) -> None:
    """Equal predictions and equal loss."""
    with torch.no_grad():
        ours = pair.ours(clips, mask)
        prediction, loss = pair.reconstruct(clips, mask)
    bench.check(f"{name} predictions", _apart(ours.prediction, prediction))
    bench.check(f"{name} pre-training loss", _apart(ours.loss.total, loss))


PIECES = (forward, longer, *(partial(piece, encoder=encoder) for encoder in NAMES
                             for piece in (backward, pretraining_step)))  # fmt: skip
