"""Fine-tuning: a classifier on labelled clips. Finished runs load, partial ones resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.reading import locate
from maedfer_lab.config import (
    FinetuneConfig,
    Framing,
    Mode,
    ModelConfig,
    Size,
    finetune_config,
    finetune_demo,
    finetune_recipe,
    framing_of,
    sized,
)
from maedfer_lab.data.shards import open_shards
from maedfer_lab.data.table import Clip
from maedfer_lab.data.transforms import Box, finish_clips, mix_batch, to_floats
from maedfer_lab.fast import speed_up
from maedfer_lab.method.models import Classifier, build_classifier
from maedfer_lab.metrics import uar, war
from maedfer_lab.runs import BEST, WEIGHTS, LogRow, Run
from maedfer_lab.training.device import Compile
from maedfer_lab.training.evaluation import evaluate
from maedfer_lab.training.loop import TrainingTask, groups, train
from maedfer_lab.training.optim import finetune_optimiser
from maedfer_lab.training.pretrain import absolute, finish, pretrain, set_fields
from maedfer_lab.training.stream import (
    ERASE,
    MIX,
    ClipStream,
    FinetuneClip,
    RunData,
    labelled_data,
    labelled_table,
    open_table,
)

SYNTHETIC = "synthetic"
# Fields of a model's configuration that a classifier does not use, at their defaults.
UNUSED: dict[str, Any] = {
    name: getattr(ModelConfig, name)
    for name in ("decoder_width", "decoder_depth", "decoder_heads", "legacy_visible_order")
}


@dataclass(frozen=True)
class FinetunedRun:
    """A finished run: a classifier on the CPU in evaluation mode, and the result.

    The result holds UAR and WAR in [0, 1] and the confusion matrix (rows are true classes) of the
    last epoch on the test clips, one middle view of each; the same of the best epoch under
    "best"; "validation", the scores by which that was chosen; the log's losses; seconds; and the
    pre-training. remark: on a run that was loaded, not trained just now.
    """

    config: FinetuneConfig
    folder: Path
    model: Classifier
    result: dict[str, Any]
    remark: str = ""

    def __str__(self) -> str:
        result, best = self.result, self.result["best"]
        clips = sum(map(sum, result["confusion"]))
        lines = [self.remark] * bool(self.remark) + [
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
            lines.append(f"{len(result['skipped'])} clips were skipped; result.json lists them")
        if self.config.data is not None:
            lines.append(f"next: maedfer evaluate {self.folder}")
        return "\n".join(lines)


def finetune(
    config: FinetuneConfig, *, output: Path | None = None, profile: str = "none",
    data: RunData | None = None, workers: int = 0,
    on_log: Callable[[list[LogRow]], None] | None = None, tensorboard: bool = False,
    compile: Compile | bool = "auto", checkpointing: bool = False, shard: bool = False,
) -> FinetunedRun:  # fmt: skip
    """Train and test a classifier as `config` says, in runs/NAME-HASH under `output`.

    A finished run is loaded, a partial one resumed (bit-exact on one CPU machine). The run of
    `config.init` is loaded or trained first. On several devices: `accelerate launch`.

    profile: named in the provenance. data: the clips of `config`, if they are open already.
    on_log: called with the log so far, for a live curve.
    workers, tensorboard, compile, checkpointing, shard: as in `loop.train`.

    Raises:
        ValueError: a clip cannot be read (names it), or the run belongs to other data or labels.
    """
    run = Run.of(config, output)
    place = config.data if data is None else None  # whose folder may be gone
    table = open_table(run, place, lambda: data.table if data else labelled_table(config))
    if table is None:
        return load_finetuned(run.folder)
    data = data or labelled_data(config, workers, table)
    model, pretraining = starting_model(config, len(table.classes), output, profile)
    task = FinetuneTask(config, model, data, run, workers)
    trained = train(
        task, run, workers=workers, on_log=on_log, tensorboard=tensorboard, compile=compile,
        checkpointing=checkpointing, shard=shard,
    )  # fmt: skip

    PartialState().wait_for_everyone()  # the best weights are written
    last, best = task.test_scores()
    result = finish(
        run, config, model, data, trained, profile, **last,
        best={"step": task.best["step"], **best},
        classes=list(table.classes),
        validated_on="test clips" if data.validates_on_test else "held-out training clips",
        validation=[row for row in trained.log if "validation_uar" in row],
        skipped=[list(pair) for pair in data.skipped],
        pretraining=pretraining,
        loss=[row["loss"] for row in trained.log],
    )  # fmt: skip
    return FinetunedRun(config, run.folder, model.cpu().eval(), result)


def load_finetuned(folder: Path, epoch: Literal["last", "best"] = "last") -> FinetunedRun:
    """Load a finished run, with the weights of its last epoch (as published) or its best one."""
    run = Run.finished(folder, "finetune", "finetune-dfew")
    result, config = run.load_result(), run.config(finetune_config)
    with run.reading("result.json"):
        is_last = epoch == "last" or result["best"]["step"] == result["steps"]
        name = WEIGHTS if is_last else BEST
        model = build_classifier(config.model, len(result["classes"]), pooling=config.pooling)
        run.load_weights(model, name, result.get("sha256", {}).get(name))
        loaded = FinetunedRun(config, run.folder, speed_up(model).eval(), result, run.remark)
        str(loaded)
    return loaded


def starting_model(
    config: FinetuneConfig, num_classes: int, output: Path | None, profile: str
) -> tuple[Classifier, dict[str, Any] | None]:
    """The initialised classifier, and the provenance of its pre-training."""
    origin = None
    model = build_classifier(config.model, num_classes, pooling=config.pooling, seed=config.seed)
    if config.checkpoint is not None:
        wanted = config.model
        loaded = load_checkpoint(
            config.checkpoint, as_="classifier", num_classes=num_classes, pooling=config.pooling,
            frames=wanted.frames, size_px=wanted.size_px, drop_path=wanted.drop_path,
            seed=config.seed,
        )  # fmt: skip
        model = cast(Classifier, loaded.model)
        if replace(model.config, **UNUSED) != replace(wanted, **UNUSED):
            raise ValueError(
                f"model={wanted} is not the model of checkpoint {config.checkpoint}, "
                f"{model.config}; use the latter"
            )
        origin = {"checkpoint": loaded.report.name, "report": str(loaded.report)}
    if config.init is not None:
        start = pretrain(config.init, output=output, profile=profile)
        model.encoder.load_state_dict(start.model.encoder.state_dict())
        origin = {n: start.result[n] for n in ("steps", "seconds", "held_out", "baselines")}
    model.encoder.requires_grad_(config.mode != "linear")
    return model, origin


class FinetuneTask(TrainingTask):
    """Classification as a task of the training loop; keeps the best epoch by WAR, as published."""

    config: FinetuneConfig
    model: Classifier
    stream: ClipStream

    def __init__(
        self, config: FinetuneConfig, model: Classifier, data: RunData, run: Run, workers: int = 0
    ) -> None:
        self.config, self.model, self.data, self.stream = config, model, data, data.stream
        self.run, self.workers = run, 0 if data.stream.is_drawn else workers
        # What updates only the other tokens of the last block gets no gradient (B7).
        self.idle_parameters = model.tokens == "rep" and config.mode != "linear"
        self.step = 0
        self.last: list[list[int]] = []
        self.best: dict[str, Any] = {"step": 0, "war": -1.0, "confusion": []}
        self._boxes: dict[Clip, Box] = {}  # of clips that are not trained on

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW with layer decay."""
        return finetune_optimiser(self.model, self.config)

    def finish(
        self, batch: tuple[Tensor, Tensor], step: int, places: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Clips as floats; mixed, and with smoothed labels, if the transform is the published."""
        self.step = step + 1
        frames, labels = batch
        config, augment = self.config, self.config.augment
        if augment is None:
            return to_floats(frames), labels
        first = step * config.optim.batch_size
        clips = finish_clips(
            frames, augment, [(config.seed, ERASE, first + place) for place in places]
        )
        targets, at = [], 0
        for own in groups(places, config.mix_group):  # mixed in place
            part = slice(at, at := at + len(own))
            key = config.seed, MIX, step
            key += () if config.mix_group is None else (own[0] // config.mix_group,)
            classes = len(self.data.table.classes)
            targets.append(mix_batch(clips[part], labels[part], classes, augment, *key)[1])
        return clips, torch.cat(targets)

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy with the labels, hard or mixed."""
        if self.config.mode == "linear":
            self.model.encoder.eval()  # no drop path in a frozen encoder
        clips, labels = batch
        return {"loss": functional.cross_entropy(network(clips).float(), labels)}

    def validate(self) -> dict[str, float]:
        """Scores on the validation clips; the best weights so far are saved in the folder."""
        confusion = self._confusion(self.model, self.data.validation)
        self.last = confusion.tolist()
        if war(confusion) > self.best["war"]:
            self.best = {"step": self.step, "war": war(confusion), "confusion": self.last}
            if PartialState().is_main_process:
                self.best["sha256"] = self.run.save_weights(self.model, BEST)
        return {"validation_uar": uar(confusion), "validation_war": war(confusion)}

    def test_scores(self) -> list[dict[str, Any]]:
        """UAR, WAR and confusion on the test clips: of the last epoch and of the best one."""
        is_last = self.best["step"] == self.config.optim.last_step
        kept = self.model if is_last else copy.deepcopy(self.model)
        if not is_last:
            self.run.load_weights(kept, BEST, self.best.get("sha256"))
        if self.data.validates_on_test:
            last, best = self.last, self.best["confusion"]
        else:
            last = self._confusion(self.model, self.data.test).tolist()
            best = last if is_last else self._confusion(kept, self.data.test).tolist()
        if is_last and PartialState().is_main_process:
            (self.run.folder / BEST).unlink(missing_ok=True)
        return [
            {"uar": uar(found), "war": war(found), "confusion": found.tolist()}
            for found in (np.array(last), np.array(best))
        ]

    def _confusion(self, model: Classifier, clips: Sequence[Clip]) -> np.ndarray:
        """Rows are true classes: one middle view of each clip, shared out among processes."""
        window = cast(FinetuneClip, self.stream.transform)
        return evaluate(
            model, self.data.table, clips, stride=window.stride, segments=1, crops=1,
            framing=window.framing, boxes=self._boxes, workers=self.workers,
            precision=self.config.precision,
        ).confusion  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Last and best validation."""
        return {"step": self.step, "last": self.last, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.step, self.last, self.best = state["step"], state["last"], state["best"]


def finetune_command(
    dataset: str, /, *, root: Path | None = None, lists: Path | None = None,
    layout: str | None = None, fold: int = 1, checkpoint: Path | None = None,
    mode: Mode = "finetune", preset: Literal["base", "demo"] = "demo", size: Size | None = None,
    epochs: int | None = None, batch_size: int | None = None, accumulate: int = 1,
    holdout: float | None = None, framing: Framing | None = None, skip_broken: bool = False,
    seed: int = 0, workers: int = 0, tensorboard: bool = False, compile: Compile = "auto",
    checkpointing: bool = False, shard: bool = False, out: Path | None = None,
    fields: Sequence[str] = (),
) -> FinetunedRun:  # fmt: skip
    """Fine-tune a classifier on labelled clips; resumes or loads an existing run.

    Every field of the preset can be set, e.g. `--optim.lr 1e-3 --augment.erase 0`;
    `--fields` lists them.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface; folder (a folder per class), csv,
        shards (of maedfer prepare), or synthetic (drawn faces, no data needed).
    root: folder of the clips or shards.
    lists: folder of the split lists, if they are not below root.
    layout: meaning of the folder levels if ambiguous, e.g. class/person/clip.
    fold: the fold that is the test set.
    checkpoint: initial weights: an official file, a folder of weights, or a run of maedfer
        pretrain; the model is taken from it. Random initialisation by default.
    mode: finetune; scratch (random initialisation); linear (fc_norm and head on a frozen encoder).
    preset: base is the published recipe, demo takes minutes on a CPU.
    size: width, depth and heads with random initialisation, instead of the preset's.
    epochs: number of epochs, instead of the preset's.
    batch_size: global batch size (all processes), instead of the preset's.
    accumulate: number of parts for gradient accumulation, to save memory.
    holdout: share of the training clips held out for validation; by default the test fold is used.
    framing: whole stretches the picture to a square, face crops around the face. By default face
        for folder and csv, whole for the rest.
    skip_broken: check every clip before the start and leave out unreadable ones.
    seed: random seed of weights and clips.
    workers: processes that read clips.
    tensorboard: also write the log for TensorBoard.
    compile: auto is graph on one GPU, block on several, no on a CPU, as in pre-training.
    checkpointing: activation checkpointing: less memory, a third more computation.
    shard: shard weights and optimiser state over all processes, for models too large for one GPU.
    out: folder under which runs/ is written.
    """
    if (dataset == SYNTHETIC) != (root is None):
        raise ValueError(f"root={root}: name the folder of {dataset}, or omit it with "
                         f"{SYNTHETIC!r}, which draws its clips")  # fmt: skip
    kind = open_shards(cast(Path, root)).dataset if dataset == "shards" else dataset
    changes: dict[str, Any] = dict(
        dataset=f"{dataset}:{layout}" if layout else dataset, data=absolute(root),
        lists=absolute(lists), fold=fold, checkpoint=absolute(checkpoint and locate(checkpoint)),
        mode=mode, holdout=holdout, framing=framing or framing_of(dataset),
        skip_broken=skip_broken, seed=seed,
    )  # fmt: skip

    def planned(num_clips: int) -> FinetuneConfig:
        batch = batch_size
        for _ in range(2):  # steps of an epoch follow from the batch, which fields may set
            recipe = finetune_recipe if preset == "base" else finetune_demo
            plan = recipe(kind, num_clips, epochs=epochs, batch_size=batch)
            plan = replace(plan, optim=replace(plan.optim, accumulate=accumulate), **changes)
            plan = set_fields(plan, fields, "maedfer finetune")
            if size is not None:  # of the encoder that fields name; set them again
                plan = replace(plan, model=sized(plan.model, size))
                plan = set_fields(plan, fields, "maedfer finetune")
            batch = plan.optim.batch_size
        return plan

    if checkpoint is not None:
        if size is not None:
            raise ValueError(f"size={size!r} is the checkpoint's own; leave one of the two out")
        start = planned(1)
        loaded = load_checkpoint(
            cast(Path, start.checkpoint), as_="classifier", num_classes=1,
            drop_path=start.model.drop_path,
        )  # fmt: skip
        changes["model"] = loaded.model.config
    data = labelled_data(planned(1), workers)
    config = planned(len(data.stream))
    return finetune(config, output=out, profile=f"preset {preset}", data=data, workers=workers,
                    tensorboard=tensorboard, compile=compile, checkpointing=checkpointing,
                    shard=shard)  # fmt: skip
