"""`python -m maedfer_lab.bench.gpu_check`: does a GPU compute what the CPU does? About two minutes.

Each check has a bound; all are made before the verdict. The exit status is 1 if one fails.
"""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import PartialState
from torch import Tensor

from maedfer_lab.bench.measuring import Check
from maedfer_lab.config import EncoderKind, ModelConfig, Precision, base, finetune_demo, tiny
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import build_autoencoder, build_classifier, model_mask
from maedfer_lab.runs import LogRow
from maedfer_lab.training.device import CapturedStep, Losses, compile_blocks, moved
from maedfer_lab.training.optim import device_name, has_bf16, mixed_precision
from maedfer_lab.training.pretrain import pretrain

EXACT, HALF = 1e-5, 0.03  # bounds in float32, and of bf16 to float32; of the largest value
STEPS = 16  # of each of our runs
SCALE = 2.0**28  # of a loss in fp16: of 16 steps about 7 overflow, each halves it


def gpu_check(device: str | None = None, *, smoke: bool = False) -> tuple[str, int]:
    """Compare a device with the CPU, and run typical uses on it: (a table, 1 if a check failed).

    device: e.g. cuda, mps or cpu; by default the available accelerator.
    smoke: the tiny model instead of the paper's.
    """
    began = time.monotonic()
    place = torch.device(device or str(torch.accelerator.current_accelerator() or "cpu"))
    with ThreadPoolExecutor(1) as beside:  # they mostly wait for processes to start
        started = beside.submit(lambda: [*_tried(runs(place, smoke))])
        checks = [*_tried(equal_passes(place, smoke)), *started.result(), *_tried(uses(place))]
    lines = [f"{'ok  ' if check.is_passed else 'FAIL'}  {check}" for check in checks]
    failed = not all(check.is_passed for check in checks)
    end = f"{'a check failed' if failed else 'all passed'}, {time.monotonic() - began:.0f} s"
    return "\n".join([device_name(place), *lines, end]), int(failed)


def _tried(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks; an error that ends them becomes a last check, which fails."""
    try:
        yield from checks
    except Exception as error:
        yield Check(f"{type(error).__name__}: {error}", math.nan, EXACT)


def equal_passes(device: torch.device, smoke: bool) -> Iterator[Check]:
    """Logits, losses, gradients: on the device and the CPU; compiled and captured; in bf16."""
    encoders: tuple[EncoderKind, ...] = ("lgi", "vit")
    torch.backends.cudnn.allow_tf32 = False  # of this process; it ends with the check
    for encoder in encoders:
        recipe = (tiny if smoke else base)(encoder)
        clips = _noise(recipe.model, 2)
        classifier = build_classifier(recipe.model, 7).eval()
        model = build_autoencoder(recipe.model, recipe.target)
        mask = model_mask(model, recipe.mask_ratio[0], 2, torch.Generator().manual_seed(0))
        split = model.split(mask)
        batch = clips, split.visible, split.masked, split.decoder_positions

        def step(batch: Any, model: Any = model) -> dict[str, Tensor]:
            loss = model(batch[0], TokenSplit(*batch[1:])).loss.total
            loss.backward()
            return {"loss": loss}

        with torch.no_grad():
            wanted = classifier(clips)
        loss, *grads = _loss_and_gradients(step, model, batch)
        model, classifier, batch = model.to(device), classifier.to(device), moved(batch, device)
        clips = batch[0]
        with torch.no_grad():
            logits = classifier(clips)
        ours, *theirs = _loss_and_gradients(step, model, batch)
        yield Check(f"{encoder}: logits, float32", _apart([logits], [wanted]), EXACT)
        yield Check(f"{encoder}: loss, float32", _apart([ours], [loss]), EXACT)
        yield Check(f"{encoder}: gradients, float32", _apart(theirs, grads), EXACT)
        if has_bf16(device):
            with torch.no_grad(), mixed_precision("bf16", device):
                half, at_half = classifier(clips), model(clips, mask).loss.total
            yield Check(f"{encoder}: logits, bf16 beside float32", _apart([half], [logits]), HALF)
            yield Check(f"{encoder}: loss, bf16 beside float32", _apart([at_half], [ours]), HALF)
        if device.type == "cuda":
            compile_blocks(model)
            captured = CapturedStep(step, model)
            captured((clips.flip(0), *batch[1:]))  # recorded on another batch than is compared
            for name, way in (("compiled", step), ("captured", captured)):
                found, *theirs = _loss_and_gradients(way, model, batch)
                yield Check(f"{encoder}: loss, {name}", _apart([found], [ours]), EXACT)
                yield Check(f"{encoder}: gradients, {name}", _apart(theirs, grads), EXACT)
            yield Check(f"{encoder}: a step could not be captured", captured.failed, EXACT)


def _noise(config: ModelConfig, num: int) -> Tensor:
    shape = num, 3, config.frames, config.size_px, config.size_px
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _loss_and_gradients(step: Callable[[Any], Losses], model: Any, batch: Any) -> list[Tensor]:
    model.zero_grad()
    loss = step(batch)["loss"]
    return [tensor.detach().cpu() for tensor in (loss, *(p.grad for p in model.parameters()))]


def _apart(ours: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    pairs = [[x.detach().double().cpu() for x in both] for both in zip(ours, wanted, strict=True)]
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(largest, 1e-30)


def runs(device: torch.device, smoke: bool) -> Iterator[Check]:
    """Two runs alike; one killed and resumed; what exactness costs; overflow in fp16."""
    with (tempfile.TemporaryDirectory(prefix="maedfer-check-") as where,
          ThreadPoolExecutor() as beside):  # fmt: skip

        def run(*names: str, **how: Any) -> list[dict[str, Any]]:
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                return alone.submit(_pretrained, device, where, names, **how).result()

        def killed() -> list[dict[str, Any]]:
            with suppress(BrokenProcessPool):
                run("killed", is_killed=True)
                raise RuntimeError("the run that was to be killed came to its end")
            return run("killed")

        started = beside.submit(run, "whole", "again"), beside.submit(killed)
        free = None if smoke else beside.submit(run, "free", exact=False)
        is_cuda = device.type == "cuda"
        half = beside.submit(run, "fp16", exact=False, precision="fp16") if is_cuda else None
        (whole, again), (resumed,) = (job.result() for job in started)
        for name, other in (("two runs", again), ("a run killed by SIGKILL and resumed", resumed)):
            how = other["provenance"]["compiled"]
            title = f"{name}: weights differ (deterministic algorithms, {how})"
            yield Check(title, float(other["sha256"] != whole["sha256"]), EXACT)
        if free is not None:
            cost = again["seconds"] / max(free.result()[0]["seconds"], 0.1)
            yield Check("seconds with deterministic algorithms, over those without", cost, None)
        if half is not None:
            skipped, loss = half.result()[0]["skipped_steps"], half.result()[0]["log"][-1]["loss"]
            kept = 0 < skipped < STEPS and math.isfinite(loss)
            title = f"fp16: overflow not skipped ({skipped} of {STEPS} steps were), loss {loss}"
            yield Check(title, float(not kept), EXACT)


def _pretrained(
    device: torch.device, where: str, names: Sequence[str], *, exact: bool = True,
    precision: Precision = "float32", is_killed: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """In a process of its own: the result of a run under each name.

    is_killed: the process kills itself after the first steps that are not yet saved.
    """

    def kill(log: list[LogRow], _: object) -> None:
        if is_killed and log[-1]["step"] > STEPS / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.putenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it products are not reproducible
    PartialState(cpu=device.type == "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(exact)
    if precision == "fp16":  # a scale at which gradients overflow at once
        torch.amp.GradScaler = partial(torch.amp.GradScaler, init_scale=SCALE)  # type: ignore
    config = tiny()
    config = replace(config, optim=replace(config.optim, steps=STEPS), save_every=4,
                     eval_every=STEPS, precision=precision)  # fmt: skip
    with redirect_stderr(io.StringIO()):  # bars of runs beside each other
        return [pretrain(config, output=Path(where, name), on_log=kill).result for name in names]


def uses(device: torch.device) -> Iterator[Check]:
    """Fine-tuning, evaluation, a reconstruction and viewers with a model on the device."""
    from maedfer_lab.method.reconstruction import reconstruct_clip
    from maedfer_lab.training.evaluation import evaluate
    from maedfer_lab.training.finetune import finetune
    from maedfer_lab.training.stream import labelled_data

    config, short = tiny(), finetune_demo("synthetic", 8)
    optim = replace(short.optim, steps=2, warmup_steps=0, batch_size=4)
    short = replace(short, model=config.model, optim=optim, precision="float32", eval_every=None,
                    num_clips=8, num_test=7)  # fmt: skip
    data = labelled_data(short)
    with tempfile.TemporaryDirectory(prefix="maedfer-check-") as where:
        model = finetune(short, output=Path(where), data=data).model
    scores = [
        evaluate(model.to(place), data.table, data.test, stride=1, segments=1, crops=1)
        for place in (device, torch.device("cpu"))
    ]
    apart = abs(scores[0].probabilities - scores[1].probabilities).max()
    yield Check("finetune, evaluate: probabilities, float32", float(apart), EXACT)
    clip = _noise(config.model, 1)[0]
    autoencoder = build_autoencoder(config.model, config.target).eval()
    mask = model_mask(autoencoder, config.mask_ratio[0], 1, torch.Generator().manual_seed(0))[0]
    shown = [reconstruct_clip(autoencoder.to(place), clip, mask).reconstruction
             for place in (device, torch.device("cpu"))]  # fmt: skip
    yield Check("reconstruct: pixels, float32", float(abs(shown[0] - shown[1]).max()), 10 * EXACT)
    try:
        from maedfer_lab.viewers import AttentionViewer, ReconstructionViewer
    except ImportError:
        return
    for viewer in (ReconstructionViewer, AttentionViewer):
        viewer(autoencoder.to(device), clip[None])
        yield Check(f"{viewer.__name__} opens", 0.0)


if __name__ == "__main__":
    text, status = tyro.cli(gpu_check)
    print(text)
    sys.exit(status)
