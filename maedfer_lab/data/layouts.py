"""Find the clips below a folder, and read class, fold and person from where they lie.

Layouts as the data sets' authors ship them; where an archive unpacks differently on different
machines (spaces or underscores, one folder more) both are taken.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maedfer_lab.data.labels import Labels, label_number
from maedfer_lab.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key

LIST_SUFFIXES = (".csv", ".txt")


@dataclass(frozen=True)
class Clip:
    """One labelled video.

    path: a video file, or a folder of images. label: place of its class, from 0. fold: the one
    in which it is tested, from 1; 0 = never tested. frames: where known without decoding.
    source: the list and line, or the layout, that named it. subject: the person, where known.
    """

    path: Path
    label: int
    fold: int
    frames: int | None = None
    source: str = ""
    subject: str | None = None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a list or a layout. kind: a few words that group like with like."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class Found:
    """Clips, what is wrong with them, and what was left out on purpose."""

    classes: tuple[str, ...]
    clips: list[Clip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: bool = False  # whether the table has to hold people out


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: videos with their number of images (None: files), and lists."""

    root: Path
    videos: dict[Path, int | None]
    lists: tuple[Path, ...]

    def name(self, path: Path) -> str:
        """The path below the root, with slashes; a path elsewhere stays whole."""
        return path.relative_to(self.root).as_posix() if self.root in path.parents else str(path)


def scan(root: Path) -> Tree:
    """List the videos below `root` (as `find_videos` does), and files that may be lists.

    A million images are walked without asking the disk about each of them; linked folders are
    entered, each once.

    Raises:
        NotADirectoryError: `root` is no folder.
    """
    from tqdm.auto import tqdm

    root = Path(root)
    if not root.is_dir():
        raise NotADirectoryError(f"root={str(root)!r} is not a folder; give one that holds videos")
    videos: dict[Path, int | None] = {}
    lists, seen = [], set()
    walk = os.walk(root, followlinks=True)
    for folder, below, names in tqdm(walk, "listing", unit=" folders", delay=2, leave=False):
        place = Path(folder)
        identity = place.stat().st_dev, place.stat().st_ino
        if identity in seen:
            below.clear()
            continue
        seen.add(identity)
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        suffixes = [(name, os.path.splitext(name)[1].lower()) for name in names if name[0] != "."]  # noqa: PTH122 (a million names)
        files = [name for name, suffix in suffixes if suffix in VIDEO_SUFFIXES]
        videos.update((place / name, None) for name in files)
        num_images = sum(suffix in IMAGE_SUFFIXES for _, suffix in suffixes)
        if num_images and not files:
            videos[place] = num_images
        lists += [place / name for name, suffix in suffixes if suffix in LIST_SUFFIXES]
    order = sorted(videos, key=natural_key)
    return Tree(root, {path: videos[path] for path in order}, tuple(sorted(lists, key=natural_key)))


def read_cremad(tree: Tree, labels: Labels) -> Found:
    """CREMA-D: VideoFlash/1001_DFA_ANG_XX.flv = actor, sentence, expression, level."""
    pattern = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}$")
    codes = {name[:3].upper(): i for i, name in enumerate(labels.classes)}
    found = Found(labels.classes)
    for path, frames in tree.videos.items():
        match = pattern.fullmatch(_stem(path, frames))
        if match is None or match[2] not in codes:
            found.problems.append(_unnamed(tree, path, "1001_DFA_ANG_XX"))
        else:
            _add(found, tree, labels, path, frames, codes[match[2]], int(match[1]))
    return _once(found, tree)


def read_ravdess(tree: Tree, labels: Labels) -> Found:
    """RAVDESS: Actor_01/02-01-06-01-02-01-12.mp4 = modality, speech or song, expression, ...

    The official lists hold the speech without sound (02-01-...). The same recordings with sound
    (01-01-...) show the same pictures: they stand in where no silent ones are. Songs and files of
    sound only are left out.
    """
    pattern = re.compile(r"(\d\d)-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-(\d\d)$")
    found, skipped = Found(labels.classes), Counter()
    parsed = []
    for path, frames in tree.videos.items():
        match = pattern.fullmatch(_stem(path, frames))
        if match is None or not 1 <= int(match[3]) <= len(labels.classes):
            found.problems.append(_unnamed(tree, path, "02-01-06-01-02-01-12"))
        elif match[2] == "02":
            skipped["songs"] += 1
        elif match[1] not in ("01", "02"):
            skipped["files of sound only"] += 1
        else:
            parsed.append((path, frames, match))
    silent = {match[0][3:] for _, _, match in parsed if match[1] == "02"}
    for path, frames, match in parsed:
        if match[1] == "01" and match[0][3:] in silent:
            skipped["copies with sound"] += 1
        else:
            _add(found, tree, labels, path, frames, int(match[3]) - 1, int(match[4]))
    found.notes += [f"left out: {what} ({number:,})" for what, number in sorted(skipped.items())]
    return _once(found, tree)


def read_enterface(tree: Tree, labels: Labels) -> Found:
    """eNTERFACE05: subject 1/anger/sentence 1/s1_an_1.avi; the folders count, not file names.

    (Some names disagree with their folders: the official lists follow the folders.) Subject 6 is
    not cut into sentences and in no official list.
    """
    found, uncut = Found(labels.classes), 0
    for path, frames in tree.videos.items():
        parts = tree.name(path).lower().split("/")[:-1]
        people = [int(m[1]) for part in parts if (m := re.fullmatch(r"subject[ _-]*(\d+)", part))]
        classes = [n for p in parts if (n := label_number(p, labels.classes)) is not None]
        if people == [6]:
            uncut += 1
        elif len(people) != 1 or len(classes) != 1:
            found.problems.append(_unnamed(tree, path, "subject 1/anger/sentence 1/s1_an_1.avi"))
        else:
            _add(found, tree, labels, path, frames, classes[0], people[0])
    if uncut:
        found.notes.append(f"left out: subject 6, who is in no official list ({uncut:,})")
    return _once(found, tree)


def read_class_folders(tree: Tree) -> Found:
    """ROOT/CLASS/...: the classes are the folders in alphabetical order.

    People come from a MANIFEST.csv (columns file, identity), else from sub-folders of the classes,
    else every video is its own; the table splits them.
    """
    classes = class_folders(tree.root)
    found = Found(tuple(classes), splits=True)
    members = [p for p in tree.videos if tree.name(p).split("/")[0] in classes]
    try:
        who = dict(zip(members, identities(members, tree.root, below=1), strict=True))
    except ValueError as error:
        who = dict.fromkeys(members)
        found.problems.append(Problem("people", str(tree.root), str(error)))
    for path in members:
        name = tree.name(path).split("/")[0]
        found.clips.append(
            Clip(path, classes.index(name), 0, tree.videos[path], f"folder {name}", who[path])
        )
    return found


def identities(paths: Sequence[Path], root: Path, below: int = 0) -> list[str | None]:
    """Who each video shows: names for the same person are equal, None = nothing tells.

    Told by ``root``/MANIFEST.csv (columns ``file``, relative to root, and ``identity``); without
    one by VoxCeleb's numbers (id00012), else by the sub-folders at depth `below`, if there are at
    least three (below a class: two).

    Raises:
        ValueError: a manifest without the columns or without any of the files.
    """
    names = [path.absolute().relative_to(root.absolute()).as_posix() for path in paths]
    manifest = root / "MANIFEST.csv"
    if manifest.is_file():
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"file", "identity"} <= set(rows[0]):
            raise ValueError(f"{manifest} must have the columns file and identity, and a row below")
        listed = {row["file"]: row["identity"] for row in rows}
        if not listed.keys() & set(names):
            raise ValueError(
                f"{manifest} lists none of the {len(names)} videos; its column file must hold "
                f"paths relative to that folder, such as {names[0]!r}"
            )
        return [listed.get(name) or None for name in names]
    numbers = [re.search(r"\bid\d{5}\b", name) for name in names]
    if any(numbers):
        return [found[0] if found else None for found in numbers]
    folders = [name.split("/")[below] if name.count("/") > below else None for name in names]
    return folders if len(set(folders) - {None}) >= 3 - bool(below) else [None] * len(names)


def class_folders(root: Path) -> list[str]:
    """The classes of ROOT/CLASS/...: its folders in alphabetical order.

    Raises:
        ValueError: fewer than two.
    """
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(
            f"root={str(root)!r} holds {len(classes)} folders; labelled videos need a folder for "
            "each class, at least two, such as happy/ and sad/"
        )
    return classes


def read_unlabelled(tree: Tree) -> Found:
    """Any folder of videos for pre-training, such as VoxCeleb2's dev/mp4/id00012/.../00001.mp4."""
    found = Found(("unlabelled",))
    for path, frames in tree.videos.items():
        person = re.search(r"\bid\d{5}\b", tree.name(path))
        found.clips.append(
            Clip(path, 0, 0, frames, "unlabelled folder", person[0] if person else None)
        )
    return found


def _stem(path: Path, frames: int | None) -> str:
    return path.stem if frames is None else path.name


def _add(
    found: Found,
    tree: Tree,
    labels: Labels,
    path: Path,
    frames: int | None,
    label: int,
    subject: int,
) -> None:
    if subject not in labels.test_fold:
        known = f"{min(labels.test_fold)} to {max(labels.test_fold)}"
        what = f"subject {subject} is in no published fold (known: {known})"
        found.problems.append(Problem("subject", tree.name(path), what))
        return
    fold = labels.test_fold[subject]
    found.clips.append(Clip(path, label, fold, frames, f"{labels.title} names", str(subject)))


def _unnamed(tree: Tree, path: Path, example: str) -> Problem:
    return Problem("name", tree.name(path), f"the name says no class and person, as {example} does")


def _once(found: Found, tree: Tree) -> Found:
    """Two files of one clip (say .flv and .mp4): which is meant cannot be known."""
    first: dict[str, Clip] = {}
    for clip in found.clips:
        key = _stem(clip.path, clip.frames)
        if key in first and first[key].subject == clip.subject:
            what = f"the same clip as {tree.name(first[key].path)}; keep one, or point root at one"
            found.problems.append(Problem("duplicate", tree.name(clip.path), what))
        first.setdefault(key, clip)
    return found
