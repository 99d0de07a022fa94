"""One fine-tuning from a pre-trained and a random start, and linear probes of both, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.config import FinetuneConfig
from maedfer_lab.data.drawn_table import DrawnFaces
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.method.models import Classifier
from maedfer_lab.metrics import (
    linear_probe,
    map_features,
    neighbour_chance,
    neighbour_share,
)
from maedfer_lab.training.evaluation import Evaluation, Views, evaluate
from maedfer_lab.training.finetune import FinetunedRun, finetune, starting_model
from maedfer_lab.training.stream import labelled_table
from maedfer_lab.weights import shipped

PRETRAINED, SCRATCH = "pre-trained", "from scratch"
SHIPPED = "longer (shipped)"  # our own weights, fine-tuned for longer than a notebook may take
PROBES = {PRETRAINED: "pre-trained, frozen", SCRATCH: "random, frozen"}  # linear probes
CHUNK = 20  # clips whose features are made at a time


@dataclass(frozen=True)
class Starts:
    """Runs by start, tests by start or probe, and the test clips' features after pre-training."""

    runs: dict[str, FinetunedRun]
    tests: dict[str, Evaluation]
    features: Float[np.ndarray, "n d"]
    shipped_features: Float[np.ndarray, "m e"]

    def __str__(self) -> str:
        lines = [f"{'start':<22}{'UAR':>7}  {'95 % over clips':<17}{'WAR':>7}  95 % over clips"]
        for name, test in self.tests.items():
            cells = [f"{name:<22}"]
            for score, (low, high) in _intervals(test).items():
                cells.append(f"{test.scores[score]:>7.1%}  [{low:.1%}, {high:.1%}]".ljust(26))
            lines.append("".join(cells).rstrip())
        return "\n".join(lines)

    def neighbours(self, of: str = PRETRAINED) -> dict[str, dict[str, float]]:
        """How often the nearest clip shows the same class, the same person; and by chance.

        of: PRETRAINED, features before any label; SHIPPED, those of the longer fine-tuning.
        """
        test, features = (
            self.tests[of],
            self.features if of == PRETRAINED else self.shipped_features,
        )
        names: dict[str, Sequence] = {"class": test.labels.tolist(), "person": test.subjects}
        return {
            what: {"share": neighbour_share(features, n), "chance": neighbour_chance(n)}
            for what, n in names.items()
        }

    def numbers(self) -> dict[str, Any]:
        """What the figure draws."""
        first = self.tests[PRETRAINED]
        rows = [
            {"start": name, "scores": test.scores, "intervals": _intervals(test),
             "confusion": test.confusion.tolist()}
            for name, test in self.tests.items()
        ]  # fmt: skip
        return {
            "rows": rows,
            "classes": list(first.classes),
            "steps": self.runs[PRETRAINED].config.optim.last_step,
            "labels": first.labels.tolist(),
            "people": np.unique(np.array(first.subjects), return_inverse=True)[1].tolist(),
            "map": map_features(self.features).round(3).tolist(),
            "neighbours": self.neighbours(),
        }


def compare_starts(
    config: FinetuneConfig, *, output: Path | None = None, profile: str = "none"
) -> Starts:
    """Fine-tune from both starts (runs that have ended are loaded), probe both, test all alike.

    config: the fine-tuning that starts from a pre-training.
    """
    scratch = replace(config, mode="scratch", init=None, checkpoint=None)
    plans = {PRETRAINED: config, SCRATCH: scratch}
    runs = {name: finetune(one, output=output, profile=profile) for name, one in plans.items()}
    table, is_drawn = labelled_table(config), config.data is None
    table = table.middle() if isinstance(table, DrawnFaces) else table
    train, clips = table.split(config.fold)
    stride, framing = (1, "whole") if is_drawn else (config.stride, config.framing)
    tests = {
        name: evaluate(run.model, table, clips, stride=stride, segments=1 if is_drawn else 2,
                       framing=framing, precision=config.precision)
        for name, run in runs.items()
    }  # fmt: skip
    views = Views(config.model.frames, config.model.size_px, stride, 1, 1, framing=framing)
    labels, features = np.array([clip.label for clip in train]), np.empty((0, 0))
    for name, plan in plans.items():
        start, _ = starting_model(plan, len(table.classes), output, profile)
        known, unseen = (clip_features(start.eval(), table, part, views) for part in (train, clips))
        found = linear_probe(known, labels, unseen, len(table.classes))
        tests[PROBES[name]] = replace(tests[name], probabilities=found)
        features = unseen if name == PRETRAINED else features
    tests[SHIPPED], shipped_features = judge_shipped(config.num_test, config.seed)
    return Starts(runs, tests, features, shipped_features)


def judge_shipped(num_test: int, seed: int) -> tuple[Evaluation, Float[np.ndarray, "m e"]]:
    """Our shipped classifier of drawn expressions on unseen people, and its features.

    The clips are of its own size and harder than those of the short runs (difficulty 0.1).
    """
    model = load_checkpoint(shipped("demo-expressions")).model.eval()
    assert isinstance(model, Classifier)
    own = model.config
    shape = {"frames": own.frames, "size_px": own.size_px}
    table = DrawnFaces(1, num_test, **shape, difficulty=0.1, seed=seed).middle()
    _, clips = table.split(1)
    found = evaluate(model, table, clips, stride=1, segments=1, framing="whole")
    views = Views(own.frames, own.size_px, 1, 1, 1, framing="whole")
    return found, clip_features(model, table, clips, views)


@torch.no_grad()
def clip_features(
    model: Classifier, table: Annotations, clips: Sequence[Clip], views: Views
) -> Float[np.ndarray, "n d"]:
    """Mean of the tokens that the classifier reads, in the middle view of each clip."""
    found = []
    for at in range(0, len(clips), CHUNK):
        shown = [views.read(table.open(clip))[0][0] for clip in clips[at : at + CHUNK]]
        batch = torch.from_numpy(np.stack(shown)).permute(0, 4, 1, 2, 3).float().div(255)
        found.append(model.read_tokens(batch).mean(1))
    return torch.cat(found).double().numpy()


def _intervals(test: Evaluation) -> dict[str, tuple[float, float]]:
    found = test.intervals("clips") or {}
    return {name: found[name] for name in ("uar", "war")}
