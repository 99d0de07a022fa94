"""Sections "data" and "evaluation": clips ready for a step, and a whole test set."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from maedfer_lab.bench import plain
from maedfer_lab.bench.measuring import NUM_CLASSES, Bench, Work, Works
from maedfer_lab.bench.model import Pair, classifiers
from maedfer_lab.config import Augment, FinetuneConfig, Precision, finetune_recipe, tiny
from maedfer_lab.cost.memory import cpu_threads
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.data.transforms import clip_indices, to_floats, training_indices
from maedfer_lab.data.writing import write_video
from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.method.models import build_classifier
from maedfer_lab.runs import Run
from maedfer_lab.training.evaluation import ClipViews, Views, evaluate, view_probabilities
from maedfer_lab.training.finetune import FinetuneTask
from maedfer_lab.training.optim import mixed_precision
from maedfer_lab.training.stream import RunData, labelled_data, pretraining_data

STRIDE, SEGMENTS, CROPS = 4, 2, 2  # of a test, as published


def drawn_frames(number: int, frames: int, seed: int = 0) -> list[np.ndarray]:
    """A drawn face of 224 px with noise: without it files would be unrealistically small."""
    faces = SyntheticFaces(number + 1, "test", num_frames=frames, size_px=224, seed=seed)
    rng = np.random.default_rng([seed, number])
    return [(frame + rng.normal(0, 3.0, frame.shape)).round().clip(0, 255).astype(np.uint8)
            for frame in faces[number].frames]  # fmt: skip


def videos(bench: Bench) -> dict[str, Path]:
    """Drawn faces as folders of MP4, of JPEGs, and of shards: "face" at 160 px, "roomy" at 192."""
    folders = {name: bench.folder / name for name in ("MP4", "JPEGs", "shards", "roomy")}
    if folders["roomy"].is_dir():
        return folders
    lengths = (20, 24, 28, 32) if bench.smoke else tuple(range(72, 144, 12))  # 3 to 5 s at 25 fps
    rows = {name: ["path,label,fold,subject"] for name in ("MP4", "JPEGs")}
    for number, frames in enumerate(lengths):
        name = f"id{number:05d}_{frames}"
        mp4, jpegs = folders["MP4"] / name / f"{name}.mp4", folders["JPEGs"] / name
        pictures = drawn_frames(number, frames, bench.seed)
        for path in (mp4.parent, jpegs):
            path.mkdir(parents=True)
        write_video(mp4, pictures, 25.0)
        for place, picture in enumerate(pictures):
            Image.fromarray(picture).save(jpegs / f"{place:05d}.jpg", quality=95)
        tested = int(frames == lengths[-1])  # the others are trained on
        for key, path in (("MP4", mp4), ("JPEGs", jpegs)):
            place = path.relative_to(folders[key])
            rows[key].append(f"{place},{('calm', 'smile')[number % 2]},{tested},{name}")
    for key, lines in rows.items():
        (folders[key] / "annotations.csv").write_text("\n".join(lines) + "\n")
    for name, margin in (("shards", 1.0), ("roomy", 1.2)):
        prepare(read_annotations("csv", folders["JPEGs"]), folders[name], margin=margin,
                size_px=bench.model().size_px, framing="whole", workers=0)  # fmt: skip
    return folders


def check_decoding(bench: Bench) -> None:
    """Our frames equal those of plain code, byte for byte; shards are re-encoded."""
    folders, indices = videos(bench), [0, 3, 7, 19]
    for name in ("MP4", "JPEGs"):
        path = read_annotations("csv", folders[name]).clips[0].path
        want = np.stack([np.asarray(x) for x in plain.read_frames(path, lambda _: indices)])
        difference = np.abs(open_video(path).read(indices).astype(int) - want).max() / 255
        bench.check(f"decoded frames, {name}", float(difference))
    clip = labelled(bench, folders["shards"]).stream.clips[0]
    shown = open_video(clip.path).read(indices)
    pictures = plain.read_frames(folders["JPEGs"] / clip.path.name, lambda _: indices)
    small = [np.asarray(x.resize(shown.shape[1:3], plain.BILINEAR)) for x in pictures]
    difference = np.abs(shown.astype(int) - np.stack(small)).mean() / 255
    bench.check("decoded frames, shards: mean difference", float(difference), None)


def training_clips(bench: Bench) -> None:
    """Pre-training's random stretch and crop; fine-tuning's published transform; as floats."""
    bench.notes.append(
        "data: seconds of one core, PyTorch with one thread as in a worker that reads clips; the "
        "floor is to decode the same frames; what ours leaves to the device (floats, erasing, "
        "mixing) has a row of its own, where the plain way does the same work; drawn faces with "
        "grain, 224 px, 72 to 132 frames"
    )
    folders, num, augment = videos(bench), 2 if bench.smoke else 8, Augment()
    model, stride = bench.model(), bench.recipe().stride
    shape = model.frames, stride, model.size_px
    kinds: tuple[tuple[str, Any, Any], ...] = (
        ("pre-training", clip_indices,
         lambda clip, rng: plain.pretraining_clip(clip.path, *shape, rng)),
        ("fine-tuning", training_indices,
         lambda clip, rng: plain.finetuning_clip(clip.path, *shape, augment, rng)),
    )  # fmt: skip
    for kind, choose, plainly in kinds:
        works: dict[str, Works] = {}
        for name in ("MP4", "JPEGs", "shards"):
            if kind == "fine-tuning":
                stream = labelled(bench, folders[name]).stream
            else:
                shards = {"data": folders["roomy"], "framing": "face"}
                other = {"data": folders[name], "framing": "voxceleb2"}
                where: dict[str, Any] = shards if name == "shards" else other
                stream = pretraining_data(replace(bench.recipe(), **where)).stream

            def decode(clip: Clip, rng: np.random.Generator, choose: Any = choose) -> None:
                reader = open_video(clip.path)
                reader.read(choose(len(reader), *shape[:2], rng))

            by_hand = _batches(num, _draws(stream.clips, plainly), torch.stack)
            works[f"{kind} clip, {name}"] = Works(
                _batches(num, lambda items, s=stream: [s[i] for i in items]),
                _batches(num, _draws(stream.clips, decode), None),
                by_hand if name != "shards" else None,
            )
        if kind == "fine-tuning":
            left = _on_the_device(bench, labelled(bench, folders["shards"]), num)
            works["fine-tuning clip, on the device"] = left
        with cpu_threads(1):  # idle threads spin, and process time counts that
            bench.measure("data", works, num, most=27, clock=time.process_time)


def _on_the_device(bench: Bench, data: RunData, num: int) -> Works:
    """What is left for the device, and the same work plainly: floats, erasing, mixing."""
    classes, steps, augment = len(data.table.classes), count(), Augment()
    asked = build_classifier(tiny().model, classes)  # the task asks for a model; it never runs
    task = FinetuneTask(recipe(bench, "shards"), asked, data, Run(bench.folder))
    frames, labels = default_collate([data.stream[i] for i in range(num)])
    batch = frames.to(bench.device), labels.to(bench.device)

    def plainly() -> None:
        clips = plain.finished(frames, augment).to(bench.device)
        plain.mixed(clips, batch[1], classes, augment)

    return Works(lambda: task.finish(batch, next(steps), range(num)), plain=plainly)


def recipe(bench: Bench, dataset: str) -> FinetuneConfig:
    """The published fine-tuning, of the bench's model."""
    usual = finetune_recipe(dataset, 1)
    optim = replace(usual.optim, batch_size=2 if bench.smoke else 8)
    return replace(usual, model=bench.model(), stride=bench.recipe().stride, optim=optim,
                   framing="whole", seed=bench.seed)  # fmt: skip


def labelled(bench: Bench, folder: Path) -> RunData:
    """The labelled clips of a folder as fine-tuning reads them."""
    config = recipe(bench, "shards" if folder.name == "shards" else "csv")
    with warnings.catch_warnings():  # nothing is validated here
        warnings.simplefilter("ignore")
        return labelled_data(replace(config, data=folder))


def _batches(
    num: int, read: Callable[[list[int]], list[Any]], collate: Any = default_collate
) -> Work:
    """Read the next `num` items of an endless stream at each call."""
    numbers, collate = count(), collate or list
    return lambda: collate(read([next(numbers) for _ in range(num)]))


def _draws(
    clips: Sequence[Clip], read: Callable[[Clip, np.random.Generator], Any]
) -> Callable[[list[int]], list[Any]]:
    """Read clips in a cycle, with new random draws each time."""
    return lambda items: [read(clips[i % len(clips)], np.random.default_rng(i)) for i in items]


# ---------------------------------------------------------------------------- evaluation


def tested_videos(bench: Bench) -> tuple[Annotations, Sequence[Clip]]:
    """A few labelled videos as folders of JPEGs, in a table of seven classes."""
    table = read_annotations("csv", videos(bench)["JPEGs"])
    table = replace(table, classes=tuple(f"class {number}" for number in range(NUM_CLASSES)))
    return table, table.clips[-(2 if bench.smoke else 3) :]


def whole_test(bench: Bench) -> None:
    """A test set from files to probabilities, in float32 and bf16, all in turn."""
    table, clips = tested_videos(bench)
    pair, works = classifiers(bench), dict[str, Works]()

    def ours(precision: Precision) -> Any:
        return evaluate(
            pair.ours, table, clips, stride=STRIDE, segments=SEGMENTS, crops=CROPS,
            precision=precision,
        )  # fmt: skip

    exact = ours("float32")
    check_probabilities(bench, pair, table, clips, exact.probabilities)
    views = _views(bench)
    frames = torch.from_numpy(np.concatenate([views.read(table.open(clip))[0] for clip in clips]))
    for precision in bench.precisions:
        works[f"evaluation, {precision}"] = Works(
            partial(ours, precision),
            partial(view_probabilities, pair.ours, frames, precision),
            partial(plain_test, bench, pair, clips, precision),
        )
        if precision != "float32":
            half = ours(precision)
            moved = float(np.abs(half.probabilities - exact.probabilities).max())
            bench.check(f"probabilities in {precision} against float32", moved, None)
            changed = int((half.guesses != exact.guesses).sum())
            bench.notes.append(f"evaluation in {precision}: {changed} of {len(clips)} predictions "
                               "differ from float32")  # fmt: skip
    # The checks have warmed everything up.
    bench.measure("evaluation", works, len(clips), "video", warm_up=False)
    bench.notes.append(
        "evaluation: folders of JPEGs, 2 windows x 2 crops; the plain way reads every fourth frame "
        "of a video for each of its four views, as published; the floor is the model alone, on "
        "the views that differ"
    )


def test_data(bench: Bench) -> None:
    """Reading the views of the same videos, without any model."""
    table, clips = tested_videos(bench)
    read = ClipViews(table, clips, _views(bench))
    works = Works(lambda: [read[number] for number in range(len(clips))],
                  plain=lambda: [plain_views(bench, clip) for clip in clips])  # fmt: skip
    bench.measure("evaluation", {"data of an evaluation": works}, len(clips), "video")


@torch.no_grad()
def plain_test(bench: Bench, pair: Pair, clips: Sequence[Clip], precision: Precision) -> Tensor:
    """Probabilities (n k): four views of each video, each read and run for itself."""
    found = []
    for clip in clips:
        views = torch.stack(plain_views(bench, clip)).to(bench.device)
        with mixed_precision(precision, bench.device):
            logits = plain.classify(pair.state, views, pair.arguments)
        found.append(logits.float().cpu().double().softmax(1).mean(0))
    return torch.stack(found)


def plain_views(bench: Bench, clip: Clip) -> list[Tensor]:
    """The four views of a video, normalised; crops of frames of their size are all the same."""
    shape = bench.model().frames, STRIDE, bench.model().size_px
    return [plain.test_view(clip.path, *shape, at, SEGMENTS)
            for at in range(SEGMENTS) for _ in range(CROPS)]  # fmt: skip


def _views(bench: Bench) -> Views:
    return Views(bench.model().frames, bench.model().size_px, STRIDE, SEGMENTS, CROPS)


@torch.no_grad()
def check_probabilities(
    bench: Bench, pair: Pair, table: Annotations, clips: Sequence[Clip], exact: np.ndarray
) -> None:
    """Equal probabilities from the same views, and from the files."""
    read, same = ClipViews(table, clips, _views(bench)), []
    for number in range(len(clips)):
        _, shown, weights, *_ = read[number]
        views = to_floats(torch.from_numpy(shown)).to(bench.device)
        same.append(weights @ pair.logits(views).cpu().double().softmax(1).numpy())
    from_files = plain_test(bench, pair, clips, "float32").numpy()
    for name, other in (("equal pixels", np.stack(same)), ("its files", from_files)):
        bench.check(f"probabilities of a test set, from {name}", float(np.abs(exact - other).max()))
