"""Small folders shaped as the authors of each data set ship it: tiny videos, or frames."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

from making_videos import moving_frames, write_video
from PIL import Image

MAFW = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)
FERV39K = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")
SENTENCES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
MAKERS = ("dfew", "ferv39k", "mafw", "cremad", "ravdess", "enterface")


def make_dataset(name: str, root: Path) -> Path:
    """Make the folder of one of `MAKERS`; each class has a clip in every fold."""
    root.mkdir(parents=True)
    globals()[f"make_{name}"](root)
    return root


def write_frames(
    folder: Path, seed: int, num: int = 20, side: int = 24, name: str = "{}.jpg"
) -> Path:
    """Write 1.jpg, 2.jpg, ... as face crops are shipped; every seed gives other pictures."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(moving_frames(num, side, side, seed), 1):
        Image.fromarray(frame).save(folder / name.format(i), quality=80)
    return folder


def tiny_video(path: Path, seed: int) -> Path:
    """Write 20 frames of 32 x 32 pixels in a codec that the suffix can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".flv": "flv", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    return write_video(path, moving_frames(20, 32, 32, seed), codec=codec)


def numbered(classes: int) -> dict[tuple[int, int], int]:
    """The number of the clip of each of five folds and of each class."""
    return {(fold, c): classes * fold + c + 1 for fold, c in product(range(5), range(classes))}


def write_sides(classes: int, line: Callable[[int, int], str], path: str, *head: str) -> None:
    """Write a list of each side of each fold; `line` makes one of a clip's number and class."""
    for part, fold in product(("train", "test"), range(5)):
        rows = [
            line(i, c) for (f, c), i in numbered(classes).items() if (f == fold) == (part == "test")
        ]
        write_lines(Path(path.format(part=part, fold=fold + 1)), [*head, *rows])


def make_dfew(root: Path, kind: str = "clip_224x224", num: int = 20) -> None:
    """35 clips: fold f tests clip 7 (f - 1) + c of class c; labels count from 1."""
    for (_, c), i in numbered(7).items():
        write_frames(root / "Clip" / kind / f"{i:05d}", 100 * c + i, num)
    path = f"{root}/EmoLabel_DataSplit/{{part}}(single-labeled)/set_{{fold}}.csv"
    write_sides(7, lambda i, c: f"{i},{c + 1}", path, "video_name,label")


def make_ferv39k(root: Path) -> None:
    """Two scenes of two clips a class; the second clip of each is tested."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for i, (scene, name, clip) in enumerate(product(("Action", "War"), FERV39K, (1, 2))):
        place = f"{scene}/{name}/{clip:04d}"
        write_frames(root / "2_ClipsforFaceCrop" / place, i)
        lists["train" if clip == 1 else "test"].append(f"{place} {name}")
    for part, lines in lists.items():
        write_lines(root / "4_setups" / "All_scenes" / f"{part}_All.csv", lines)


def make_mafw(root: Path) -> None:
    """55 clips, frames in png; a compound list that must not be taken lies there as well."""
    for i in numbered(11).values():
        write_frames(root / "data" / "frames" / f"{i:05d}", i, 18, 16, "{:04d}.png")
    for kind in ("single", "compound"):
        path = f"{root}/Train & Test Set/{kind}/no_caption/set_{{fold}}/{{part}}.txt"
        write_sides(11, lambda i, c: f"{i:05d}.mp4 {MAFW[c]}", path)


def make_cremad(root: Path) -> None:
    """One actor of each fold, a clip a class."""
    for i, (actor, code) in enumerate(
        product((1001, 1020, 1040, 1060, 1091), ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"))
    ):
        tiny_video(root / "VideoFlash" / f"{actor}_IEO_{code}_XX.flv", i)


def make_ravdess(root: Path) -> None:
    """One actor of each fold, speech without sound; one copy with sound and one song."""
    for i, (actor, expression) in enumerate(product((1, 5, 9, 13, 17, 24), range(1, 9))):
        folder = root / f"Actor_{actor:02d}"
        tiny_video(folder / f"02-01-{expression:02d}-01-01-01-{actor:02d}.mp4", i)
    tiny_video(root / "Actor_01" / "01-01-01-01-01-01-01.mp4", 900)
    tiny_video(root / "Actor_01" / "02-02-03-01-01-01-01.mp4", 901)


def make_enterface(root: Path) -> None:
    """One person of each fold, a sentence a class; subject 6 as the authors ship him: uncut."""
    for i, (person, name) in enumerate(product((1, 11, 20, 29, 44), SENTENCES)):
        file = f"s{person}_{name[:2]}_1.avi"
        tiny_video(root / f"subject {person}" / name / "sentence 1" / file, i)
    tiny_video(root / "subject 6" / "anger" / "anger.avi", 900)


def make_class_folders(
    root: Path, classes: tuple[str, ...] = ("calm", "loud"), num: int = 5
) -> Path:
    """A folder per class with `num` videos each."""
    for i, (name, k) in enumerate(product(classes, range(num))):
        tiny_video(root / name / f"take {k + 8}.mp4", i)
    return root


def make_official_lists(folder: Path) -> Path:
    """The official code's lists of a DFEW-shaped folder: another machine's paths, labels from 0."""
    place = "/another/machine/DFEW/Clip/jpg_256"
    path = f"{folder}/split{{fold:02d}}/{{part}}.csv"
    write_sides(7, lambda i, c: f"{place}/{i:05d} {c}", path)
    return folder


def write_lines(path: Path, lines: list[str], end: str = "\n", encoding: str = "utf-8") -> Path:
    """Write lines; `end` and `encoding` as other systems have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def edit_line(path: Path, number: int, line: str | None) -> None:
    """Replace line `number` (from 1), or remove it."""
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if line is None else [line]
    write_lines(path, lines)


def linked_copy(source: Path, target: Path) -> Path:
    """A copy to spoil, quickly made: folders of frames are links until `own` copies one."""
    target.mkdir()
    for path in source.iterdir():
        there = target / path.name
        if path.is_file():
            shutil.copy(path, there)
        elif next(path.iterdir()).suffix in (".jpg", ".png"):
            there.symlink_to(path, target_is_directory=True)
        else:
            linked_copy(path, there)
    return target


def own(folder: Path) -> Path:
    """Put a copy in the place of a link, so that its files may be changed."""
    source = folder.resolve()
    folder.unlink()
    return Path(shutil.copytree(source, folder))
