"""Labelled videos: a folder per class, people held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maedfer_lab.data.folder import check_videos, find_videos
from maedfer_lab.data.identities import class_folders, hold_out

Labelled = list[tuple[Path, int]]  # a video and the number of its class


@dataclass(frozen=True)
class LabelledFolder:
    """Class names in alphabetical order, and the videos of both sides with their class."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def labelled_folder(root: str | Path, held_out: float = 0.2, seed: int = 0) -> LabelledFolder:
    """Read ROOT/CLASS/VIDEO, and hold out about `held_out` of the identities.

    With a MANIFEST.csv in `root` (columns file, identity) whole people are held out; without one
    each class holds out its own sub-folders or files (`split_videos`). Only with a manifest does
    pre-training on the same folder hold out the same people.

    Raises:
        ValueError: fewer than two classes, or a class without a video on one of the sides.
    """
    root = Path(root)
    classes = class_folders(root)
    found = {name: check_videos(find_videos(root / name))[0] for name in classes}
    train, test = hold_out(root, found, held_out, seed)
    for side, paths in (("training", train), ("test", test)):
        empty = [name for name in classes if not paths & set(found[name])]
        if empty:
            raise ValueError(
                f"no video of class {', '.join(empty)} is left for {side} when held_out={held_out} "
                "of the people are held out; add videos of other people, or try another seed"
            )
    labels = [(path, i) for i, name in enumerate(classes) for path in found[name]]
    return LabelledFolder(
        tuple(classes),
        [(path, label) for path, label in labels if path in train],
        [(path, label) for path, label in labels if path in test],
    )
