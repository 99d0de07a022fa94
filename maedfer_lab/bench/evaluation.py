"""Section "evaluation": a test set from files to probabilities, and its data part alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maedfer_lab.bench import plain, plain_data
from maedfer_lab.bench.clips import make_videos
from maedfer_lab.bench.report import Check, Findings, Row, checked
from maedfer_lab.bench.settings import NUM_CLASSES, Settings
from maedfer_lab.bench.timing import Work, pick
from maedfer_lab.bench.twins import Twins, classifier_twins, plain_logits
from maedfer_lab.config import ModelConfig, Precision
from maedfer_lab.data.clips import to_floats
from maedfer_lab.data.memory import keep_freed_memory
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.training.evaluation import (
    ClipViews,
    Evaluation,
    Views,
    evaluate,
    view_probabilities,
)
from maedfer_lab.training.optim import mixed_precision

STRIDE, SEGMENTS, CROPS = 4, 2, 2  # as published
NUM_VIDEOS = 3
NOTE = (
    "evaluation: folders of JPEGs, 2 windows x 2 crops; the plain way reads every fourth frame of "
    "a video for each of its four views, as published; the floor is the model alone, on the views "
    "that differ"
)


def steps(settings: Settings) -> Iterator[tuple[str, Callable[[Findings], None]]]:
    """The pieces of this section: what is measured, and the function that adds its rows."""
    keep_freed_memory()  # as `evaluate` does; both ways gain from it
    yield "test set", lambda found: whole(settings, found)
    yield "data of a test set", lambda found: data_alone(settings, found)


def labelled_videos(settings: Settings) -> tuple[Annotations, Sequence[Clip]]:
    """A few labelled videos as folders of JPEGs, in a table of seven classes."""
    table = make_videos(settings).table()
    table = replace(table, classes=tuple(f"class {number}" for number in range(NUM_CLASSES)))
    return table, table.clips[-(2 if settings.smoke else NUM_VIDEOS) :]


def whole(settings: Settings, found: Findings) -> None:
    """Ours and the plain way in float32 and bf16, all in turn."""
    table, clips = labelled_videos(settings)
    twins = classifier_twins(settings, "lgi")
    exact = test_ours(twins, table, clips, "float32")
    found.checks += check_probabilities(twins, table, clips, exact)
    views = _views(twins.ours.config)
    shown = np.concatenate([views.read(table.open(clip))[0] for clip in clips])
    frames = torch.from_numpy(shown)
    works: dict[str, Work] = {}
    for precision in settings.precisions:

        def ours(precision: Precision = precision) -> Evaluation:
            return test_ours(twins, table, clips, precision)

        def way(precision: Precision = precision) -> Tensor:
            return test_plain(twins, clips, precision)

        def model_alone(precision: Precision = precision) -> Tensor:
            return view_probabilities(twins.ours, frames, precision)

        name = f"evaluation, {precision}"
        works |= {f"{name} ours": ours, f"{name} plain": way, f"{name} floor": model_alone}
        if precision != "float32":
            half = ours()
            moved = float(np.abs(half.probabilities - exact.probabilities).max())
            found.checks.append(Check(f"probabilities in {precision} against float32", moved, None))
            changed = int((half.guesses != exact.guesses).sum())
            found.notes.append(f"evaluation in {precision}: {changed} of {len(clips)} decisions "
                               "are others than in float32")  # fmt: skip
    taken = settings.watch.alternate(works, warm_up=False)  # the checks have warmed up
    for precision in settings.precisions:
        name = f"evaluation, {precision}"
        sides = {side: timing.per(len(clips)) for side, timing in pick(taken, name).items()}
        found.rows.append(Row("evaluation", name, **sides, item="video"))
    found.notes.append(NOTE)


def data_alone(settings: Settings, found: Findings) -> None:
    """Reading the views of the same videos, without any model."""
    table, clips = labelled_videos(settings)
    config = settings.model("lgi")
    read = ClipViews(table, clips, _views(config))

    def ours() -> None:
        for number in range(len(clips)):
            read[number]

    works = {"ours": ours, "plain": lambda: [plain_views(clip, config) for clip in clips]}
    taken = settings.watch.alternate(works)
    sides = {side: timing.per(len(clips)) for side, timing in pick(taken).items()}
    found.rows.append(Row("evaluation", "data of an evaluation", **sides, item="video"))


def test_ours(
    twins: Twins, table: Annotations, clips: Sequence[Clip], precision: Precision
) -> Evaluation:
    """`evaluate` as its users call it."""
    options = {"stride": STRIDE, "segments": SEGMENTS, "crops": CROPS}
    return evaluate(twins.ours, table, clips, **options, precision=precision)  # type: ignore


@torch.no_grad()
def test_plain(twins: Twins, clips: Sequence[Clip], precision: Precision) -> Tensor:
    """Probabilities (n k): four views of each video, each read and run for itself."""
    found = []
    for clip in clips:
        views = torch.stack(plain_views(clip, twins.ours.config)).to(twins.device)
        with mixed_precision(precision, twins.device):
            logits = plain.classify(twins.state, views, twins.arguments)
        found.append(logits.float().cpu().double().softmax(1).mean(0))
    return torch.stack(found)


def plain_views(clip: Clip, config: ModelConfig) -> list[Tensor]:
    """The four views of a video, normalised."""
    return [
        plain_data.test_view(clip.path, config.frames, STRIDE, config.size_px, segment, SEGMENTS)
        for segment in range(SEGMENTS)
        for _ in range(CROPS)  # crops of frames that are no larger than the crop are all the same
    ]


def _views(config: ModelConfig) -> Views:
    return Views(config.frames, config.size_px, STRIDE, SEGMENTS, CROPS)


@torch.no_grad()
def check_probabilities(
    twins: Twins, table: Annotations, clips: Sequence[Clip], exact: Evaluation
) -> list[Check]:
    """Equal probabilities from the same views, and from the files."""
    read = ClipViews(table, clips, _views(twins.ours.config))
    same = []
    for number in range(len(clips)):
        found = read[number]
        views = to_floats(torch.from_numpy(found.views)).to(twins.device)
        probabilities = plain_logits(twins, views).cpu().double().softmax(1)
        same.append(found.weights @ probabilities.numpy())
    apart = float(np.abs(exact.probabilities - np.stack(same)).max())
    whole = test_plain(twins, clips, "float32").numpy()
    from_files = float(np.abs(exact.probabilities - whole).max())
    return [
        checked("probabilities of a test set, from equal pixels", apart),
        checked("probabilities of a test set, from its files", from_files),
    ]
