"""Section "gpu": whole steps on a GPU, eager, compiled and captured, on bytes in its memory.

For comparison plain code, the products alone, the host's launches, and the readers' throughput.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from maedfer_lab.bench.clips import drawn_frames
from maedfer_lab.bench.floor import products_of, replay
from maedfer_lab.bench.measuring import NUM_CLASSES, Bench, Work
from maedfer_lab.bench.model import make_pair
from maedfer_lab.config import finetune_recipe, num_cores
from maedfer_lab.cost.formula import total_macs
from maedfer_lab.data.prepare import Store, prepare
from maedfer_lab.data.table import read_annotations
from maedfer_lab.data.writing import write_video
from maedfer_lab.method import models
from maedfer_lab.method.attention import Attention
from maedfer_lab.training.device import (
    Compile,
    compile_blocks,
    moved,
    one_ahead,
    synchronize,
)
from maedfer_lab.training.estimate import RandomTask
from maedfer_lab.training.loop import Stepper
from maedfer_lab.training.optim import mixed_precision
from maedfer_lab.training.stream import pretraining_data, read_batches

ROUNDS = 8  # of each row, after three to warm up
LONG_S = 150.0  # after which no piece is begun: the whole is to take three minutes
FEED_S = 8.0  # of reading
FEW = 16  # `Attention.few` in the row with regions as sums
HOW = {"no": "issued", "block": "compiled", "graph": "captured"}


def steps_and_feed(bench: Bench) -> None:
    """Pre-training at three batches, fine-tuning at two, evaluation, and the loader's feed."""
    began, is_cuda = time.monotonic(), bench.device.type == "cuda"
    small, usual, tested, tuned = (2, 4, 4, 2) if bench.smoke else (20, 160, 128, 48)
    block: tuple[Compile, ...] = ("block",) if is_cuda else ()
    graph: tuple[Compile, ...] = ("graph",) if is_cuda else ()
    pieces = [  # what matters most comes first
        *(partial(pretraining, num=usual, way=way) for way in (*graph, "no")),
        partial(pretraining, num=usual, way=(*graph, "no")[0], few=FEW),
        *(partial(evaluation, num=tested, way=way) for way in (*block, "no")),
        *(partial(finetuning, num=2 * tuned, way=way) for way in (*graph, "no")),
        *(partial(feed, store=store) for store in get_args(Store)),
        *(partial(pretraining, num=usual, way=way) for way in block),
        *(partial(finetuning, num=tuned, way=way) for way in (*graph, "no")),
        partial(beside, num=usual),
        *(partial(pretraining, num=small, way=way) for way in (*graph, "no")),
        partial(largest, usual=usual),
    ]
    for piece in pieces:
        title = " ".join(map(str, (piece.func.__name__, *piece.keywords.values())))
        if time.monotonic() - began > LONG_S and not bench.smoke:
            bench.notes.append(f"gpu: {title} was left out: no time")
            continue
        try:
            piece(bench)
        except KeyboardInterrupt:
            bench.notes.append(f"gpu: stopped at {title}")
            break
        except RuntimeError as error:  # out of memory, not compiled: the others count
            if not is_cuda:
                raise
            bench.notes.append(f"gpu: {title} FAILED: {error}")
        gc.collect()
        if is_cuda:
            torch.cuda.empty_cache()


def _title(work: str, num: int, way: str) -> str:
    return f"LGI-B {work}, {num} clips, {HOW.get(way, way)}"


def pretraining(bench: Bench, num: int, way: Compile, few: int = 0) -> None:
    """A step of the recipe on clips in memory. few: `Attention.few`, which compiled blocks use."""
    recipe = replace(bench.recipe(), precision=bench.precisions[-1])
    recipe = replace(recipe, optim=replace(recipe.optim, batch_size=num, accumulate=1))
    forward = total_macs(recipe.model, "pretrain", mask_ratio=recipe.mask_ratio[0])
    title = _title("pre-training step", num, way) + ", regions as sums" * bool(few)
    task = RandomTask(recipe)
    for module in task.model.modules():
        if isinstance(module, Attention):
            module.few = few
    steps(bench, title, task, num, way, 3 * forward)


def finetuning(bench: Bench, num: int, way: Compile) -> None:
    """A step of the published fine-tuning on clips in memory, without mixing."""
    recipe = finetune_recipe("dfew", num, batch_size=num)
    model = replace(bench.model(), drop_path=0.1, legacy_visible_order=False)
    recipe = replace(recipe, model=model, precision=bench.precisions[-1], mix_group=None)
    title = _title("fine-tuning step", num, way)
    steps(bench, title, RandomTask(recipe), num, way, 3 * total_macs(model, "classify"))


def steps(bench: Bench, title: str, task: Any, num: int, way: Compile, work_macs: int) -> None:
    """Add the rows of a step and of its issuing; of a pre-training also what the device ran."""
    stepper, model = Stepper(task, way), task.model.config
    shape = num, model.frames, model.size_px, model.size_px, 3
    frames = torch.randint(256, shape, dtype=torch.uint8)
    batch = moved(task.prepare(frames, 0, range(num)), bench.device)
    issued: list[float] = []

    def step() -> None:
        began = time.perf_counter()
        stepper.step(0, iter([batch]), stepper.shares)
        issued.append(time.perf_counter() - began)
        synchronize(bench.device)

    try:
        timed(bench, title, step, num, work_macs)
        if stepper.compiled != way:
            bench.notes.append(f"{title}: FAILED, so it ran as compile={stepper.compiled!r}")
        kept = issued[-(1 if bench.smoke else ROUNDS) :]
        bench.add("gpu", f"{title}: issued by the host", {"ours": kept}, "step")
        if way != "block":
            bench.notes.append(f"{title}\n{device_profile(step, bench.device)}")
    finally:
        stepper.close()


def timed(bench: Bench, title: str, step: Work, num: int, work_macs: int) -> None:
    """Add a row: seconds of each round, and peak memory."""
    is_cuda, taken = bench.device.type == "cuda", list[float]()
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    for _ in range(2 if bench.smoke else 3 + ROUNDS):
        before = time.perf_counter()
        step()
        taken.append((time.perf_counter() - before) / num)
    memory = {"ours": torch.cuda.max_memory_allocated(bench.device)} if is_cuda else {}
    bench.add("gpu", title, {"ours": taken[-(1 if bench.smoke else ROUNDS) :]}, "clip", memory,
              work_macs, bench.precisions[-1])  # fmt: skip


def beside(bench: Bench, num: int) -> None:
    """For comparison: forward and backward in plain code, and our matrix products alone."""
    recipe, clips = bench.recipe(), bench.noise(num)
    pair = make_pair(models.build_autoencoder(recipe.model), bench.device)
    generator = torch.Generator().manual_seed(0)
    mask = models.model_mask(pair.ours, recipe.mask_ratio[0], num, generator)
    work_macs = 3 * total_macs(recipe.model, "pretrain", mask_ratio=recipe.mask_ratio[0])

    def pass_of(loss: Callable[[], Tensor]) -> None:
        with mixed_precision(bench.precisions[-1], bench.device):
            value = loss()
        value.backward()
        pair.clear()
        synchronize(bench.device)

    plainly = partial(pass_of, lambda: pair.reconstruct(clips, mask)[1])
    ours = partial(pass_of, lambda: pair.ours(clips, mask).loss.total)
    alone = captured(replay(products_of(ours, pair.ours), bench.device), bench.device)
    for way, work in (("written plainly", plainly), ("products alone", alone)):
        timed(bench, _title("pre-training step", num, way), work, num, work_macs)


def captured(work: Work, device: torch.device) -> Work:
    """The same work as a CUDA graph, where there is one."""
    work()
    if device.type != "cuda":
        return work
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def run() -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    return run


def largest(bench: Bench, usual: int) -> None:
    """A step of the largest batch that should fit, judged by the usual one's memory."""
    named = {row["name"]: row for row in bench.rows}
    row = named.get(_title("pre-training step", usual, "no"))
    if row is None or not row["memory"]:
        return
    free = torch.cuda.mem_get_info(bench.device)[0]
    num = int(0.8 * free / row["memory"]["ours"] * usual) // 80 * 80
    pretraining(bench, max(num, usual), "no")


def evaluation(bench: Bench, num: int, way: Compile) -> None:
    """A forward pass of the classifier."""
    model: nn.Module = models.build_classifier(bench.model(), NUM_CLASSES).eval().to(bench.device)
    if way != "no":
        compile_blocks(model)
    clips = bench.noise(num)

    def run() -> None:
        with torch.no_grad(), mixed_precision(bench.precisions[-1], bench.device):
            model(clips)
        synchronize(bench.device)

    title, work_macs = _title("evaluation", num, way), total_macs(bench.model(), "classify")
    timed(bench, title, run, num, work_macs)


def feed(bench: Bench, store: Store) -> None:
    """Clips per second that workers read from shards onto the device; nothing is trained."""
    workers = 1 if bench.smoke else reading_workers()
    shards = draw_shards(bench.folder, 4 if bench.smoke else 12, store)
    framing = "face" if bench.smoke else "voxceleb2"  # the tiny model's clips are smaller
    stream = pretraining_data(replace(bench.recipe(), data=shards, framing=framing)).stream
    size = 4 if bench.smoke else 160
    numbers = ([*range(first, first + size)] for first in itertools.count(0, size))
    loaded = read_batches(stream, numbers, workers, stream.name,
                          pin_memory=bench.device.type == "cuda")  # fmt: skip
    taken, began = [], time.perf_counter()
    for number, _ in enumerate(one_ahead(loaded, bench.device)):
        synchronize(bench.device)
        now = time.perf_counter()
        if number > workers:  # every worker has delivered one
            taken.append((now - began) / size)
        began = now
        if sum(taken) * size > (0.1 if bench.smoke else FEED_S):
            break
    title = f"feed of batches of {size}, {workers} workers, {store} shards"
    bench.add("gpu", title, {"ours": [sum(taken) / len(taken)]})


def reading_workers() -> int:
    """All cores but two."""
    return max(1, num_cores() - 2)


def draw_shards(folder: Path, clips: int, store: Store, frames: int = 64) -> Path:
    """Drawn faces of 224 px under VoxCeleb2's names, prepared as its shards."""
    for number in range(clips):
        file = folder / "videos" / f"id{number:05d}" / "drawn" / "00001.mp4"
        if not file.exists():
            file.parent.mkdir(parents=True)
            write_video(file, drawn_frames(number, frames), 25.0)
    table = read_annotations("voxceleb2", folder / "videos")
    prepare(table, folder / store, framing="whole", margin=1.4, store=store, workers=0,
            progress=False)  # fmt: skip
    return folder / store


def device_profile(step: Work, device: torch.device, rows: int = 8) -> str:
    """A profile of one step on the device: launches, copies, and the slowest kernels."""
    if device.type != "cuda":
        return "(no device of its own to profile)"
    from torch.autograd import DeviceType  # type: ignore (not in its stubs)

    with torch.profiler.profile() as seen:
        step()
    happened = seen.events() or []
    events = [event for event in happened if event.device_type == DeviceType.CUDA]
    times = defaultdict[str, list[float]](list)
    for event in events:
        times[event.name[:70]].append(event.time_range.elapsed_us())
    total = sum(map(sum, times.values()))
    calls = sum("Launch" in event.name for event in happened)
    lines = [f"{len(events):,} kernels and copies of {total / 1e3:.1f} ms, by {calls:,} launches"]
    for name, each in sorted(times.items(), key=lambda item: -sum(item[1]))[:rows]:
        lines.append(f"{sum(each) / total:6.1%} {len(each):5,} x {name}")
    return "\n".join(lines)
