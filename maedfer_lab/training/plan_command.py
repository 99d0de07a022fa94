"""The verb `maedfer plan`: project a pre-training to other machines than this one."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from maedfer_lab.config import EncoderKind, PresetName, PretrainConfig
from maedfer_lab.config import preset as named_preset
from maedfer_lab.cost.plan import CardName, Form, Input, Inputs, Plan, plan, usual_inputs
from maedfer_lab.data.folder import find_videos
from maedfer_lab.data.shard_format import is_prepared, open_index, place
from maedfer_lab.training.stream import pretraining_data, read_batches

STARTING = 2  # clips before the clock starts: worker and decoder come up
SECONDS = 10.0  # of reading


def plan_command(
    preset: PresetName = "base",
    /,
    *,
    encoder: EncoderKind = "lgi",
    gpus: tuple[int, ...] = (1, 4, 8, 64),
    clips_per_gpu: int | None = None,
    card: CardName = "A100",
    form: Form = "shards",
    data: Path | None = None,
    utilisation: float | None = None,
    issue: float | None = None,
    cores_per_gpu: float | None = None,
    clips_per_core: float | None = None,
    mb_per_clip: float | None = None,
    storage: float | None = None,
    gpus_per_machine: int | None = None,
    network: float | None = None,
    overlap: float | None = None,
    reached: float | None = None,
) -> Plan:
    """Project the hours of a pre-training on 1 to many GPUs, and name the bottleneck.

    Arithmetic on counts, measurements and data sheets; each number says where it comes from.

    preset: the recipe to project; base is the paper's.
    encoder: lgi is LGI-Former, vit joint attention as in VideoMAE.
    gpus: numbers of GPUs, one row each.
    clips_per_gpu: batch per GPU; without it the recipe's batch is shared by all.
    card: the GPU, by its data sheet.
    form: what clips are read from: mp4, or shards of maedfer prepare.
    data: a folder of such clips, to measure how many a core of this machine reads.
    utilisation: achieved / data-sheet FLOP/s.
    issue: seconds to launch the operators of a step; torch.compile and CUDA graphs shorten it.
    cores_per_gpu: CPU cores for reading, per GPU.
    clips_per_core: clips that one core reads in a second.
    mb_per_clip: megabytes that are read for a clip.
    storage: read bandwidth of all processes together, in GB/s.
    gpus_per_machine: GPUs joined by the card's own links.
    network: bandwidth of each GPU to other machines, in GB/s.
    overlap: share of the backward pass that overlaps with the all-reduce.
    reached: achieved / data-sheet bandwidth.
    """
    config = named_preset(preset, encoder)
    if data is not None:
        data = data.expanduser()
        form = "shards" if is_prepared(data) else "mp4"
    inputs = usual_inputs(card, form)
    if data is not None:
        inputs = measure_reading(replace(config, data=data), inputs, seconds=SECONDS)
    inputs = inputs.given(
        utilisation=utilisation,
        issue=issue,
        cores_per_gpu=cores_per_gpu,
        clips_per_core=clips_per_core,
        mb_per_clip=mb_per_clip,
        storage=storage,
        gpus_per_machine=gpus_per_machine,
        network=network,
        overlap=overlap,
        reached=reached,
    )
    return plan(config, gpus, inputs, clips_per_gpu=clips_per_gpu)


def measure_reading(config: PretrainConfig, inputs: Inputs, *, seconds: float) -> Inputs:
    """The inputs with what one worker process reads here of the clips at `config.data`.

    As in training: decoded, cropped and handed over by a worker. Bytes are those of whole files
    of videos, and of a clip's frames of shards.
    """
    assert config.data is not None
    source: Any = pretraining_data(config).stream
    batches = ([index] for index in itertools.count())
    loaded = read_batches(source, batches, 1, source.name)
    shown = tqdm(desc="reading", unit="clip", leave=False)
    began, read = 0.0, -STARTING
    for _ in loaded:
        shown.update()
        read += 1
        if read == 0:
            began = time.perf_counter()
        if read > 0 and time.perf_counter() - began > seconds:
            break
    taken = time.perf_counter() - began
    shown.close()
    where = f"one worker process here: {read} clips of {config.data.name}"
    return replace(
        inputs,
        clips_per_core=Input(round(read / taken, 1), "clips/s", "measured", where),
        mb_per_clip=_megabytes(config.data, config.model.frames),
    )


def _megabytes(data: Path, frames: int) -> Input:
    if is_prepared(data):
        index = open_index(place(data))
        number = int(index["frames"].sum())
        size = sum(index.about["bytes"]) / number * frames
        where = f"{frames} JPEGs, mean of {number:,}"
    else:
        videos = find_videos(data)
        size = sum(path.stat().st_size for path in videos) / len(videos)
        where = f"a whole video, mean of {len(videos):,}"
    return Input(round(size / 1e6, 3), "MB", "measured", f"{where} of {data.name}")
