"""Damaged files of every kind that the library reads; run as a program, it reads them.

`python hostile.py SEED FIRST LAST` makes inputs FIRST to LAST - 1, each a function of SEED and its
number, and prints a line before each and one for each fault. The system ends it at a hang.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CPU_S, WALL_S, START_S = 10, 60, 180  # what one input may take, and all before the first
MOST_BYTES = 1.5 * 2**30  # resident, more than before the first input
MOST_ADDRESSES = 12 * 2**30  # beyond what the libraries map: a wild allocation fails at once
NUMBERS = (b"0", b"-1", b"1e400", b"-0.0", b"99999999999999999999", b"2147483648", b"NaN",
           b"Infinity", b"null", b"true", b'"x"', b"[]", b"{}", b"1.5", b"[[[[1]]]]")  # fmt: skip
ROT = (b"\0", b"\xff\xfe", b"\n", b",", b'"', b"\r", b"=", b"../..", b"\xc3\x28", b"[" * 3000)

# Faults that were found once, which the first inputs plant: file, what is replaced, by what.
PLANTED: tuple[tuple[str, bytes, bytes], ...] = (
    ("listed/annotations.csv", b",1,person", b",2147483648,person"),
    ("listed/annotations.csv", b",1,person", b"," + b"9" * 5000 + b",person"),
    ("ready/index.json", b'"classes": \\[', b'"classes": [["x"],'),
    ("ready/index.json", b"\\A", b"[" * 3000),
    ("ready/index.json", b'"bytes": \\d+', b'"bytes": ' + b"9" * 5000),
    ("ready/index.safetensors", b'"person"', b'"persom"'),
    ("ready/index.safetensors", b'"fold"(.*)"label"', b'"label"\\1"fold"'),
    ("ready/shard-*.json", b'"fold": ?\\d+', b'"fold":111111111'),
    ("ready/shard-*.json", b'"label": ?\\d+', b'"label":-7'),
    ("ready/shard-00001.tar", b"(NUMPY[^\n]*\n).{8}", b"\\1" + bytes(8)),
    ("kept/model/config.json", b'"mean"', b"Infinity"),
    ("kept/model/config.json", b'"tokens": "', b'"tokens": "x'),
    ("kept/model/config.json", b'"depth": \\d+', b'"depth": 2000000000'),
    ("runs/*/result.json", b'"seconds": [\\d.]+', b'"seconds": "x"'),
    ("runs/*/result.json", b'"baselines": {', b'"baselines": [], "x": {'),
)  # fmt: skip


def mutate(data: bytes, rng: np.random.Generator, is_text: bool) -> bytes:
    """One to three faults: flips, a cut, zeros, repeats, swaps, insertions; in text, odd numbers.

    Half of the binary ones fall into the first kilobyte, where the heads are.
    """
    content = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not content:
            break
        reach = min(len(content), 1024) if rng.random() < 0.5 else len(content)
        at, length = int(rng.integers(reach)), int(2 ** (rng.random() * 9))
        kind = int(rng.integers(9 if is_text else 7))
        piece = content[at : at + length]
        if kind == 0:
            for place in rng.integers(reach, size=int(rng.integers(1, 9))):
                content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del content[int(rng.integers(len(content))) :]
        elif kind == 2:
            content[at : at + length] = bytes(len(piece))
        elif kind == 3:
            content[at:at] = piece * int(rng.integers(1, 20))
        elif kind == 4:
            other = int(rng.integers(len(content)))
            content[at : at + length], content[other : other + len(piece)] = (
                content[other : other + len(piece)], piece)  # fmt: skip
        elif kind == 5:
            odd = ROT[int(rng.integers(len(ROT)))]
            content[at:at] = odd if is_text else rng.bytes(int(rng.integers(1, 40)))
        elif kind == 6:
            content[at : at + 4] = (2 ** int(rng.integers(8, 32)) - 1).to_bytes(4, "big")
        else:  # another value in the place of a number or a word
            found = list(re.finditer(rb'-?\d+(\.\d+)?|true|false|null|"[^"\n]{0,40}"', content))
            if found:
                match = found[int(rng.integers(len(found)))]
                content[slice(*match.span())] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return bytes(content)


@dataclass
class Sample:
    """A file that may be damaged, how it is read, and what its reading gave before.

    share: weight in the draw. promised: whether a changed result is a fault (a checksum is kept).
    """

    file: Path
    read: Callable[[], Any]
    share: float = 1.0
    promised: bool = False
    is_text: bool = False
    result: Any = None


def samples(root: Path) -> list[Sample]:
    """Small valid files of every kind, in folders of their own."""
    import torch
    from making_videos import moving_frames, write_video
    from PIL import Image
    from test_checkpoints import finetuned_state, pretrained_file, write

    from maedfer_lab.checkpoints.loading import load_checkpoint
    from maedfer_lab.checkpoints.saving import save_pretrained
    from maedfer_lab.config import tiny
    from maedfer_lab.data import shard_format
    from maedfer_lab.data.prepare import prepare
    from maedfer_lab.data.readers import glance, open_video
    from maedfer_lab.data.shards import open_shards
    from maedfer_lab.data.table import find_annotations, read_annotations
    from maedfer_lab.figures import draw
    from maedfer_lab.method.models import build_autoencoder, build_classifier
    from maedfer_lab.runs import Run
    from maedfer_lab.training.evaluation import evaluate_runs
    from maedfer_lab.training.pretrain import load_run

    def folder(name: str) -> Path:
        (root / name).mkdir(parents=True)
        return root / name

    def weights_of(path: Path) -> dict[str, Any]:
        return load_checkpoint(path).model.state_dict()

    found: list[Sample] = []

    # Checkpoints: official (zip, and torch's format of before), ours, of another program.
    official = pretrained_file(folder("official"))
    found.append(Sample(official, lambda: weights_of(official)))
    legacy = folder("legacy") / "a.pt"
    torch.save(torch.load(official, weights_only=False), legacy,
               _use_new_zipfile_serialization=False)  # fmt: skip
    found.append(Sample(legacy, lambda: weights_of(legacy)))
    tuned = write(folder("tuned") / "b.pth", finetuned_state())
    found.append(Sample(tuned, lambda: weights_of(tuned)))
    kept = save_pretrained(build_classifier(tiny().model, 3), folder("kept") / "model")
    for name, promised in (("model.safetensors", True), ("config.json", False)):
        found.append(Sample(kept / name, lambda: weights_of(kept), 1, promised, name[0] == "c"))

    # A run: its state (verified by checksums), and the files of a finished one.
    config = tiny()
    model = build_autoencoder(config.model, config.target)
    state = Run(folder("state"))
    state.save_state({"model": model.state_dict(), "step": 4, "log": [{"step": 1, "loss": 0.5}]})
    found.append(Sample(state.folder / "checkpoint.pt", state.load_state, 2, True))
    run = Run.of(config, root)
    losses = {"appearance": 0.5, "motion": 0.5}
    run.write("data.json", json.dumps({"digest": "a", "clips": 3, "classes": ["b"]}).encode())
    run.finish(model, {"steps": 4, "seconds": 1.0, "held_out": losses, "log": [{"step": 1}],
                       "baselines": {"zero": losses}, "broken": [["a", "b"]], "data": "drawn",
                       "provenance": {"profile": "none"}})  # fmt: skip

    def load() -> Any:
        loaded = load_run(run.folder)
        str(loaded)
        return loaded.model.state_dict()

    for name, promised in (("model.safetensors", True), ("config.json", True),
                           ("result.json", False)):  # fmt: skip
        found.append(Sample(run.folder / name, load, 1, promised, name.endswith("json")))

    def same_data() -> None:
        run.check_data({"digest": "a", "clips": 3, "classes": ["b"]}, explain)

    from maedfer_lab.data.table import explain_change as explain

    found.append(Sample(run.folder / "data.json", same_data, 1, False, True))
    found.append(Sample(run.folder / "config.json", lambda: evaluate_runs((run.folder,)),
                        0.2, False, True))  # fmt: skip

    # Videos and pictures.
    pictures = moving_frames(12, 48, 64)
    for name in ("a.mp4", "a.mkv"):
        video = write_video(folder(f"videos-{name[2:]}") / name, pictures)

        def watch(video: Path = video) -> Any:
            reader = open_video(video)
            return glance(video), reader.read(range(len(reader)))

        found.append(Sample(video, watch, 3))
    for name in ("0.jpg", "0.png"):
        still = folder(f"pictures-{name[2:]}") / name
        Image.fromarray(pictures[0]).save(still)
        Image.fromarray(pictures[1]).save(still.with_stem("1"))

        def look(still: Path = still) -> Any:
            glance(still.parent)
            return open_video(still).read([0]), open_video(still.parent).read([0, 1])

        found.append(Sample(still, look, 3))

    # Lists of clips, and a prepared set.
    listed = folder("listed")
    lines = ["file,label,fold,identity"]
    for i in range(8):
        clip = write_video(listed / f"clip {i}.mp4", moving_frames(4, 32, 32, i))
        lines.append(f"{clip.name},{('happy', 'sad')[i % 2]},{i // 2 + 1},person {i // 2}")
    table = listed / "annotations.csv"
    table.write_text("\n".join(lines) + "\n")
    found.append(Sample(table, lambda: find_annotations("csv", listed, table), 3, False, True))
    ready = prepare(read_annotations("csv", listed, table), folder("ready"), size_px=32,
                    framing="whole", workers=0, progress=False).out  # fmt: skip

    def shards() -> Any:
        shard_format._OPEN.clear()  # as in a new process
        opened = open_shards(ready)
        pieces = []
        for clip in opened.clips:
            reader = opened.open(clip)
            pieces.append(reader.read(range(len(reader))))
        opened.summary()
        return pieces

    def manifest() -> Any:
        for index in ready.glob("*.safetensors"):
            index.unlink()
        return shards()

    binary = next(path for path in ready.iterdir() if path.suffix == ".safetensors")
    found += [
        Sample(next(ready.glob("shard-*.tar")), shards, 2, True),
        Sample(binary, shards, 2, True),
        Sample(ready / "index.json", shards, 2, False, True),
        Sample(next(ready.glob("shard-*.json")), manifest, 2, False, True),
        Sample(ready / "MANIFEST.csv", manifest, 2, False, True),
    ]

    # Figures (drawing takes long, so few).
    drawn = folder("figures")
    for name in ("09_class_recalls", "04_pretrain", "08_finetune"):
        shutil.copy(Path(__file__).parents[1] / "figures" / f"{name}.json", drawn)
        file = drawn / f"{name}.json"
        found.append(Sample(file, lambda file=file: draw(file) and None, 0.1, False, True))
    for sample in found:
        with contextlib.suppress(ValueError):  # `evaluate` of a pre-training, a common mistake
            sample.result = sample.read()
    shards()  # `manifest` removed the index
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two results are the same, arrays and tensors by value."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if hasattr(one, "shape"):
        return one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


def fault_of(sample: Sample, warned: list[Any]) -> str | None:
    """Read a damaged file; what is wrong about the answer, or None."""
    try:
        result = sample.read()
    except (ValueError, OSError) as error:
        named = [sample.file.name, sample.file.stem, sample.file.parent.name]
        if not any(name in str(error) for name in named):
            return f"{type(error).__name__} names no file: {str(error)[:300]}"
        return None
    except KeyboardInterrupt:
        raise
    except BaseException:
        return traceback.format_exc(limit=-4)
    if sample.promised and not warned and not equal(result, sample.result):
        return "another result, in silence"
    return None


def main(seed: int, first: int, last: int) -> None:
    """Read inputs `first` to `last` - 1; a line for each on stdout."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signal.setitimer(signal.ITIMER_REAL, START_S)
        found = samples(Path(name))
        shares = np.array([sample.share for sample in found])
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_ADDRESSES, hard))
        for number in range(first, last):
            rng = np.random.default_rng([seed, number])
            sample = found[int(rng.choice(len(found), p=shares / shares.sum()))]
            planted = PLANTED[number] if number < len(PLANTED) else None
            if planted:
                sample = next(one for one in found if one.file.match(planted[0]))
            place = sample.file.relative_to(name)
            print(json.dumps({"number": number, "file": str(place)}), flush=True)
            others = {p: p.read_bytes() for p in sample.file.parent.iterdir() if p.is_file()}
            before = others[sample.file]
            damaged = mutate(before, rng, sample.is_text)
            if planted:
                damaged = re.sub(planted[1], planted[2], before, count=1, flags=re.DOTALL)
                assert damaged != before, planted
            sample.file.write_bytes(damaged)
            signal.setitimer(signal.ITIMER_REAL, WALL_S)  # no handler: the signal ends the process
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                fault = fault_of(sample, warned)
            signal.setitimer(signal.ITIMER_PROF, 0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            for path in sample.file.parent.iterdir():
                if path.is_file() and path not in others:
                    path.unlink()
            for path, content in others.items():
                path.write_bytes(content)
            if peak - start > MOST_BYTES:
                fault, start = f"{(peak - start) / 2**30:.1f} GB of memory", peak
            if fault:
                print(json.dumps({"number": number, "file": str(place), "fault": fault}),
                      flush=True)  # fmt: skip
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
