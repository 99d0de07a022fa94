"""The verb `maedfer finetune`: a data set and a few choices in, a finished run out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import FinetuneConfig, ModelConfig, finetune_demo, finetune_recipe
from maedfer_lab.config.finetuning import Framing, Mode, framing_of
from maedfer_lab.training.finetune import FinetunedRun, finetune
from maedfer_lab.training.labelled import open_labelled

SYNTHETIC = "synthetic"
RECIPES = {"base": finetune_recipe, "demo": finetune_demo}


def finetune_command(
    dataset: str,
    /,
    *,
    root: Path | None = None,
    lists: Path | None = None,
    fold: int = 1,
    checkpoint: Path | None = None,
    mode: Mode = "finetune",
    preset: Literal["base", "demo"] = "demo",
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    holdout: float | None = None,
    framing: Framing | None = None,
    skip_broken: bool = False,
    seed: int = 0,
    workers: int = 0,
    tensorboard: bool = False,
    compile: bool = False,
    out: Path | None = None,
) -> FinetunedRun:
    """Fine-tune a classifier on labelled clips; finished runs load, partial ones go on.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface; folder (a folder per class), csv,
        shards (of maedfer prepare), or synthetic (faces that need no data).
    root: folder of the clips or shards.
    lists: folder of the split lists, if they do not lie below root.
    fold: the fold that is the test set.
    checkpoint: what to start from: an official file, a folder of weights, or a run of maedfer
        pretrain; its model is taken. Without it the start is random.
    mode: finetune; scratch (a random start); linear (fc_norm and head on a frozen encoder).
    preset: base is the published recipe, demo takes minutes on a CPU.
    epochs: in place of the preset's own.
    batch_size: of all processes together, in place of the preset's own.
    accumulate: parts in which a process takes its share of a batch, for less memory.
    holdout: share of the training clips that validates the epochs; without it the test fold does.
    framing: whole stretches the picture to a square, face cuts around the face. By default face
        for folder and csv, whole for the rest.
    skip_broken: look at every clip before the start and leave out those that cannot be read.
    seed: of weights and clips.
    workers: processes that read clips.
    tensorboard: write the log also for TensorBoard.
    compile: run the model through torch.compile: minutes first, then perhaps faster steps.
    out: folder under which runs/ is written.
    """
    if dataset == SYNTHETIC and root is not None:
        raise ValueError(f"dataset={SYNTHETIC!r} draws its clips; leave root={str(root)!r} out")
    if dataset != SYNTHETIC and root is None:
        raise ValueError(f"root is missing; name the folder of {dataset}, or try {SYNTHETIC!r}")
    kind = dataset
    if dataset == "shards" and root is not None:
        from maedfer_lab.data.shards import open_shards

        kind = open_shards(root).dataset
    changes: dict[str, Any] = {
        "dataset": dataset,
        "data": _absolute(root),
        "lists": _absolute(lists),
        "fold": fold,
        "checkpoint": _absolute(checkpoint),
        "mode": mode,
        "holdout": holdout,
        "framing": framing or framing_of(dataset),
        "skip_broken": skip_broken,
        "seed": seed,
    }

    def planned(num_clips: int) -> FinetuneConfig:
        plan = RECIPES[preset](kind, num_clips, epochs=epochs, batch_size=batch_size)
        return replace(plan, optim=replace(plan.optim, accumulate=accumulate), **changes)

    if checkpoint is not None:
        changes["model"] = _model_of(planned(1))
    stream = open_labelled(planned(1), workers)
    config = stream.config = planned(stream.num_train)
    return finetune(
        config,
        output=out,
        profile=f"preset {preset}",
        stream=stream,
        workers=workers,
        tensorboard=tensorboard,
        compile=compile,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()


def _model_of(config: FinetuneConfig) -> ModelConfig:
    """The model of the checkpoint, with the recipe's drop path."""
    loaded = load_checkpoint(
        cast(Path, config.checkpoint),
        as_="classifier",
        num_classes=1,
        drop_path=config.model.drop_path,
    )
    return loaded.model.config
