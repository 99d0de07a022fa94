"""Fine-tuning: a classifier on labelled faces. Finished runs load, others start anew."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from tqdm.auto import trange

from maedfer_lab.config import FinetuneConfig
from maedfer_lab.config.schedule import learning_rate
from maedfer_lab.data.expressions import EXPRESSIONS
from maedfer_lab.data.faces import SyntheticFaces
from maedfer_lab.data.folder import load_clips
from maedfer_lab.data.labelled import labelled_folder
from maedfer_lab.evidence.results import provenance
from maedfer_lab.method.classifier import Classifier, build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training.clips import MARGIN
from maedfer_lab.training.metrics import confusion_matrix, uar, war
from maedfer_lab.training.optim import device_name, make_optimiser, mixed_precision
from maedfer_lab.training.pretrain import pretrain

CHUNK = 20  # test clips at a time
CHANNELS_FIRST = (0, 4, 1, 2, 3)  # b T H W c -> b c T H W


@dataclass(frozen=True)
class FinetunedRun:
    """A finished run: its classifier on the CPU in evaluation mode, and its result."""

    config: FinetuneConfig
    folder: Path
    model: Classifier
    result: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.config.optim.steps} steps in {self.result['seconds']:.0f} s; UAR "
            f"{self.result['uar']:.1%}, WAR {self.result['war']:.1%} on "
            f"{sum(map(sum, self.result['confusion']))} clips of unseen people; {self.folder}"
        )


def finetune(
    config: FinetuneConfig, *, output: Path | None = None, profile: str = "none"
) -> FinetunedRun:
    """Train a classifier as `config` says, in runs/NAME-HASH under `output`, and judge it.

    A finished run is loaded. The run of `config.init` is loaded or trained first.

    profile: named in the provenance.

    The result holds UAR and WAR in [0, 1] and the confusion matrix (rows are true classes) on
    unseen identities, the training loss of each step, seconds, and what pre-training gave.
    """
    run = Run.of(config, output)
    classes = class_names(config)
    model = build_classifier(config.model, len(classes), seed=config.seed)
    if run.is_finished:
        run.load_model(model)
        return FinetunedRun(config, run.folder, model.eval(), run.load_result())
    pretraining = None
    if config.init is not None:
        start = pretrain(config.init, output=output, profile=profile)
        model.encoder.load_state_dict(start.model.encoder.state_dict())
        pretraining = {
            name: start.result[name] for name in ("steps", "seconds", "held_out", "baselines")
        }

    device = Accelerator().device
    began = time.monotonic()
    log = train(model.to(device), config)
    labels, guesses = judge(model, config)
    seconds = round(time.monotonic() - began, 1)
    confusion = confusion_matrix(labels, guesses, len(classes))
    result = {
        "uar": uar(confusion),
        "war": war(confusion),
        "confusion": confusion.tolist(),
        "classes": list(classes),
        "steps": config.optim.steps,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "pretraining": pretraining,
        "provenance": provenance(
            profile=profile,
            seed=config.seed,
            device=device_name(device),
            data="synthetic faces" if config.data is None else config.data.name,
            seconds=seconds,
        ),
        "loss": [row["loss"] for row in log],
    }
    run.save_log(log)
    run.finish(model, result)
    return FinetunedRun(config, run.folder, model.cpu().eval(), result)


def train(model: Classifier, config: FinetuneConfig) -> list[dict[str, float | int]]:
    """Cross-entropy on random batches; returns a log row per step. Changes `model`."""
    device = next(model.parameters()).device
    optimiser = make_optimiser(model, config.optim)
    clips, labels = labelled_clips(config, "train")
    rng = np.random.default_rng(config.seed)
    losses, rates = [], []
    model.train()
    for step in trange(config.optim.steps, desc=config.name, unit="step", leave=False):
        rates.append(learning_rate(step, config.optim))
        for group in optimiser.param_groups:
            group["lr"] = rates[-1]
        chosen = rng.integers(len(clips), size=config.optim.batch_size)
        batch = cropped(clips[chosen], config.model.size_px, rng)
        with mixed_precision(config.precision, device):
            logits = model(batch.to(device))
        target = torch.from_numpy(labels[chosen]).to(device)
        loss = functional.cross_entropy(logits.float(), target)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    if not math.isfinite(values[-1]):
        raise FloatingPointError(
            f"loss is {values[-1]} at the last step; lower optim.lr={config.optim.lr} or use "
            "precision='float32'"
        )
    return [
        {"step": i + 1, "lr": lr, "loss": loss}
        for i, (lr, loss) in enumerate(zip(rates, values, strict=True))
    ]


@torch.no_grad()
def judge(
    model: Classifier, config: FinetuneConfig
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """True and guessed classes of the clips of unseen identities, middle crop."""
    device = next(model.parameters()).device
    clips, labels = labelled_clips(config, "test")
    guesses = []
    model.eval()
    with mixed_precision(config.precision, device):
        for first in range(0, len(clips), CHUNK):
            batch = cropped(clips[first : first + CHUNK], config.model.size_px)
            guesses.append(model(batch.to(device)).argmax(1).cpu())
    return labels, torch.cat(guesses).numpy()


def class_names(config: FinetuneConfig) -> tuple[str, ...]:
    """Names of the classes, in the order of the logits."""
    if config.data is None:
        return EXPRESSIONS
    return _read_folder(config.data, config.held_out, config.seed).classes


def labelled_clips(
    config: FinetuneConfig, split: str
) -> tuple[UInt8[np.ndarray, "b T H W 3"], Int[np.ndarray, " b"]]:
    """Clips of one split ("train" or "test"), a little larger than the model's, and classes."""
    frames, size_px = config.model.frames, round(config.model.size_px * MARGIN)
    if config.data is not None:
        folder = _read_folder(config.data, config.held_out, config.seed)
        videos = folder.train if split == "train" else folder.test
        return _load(tuple(videos), frames, config.stride, size_px)
    num = config.num_clips if split == "train" else config.num_test
    return _draw(
        SyntheticFaces(
            num,
            split,
            num_frames=frames,
            size_px=size_px,
            difficulty=config.difficulty,
            seed=config.seed,
        )
    )


# The two splits of a seed are kept: its variants share their clips.
_read_folder = functools.lru_cache(maxsize=1)(labelled_folder)


@functools.lru_cache(maxsize=2)
def _draw(faces: SyntheticFaces) -> tuple[np.ndarray, np.ndarray]:
    frames, labels = zip(*((clip.frames, clip.label) for clip in faces), strict=True)
    return np.stack(frames), np.array(labels)


@functools.lru_cache(maxsize=2)
def _load(
    videos: tuple[tuple[Path, int], ...], frames: int, stride: int, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
    paths, labels = zip(*videos, strict=True)
    return load_clips(paths, frames, stride, size_px), np.array(labels)


def cropped(
    clips: UInt8[np.ndarray, "b T H W 3"], size_px: int, rng: np.random.Generator | None = None
) -> Float[Tensor, "b 3 T h w"]:
    """Square crops in [0, 1]: the middle, or with `rng` random places and half of them mirrored."""
    spare = clips.shape[2] - size_px
    pictures = np.empty((*clips.shape[:2], size_px, size_px, 3), dtype=np.uint8)
    for picture, clip in zip(pictures, clips, strict=True):
        top, left = (spare // 2,) * 2 if rng is None else rng.integers(0, spare + 1, 2)
        crop = clip[:, top : top + size_px, left : left + size_px]
        picture[:] = crop[:, :, ::-1] if rng is not None and rng.random() < 0.5 else crop
    return torch.from_numpy(pictures).permute(CHANNELS_FIRST).float().div(255)
