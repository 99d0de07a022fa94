"""Fine-tuning: a classifier on labelled clips. Finished runs load, partial ones resume."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import FinetuneConfig, ModelConfig, finetune_config
from maedfer_lab.data.augment import finish_clips, mix_batch
from maedfer_lab.data.clips import to_floats
from maedfer_lab.fast import speed_up
from maedfer_lab.files import provenance
from maedfer_lab.method.models import Classifier, build_classifier
from maedfer_lab.metrics import uar, war
from maedfer_lab.runs import LogRow, Run, unique_state
from maedfer_lab.training.labelled import ERASE, MIX, LabelledSource, open_labelled
from maedfer_lab.training.loop import Task, train
from maedfer_lab.training.optim import device_name, finetune_optimiser
from maedfer_lab.training.pretrain import pretrain

BEST = "best.safetensors"  # weights of the best epoch, where that is not the last
Epoch = Literal["last", "best"]


@dataclass(frozen=True)
class FinetunedRun:
    """A finished run: a classifier on the CPU in evaluation mode, and the result.

    The result holds UAR and WAR in [0, 1] and the confusion matrix (rows are true classes) of the
    last epoch on the test clips, one middle view of each; the same of the best epoch under
    "best"; "validation", the scores by which the best was chosen; the training loss of each row
    of the log; seconds; and what pre-training gave.
    """

    config: FinetuneConfig
    folder: Path
    model: Classifier
    result: dict[str, Any]

    def __str__(self) -> str:
        result, best = self.result, self.result["best"]
        clips = sum(map(sum, result["confusion"]))
        lines = [
            f"{result['steps']} steps in {result['seconds']:.0f} s on {result['data']}; "
            f"{self.folder}",
            f"UAR {result['uar']:.1%}, WAR {result['war']:.1%} on {clips} test clips, one view of "
            "each, last epoch",
        ]
        if best["step"] != result["steps"]:
            lines.append(
                f"UAR {best['uar']:.1%}, WAR {best['war']:.1%} at step {best['step']}, the best on "
                f"the {result['validated_on']}"
            )
        if result["skipped"]:
            lines.append(f"{len(result['skipped'])} clips were left out: result.json lists them")
        if self.config.data is not None:
            lines.append(f"next: maedfer evaluate {self.folder}")
        return "\n".join(lines)


def finetune(
    config: FinetuneConfig,
    *,
    output: Path | None = None,
    profile: str = "none",
    stream: LabelledSource | None = None,
    workers: int = 0,
    on_log: Callable[[list[LogRow]], None] | None = None,
    tensorboard: bool = False,
    compile: bool = False,
) -> FinetunedRun:
    """Train a classifier as `config` says, in runs/NAME-HASH under `output`, and judge it.

    A finished run is loaded, a partial one resumed (bit for bit on one CPU machine). The run of
    `config.init` is loaded or trained first. On several devices: `accelerate launch`.

    profile: named in the provenance. workers: processes that read clips.
    stream: the clips of `config`, where they have been opened already.
    on_log: called with the log so far, for a live curve.
    compile: run the model through `torch.compile` (`loop.train`).

    Raises ValueError where a clip cannot be read; the message names it.
    """
    run = Run.of(config, output)
    if run.is_finished:
        return load_finetuned(run.folder)
    stream = stream or open_labelled(config, workers)
    model, pretraining = starting_model(config, len(stream.classes), output, profile)
    task = FinetuneTask(config, model, stream, run, workers)
    trained = train(
        task, run, workers=workers, on_log=on_log, tensorboard=tensorboard, compile=compile
    )

    state = PartialState()  # of Accelerate: which process this is
    state.wait_for_everyone()  # the best weights are written
    last, best = task.test_scores()
    result = {
        **last,
        "best": {"step": task.best["step"], **best},
        "classes": list(stream.classes),
        "validated_on": "test clips" if stream.validates_on_test else "held-out training clips",
        "validation": [row for row in trained.log if "validation_uar" in row],
        "steps": config.optim.last_step,
        "seconds": trained.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": stream.description,
        "skipped": [list(pair) for pair in stream.skipped],
        "pretraining": pretraining,
        "provenance": provenance(
            profile=profile,
            seed=config.seed,
            device=device_name(next(model.parameters()).device),
            processes=state.num_processes,
            waited=round(trained.waited, 3),
            compiled=compile,
            data="synthetic faces" if config.data is None else config.data.name,
            seconds=trained.seconds,
        ),
        "loss": [row["loss"] for row in trained.log],
    }
    if state.is_main_process:
        run.save_log(trained.log)
        run.finish(model, result)
    state.wait_for_everyone()
    return FinetunedRun(config, run.folder, model.cpu().eval(), result)


def load_finetuned(folder: Path, epoch: Epoch = "last") -> FinetunedRun:
    """Load a finished run, with the weights of its last epoch (as published) or its best one."""
    run = Run(folder.expanduser())
    if not run.is_finished:
        raise FileNotFoundError(
            f"{folder} holds no finished run (no result.json); give a folder that "
            "`maedfer finetune` has written, such as runs/finetune-dfew-..."
        )
    config = finetune_config(json.loads((run.folder / "config.json").read_text()))
    result = run.load_result()
    model = build_classifier(config.model, len(result["classes"]))
    run.load_model(model)
    if epoch == "best" and (run.folder / BEST).exists():
        model.load_state_dict(load_file(run.folder / BEST), strict=False)
    return FinetunedRun(config, run.folder, speed_up(model).eval(), result)


def starting_model(
    config: FinetuneConfig, num_classes: int, output: Path | None, profile: str
) -> tuple[Classifier, dict[str, Any] | None]:
    """The classifier before the first step, and what is to be told of its pre-training."""
    told = None
    if config.checkpoint is not None:
        model, told = _from_checkpoint(config, num_classes)
    else:
        model = build_classifier(config.model, num_classes, seed=config.seed)
    if config.init is not None:
        start = pretrain(config.init, output=output, profile=profile)
        model.encoder.load_state_dict(start.model.encoder.state_dict())
        told = {name: start.result[name] for name in ("steps", "seconds", "held_out", "baselines")}
    model.encoder.requires_grad_(config.mode != "linear")
    return model, told


def _from_checkpoint(config: FinetuneConfig, num_classes: int) -> tuple[Classifier, dict[str, Any]]:
    wanted = config.model
    loaded = load_checkpoint(
        config.checkpoint,  # type: ignore
        as_="classifier",
        num_classes=num_classes,
        frames=wanted.frames,
        size_px=wanted.size_px,
        drop_path=wanted.drop_path,
        seed=config.seed,
    )
    model = loaded.model
    assert isinstance(model, Classifier)
    if _without_decoder(model.config) != _without_decoder(wanted):
        raise ValueError(
            f"model={wanted} is not the model of checkpoint {config.checkpoint}, {model.config}; "
            "use the latter"
        )
    return model, {"checkpoint": loaded.report.name, "report": str(loaded.report)}


def _without_decoder(config: ModelConfig) -> ModelConfig:
    unused = {
        f: getattr(ModelConfig, f) for f in ("decoder_width", "decoder_depth", "decoder_heads")
    }
    return replace(config, **unused, legacy_visible_order=False)


class FinetuneTask(Task):
    """Classification, as the loop sees it; keeps the best epoch by WAR, as the reference does."""

    config: FinetuneConfig
    model: Classifier
    stream: LabelledSource

    def __init__(
        self,
        config: FinetuneConfig,
        model: Classifier,
        stream: LabelledSource,
        run: Run,
        workers: int = 0,
    ) -> None:
        self.config, self.model, self.stream = config, model, stream
        self.run, self.workers = run, workers
        self.log_every = config.log_every
        # The last block's path to the other tokens ends before the representative ones (B7).
        self.idle_parameters = model.tokens == "rep" and config.mode != "linear"
        self.step = 0
        self.last: list[list[int]] = []
        self.best: dict[str, Any] = {"step": 0, "war": -1.0, "confusion": []}

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW with layer decay."""
        return finetune_optimiser(self.model, self.config)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, Tensor], step: int, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """Cross-entropy, of mixed clips and smoothed labels where the transform is published."""
        if self.config.mode == "linear":
            self.model.encoder.eval()  # no drop path in a frozen encoder
        self.step = step + 1
        frames, labels = batch
        config, targets = self.config, labels
        if (augment := config.augment) is None:
            clips = to_floats(frames)
        else:
            first = step * config.optim.batch_size
            keys = [(config.seed, ERASE, first + place) for place in places]
            clips = finish_clips(frames, augment, keys)
            key = (config.seed, MIX, step)
            clips, targets = mix_batch(clips, labels, len(self.stream.classes), augment, *key)
        return {"loss": functional.cross_entropy(network(clips).float(), targets)}

    def names(self, indices: Sequence[int]) -> list[str]:
        """The videos of these items."""
        return [self.stream.name(self.stream.choice(index)) for index in indices]

    def judge(self) -> dict[str, float]:
        """Scores on the validation clips; better weights than before are kept in the folder."""
        confusion = self.stream.judge(self.model, "validation", self.workers)
        self.last = confusion.tolist()
        if war(confusion) > self.best["war"]:
            self.best = {"step": self.step, "war": war(confusion), "confusion": self.last}
            if PartialState().is_main_process:
                state = unique_state(self.model).items()
                weights = {name: x.detach().cpu().contiguous() for name, x in state}
                self.run.write(BEST, save(weights))
        return {"validation_uar": uar(confusion), "validation_war": war(confusion)}

    def test_scores(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """UAR, WAR and confusion on the test clips: of the last epoch and of the best one."""
        is_last = self.best["step"] == self.config.optim.last_step
        if self.stream.validates_on_test:
            last, best = self.last, self.best["confusion"]
        else:
            last = best = self._test(self.model)
            if not is_last:
                kept = copy.deepcopy(self.model)
                kept.load_state_dict(load_file(self.run.folder / BEST), strict=False)
                best = self._test(kept)
        if is_last and PartialState().is_main_process:
            (self.run.folder / BEST).unlink(missing_ok=True)
        return _scores(last), _scores(best)

    def _test(self, model: Classifier) -> list[list[int]]:
        return self.stream.judge(model, "test", self.workers).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Last and best look at the validation clips."""
        return {"step": self.step, "last": self.last, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take both back."""
        self.step, self.last, self.best = state["step"], state["last"], state["best"]


def _scores(matrix: list[list[int]]) -> dict[str, Any]:
    """UAR, WAR and the confusion matrix itself."""
    confusion = np.array(matrix)
    return {"uar": uar(confusion), "war": war(confusion), "confusion": matrix}
