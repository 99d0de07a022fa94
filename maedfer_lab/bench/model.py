"""Section "model": forward, backward and a pre-training step, beside their matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer_lab.bench.floor import peak_macs, products_of, replay
from maedfer_lab.bench.report import Findings, Row
from maedfer_lab.bench.settings import NAMES, NUM_CLASSES, Settings
from maedfer_lab.bench.timing import Work, pick
from maedfer_lab.bench.twins import (
    check_autoencoder,
    check_gradient,
    check_logits,
    classifier_twins,
    make_twins,
    plain_logits,
    plain_pretraining,
    random_clips,
)
from maedfer_lab.config import EncoderKind, ModelConfig, OptimConfig, Precision
from maedfer_lab.cost.formula import Task, macs
from maedfer_lab.cost.memory import peak_bytes
from maedfer_lab.fast import speed_up
from maedfer_lab.method.models import build_autoencoder, build_classifier, model_mask
from maedfer_lab.training.optim import make_optimiser, mixed_precision

LONGER = (2, 4)  # times the published 16 frames
BOTH_WAYS = 3  # a backward pass takes twice the products of a forward pass
BY_TORCH = "LGI-B products by torch.mm alone, float32"


def steps(settings: Settings) -> Iterator[tuple[str, Callable[[Findings], None]]]:
    """The pieces of this section: what is measured, and the function that adds its rows."""
    yield "forward", lambda found: forward(settings, found)
    for times in LONGER[: 1 if settings.smoke else None]:
        yield f"{times}x frames", lambda found, times=times: longer(settings, found, times)
    for encoder in NAMES:
        yield (
            f"{NAMES[encoder]} forward + backward",
            lambda found, encoder=encoder: backward(settings, found, encoder),
        )
        yield (
            f"{NAMES[encoder]} pre-training step",
            lambda found, encoder=encoder: pretraining(settings, found, encoder),
        )


def forward(settings: Settings, found: Findings) -> None:
    """Classification of both models, all in turn."""
    clips = random_clips(settings, settings.clips)
    works: dict[str, Work] = {}
    work: dict[str, int] = {}
    for encoder, title in NAMES.items():
        twins = classifier_twins(settings, encoder)
        found.checks += check_logits(twins, clips, title)
        for precision in settings.precisions:
            name = f"{title} forward, {precision}"
            ours = _no_grad(twins.ours, precision, clips)
            work[name] = _macs(twins.ours.config, "classify")
            works |= _with_floor(name, ours, twins.ours, settings)
            if encoder == "lgi":
                works[f"{name} plain"] = _no_grad(
                    lambda x, twins=twins: plain_logits(twins, x), precision, clips
                )
        if encoder == "lgi":
            ours = _no_grad(twins.ours, "float32", clips)
            products = products_of(ours, twins.ours)
            works[f"{BY_TORCH} ours"] = replay(products, settings.device, only_torch=True)
            work[BY_TORCH] = 0
    _add_rows(settings, found, work, works, len(clips))


def longer(settings: Settings, found: Findings, times: int) -> None:
    """Classification of clips of 32 or 64 frames, one model against the other."""
    clips = random_clips(settings, 1, times)
    works: dict[str, Work] = {}
    work: dict[str, int] = {}
    for encoder, title in NAMES.items():
        model = speed_up(build_classifier(settings.model(encoder, times), NUM_CLASSES)).eval()
        name = f"{title} forward, {16 * times} frames"
        works[f"{name} ours"] = _no_grad(model.to(settings.device), "float32", clips)
        work[name] = _macs(model.config, "classify")
    _add_rows(settings, found, work, works, 1)


def backward(settings: Settings, found: Findings, encoder: EncoderKind) -> None:
    """Classification with its gradient."""
    clips = random_clips(settings, settings.clips)
    labels = torch.arange(len(clips), device=settings.device) % NUM_CLASSES
    twins = classifier_twins(settings, encoder)
    found.checks += check_gradient(twins, clips, NAMES[encoder])
    works: dict[str, Work] = {}
    work: dict[str, int] = {}
    for precision in settings.precisions:

        def learn(logits: Callable[[Tensor], Tensor], precision: Precision = precision) -> Work:
            def run() -> None:
                with mixed_precision(precision, settings.device):
                    loss = F.cross_entropy(logits(clips).float(), labels)
                loss.backward()
                twins.clear()

            return run

        name = f"{NAMES[encoder]} forward + backward, {precision}"
        work[name] = BOTH_WAYS * _macs(twins.ours.config, "classify")
        works |= _with_floor(name, learn(twins.ours), twins.ours, settings)
        if encoder == "lgi":
            works[f"{name} plain"] = learn(lambda x: plain_logits(twins, x))
    _add_rows(settings, found, work, works, len(clips))


def pretraining(settings: Settings, found: Findings, encoder: EncoderKind) -> None:
    """A whole step: 90 % hidden, forward, loss, backward, AdamW."""
    recipe, device = settings.recipe(encoder), settings.device
    clips = random_clips(settings, 2 * settings.clips)
    # The paper's targets, also for the tiny model: the plain way has no others.
    twins = make_twins(build_autoencoder(recipe.model, seed=settings.seed), device)
    generator = torch.Generator().manual_seed(settings.seed)
    mask = model_mask(twins.ours, recipe.mask_ratio[0], len(clips), generator)
    title = NAMES[encoder]
    found.checks += check_autoencoder(twins, clips, mask, title)
    # At rate 0 (until the loop sets one) weights stay what they are, for the same work.
    ours_optimiser = make_optimiser(twins.ours, OptimConfig())
    plain_optimiser = torch.optim.AdamW(twins.state.values(), lr=0.0, betas=(0.9, 0.95))
    works: dict[str, Work] = {}
    work: dict[str, int] = {}
    for precision in settings.precisions:

        def ours_loss() -> Tensor:
            return twins.ours(clips, mask).loss.total

        def plain_loss() -> Tensor:
            return plain_pretraining(twins, clips, mask)[1]

        def step(
            loss: Callable[[], Tensor],
            optimiser: torch.optim.Optimizer,
            precision: Precision = precision,
        ) -> Work:
            def run() -> None:
                with mixed_precision(precision, device):
                    value = loss()
                value.backward()
                optimiser.step()
                optimiser.zero_grad()

            return run

        name = f"{title} pre-training step, {precision}"
        work[name] = BOTH_WAYS * _macs(recipe.model, "pretrain", recipe.mask_ratio[0])
        works |= _with_floor(name, step(ours_loss, ours_optimiser), twins.ours, settings)
        if encoder == "lgi":
            works[f"{name} plain"] = step(plain_loss, plain_optimiser)
    _add_rows(settings, found, work, works, len(clips))


def _no_grad(model: Callable[[Tensor], Tensor], precision: Precision, clips: Tensor) -> Work:
    def run() -> None:
        with torch.no_grad(), mixed_precision(precision, clips.device):
            model(clips)

    return run


def _with_floor(name: str, ours: Work, model: nn.Module, settings: Settings) -> dict[str, Work]:
    floor = replay(products_of(ours, model), settings.device)
    return {f"{name} floor": floor, f"{name} ours": ours}


def _macs(config: ModelConfig, task: Task, mask_ratio: float = 0.9) -> int:
    return sum(macs(config, task, num_classes=NUM_CLASSES, mask_ratio=mask_ratio).values())


def _add_rows(
    settings: Settings,
    found: Findings,
    work: dict[str, int],
    works: dict[str, Work],
    num_clips: int,
) -> None:
    """Measure memory (which warms up) and times; one row for each name.

    work: multiply-adds of one clip, for the utilisation of a GPU.
    """
    device = settings.device
    memory = {name: peak_bytes(_quiet(run), device) for name, run in works.items()}
    taken = settings.watch.alternate(works, warm_up=False)
    for name, num_macs in work.items():
        row = Row(
            "model",
            name,
            **{side: timing.per(num_clips) for side, timing in pick(taken, name).items()},
            memory={s: memory[f"{name} {s}"] for s in ("ours", "plain") if f"{name} {s}" in works},
        )
        if device.type == "cuda":
            dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
            share = num_macs / row.ours.median / peak_macs(settings.watch, dtype)
            row = replace(row, utilisation=share)
        found.rows.append(row)


def _quiet(work: Work) -> Callable[[], None]:
    def run() -> None:
        work()

    return run


def profile_text(settings: Settings, rows: int = 12) -> str:
    """Where the time of one LGI-B forward pass goes, by operator."""
    twins = classifier_twins(settings, "lgi")
    run = _no_grad(twins.ours, "float32", random_clips(settings, settings.clips))
    run()
    with torch.profiler.profile() as seen:
        run()
    key = "self_cpu_time_total" if settings.device.type == "cpu" else "self_device_time_total"
    return seen.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=40)
