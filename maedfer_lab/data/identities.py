"""Hold people out: a split of videos in which no identity is on both sides."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def split_videos(
    paths: Sequence[Path], root: str | Path, held_out: float = 0.2, seed: int = 0
) -> tuple[list[Path], list[Path]]:
    """Split into (training, held-out) so that no identity is on both sides.

    Identities come from ``root``/MANIFEST.csv (columns ``file``, relative to root, and
    ``identity``; a file it does not list is an identity of its own); without one, from the first
    level of sub-folders if there are at least three; else every file is its own. ``held_out`` is a
    share of identities, rounded, at least one and not all.

    Raises:
        ValueError: ``held_out`` outside (0, 1), a manifest without the columns or without any of
            the files, or fewer than two identities.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out} must lie between 0 and 1; 0.2 holds out a fifth")
    identity = identities(paths, Path(root))
    names = sorted(set(identity))
    if len(names) < 2:
        raise ValueError(
            f"the {len(paths)} videos under {root} belong to {len(names)} identity, so none can be "
            "held out; add videos of another person"
        )
    num_held = min(max(round(held_out * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    held = {names[i] for i in order[:num_held]}
    pairs = list(zip(paths, identity, strict=True))
    return [p for p, who in pairs if who not in held], [p for p, who in pairs if who in held]


def identities(paths: Sequence[Path], root: Path) -> list[str]:
    """Who each video shows, as `split_videos` says: names for the same person are equal.

    A name from the manifest starts with ``identity:``.
    """
    names = [path.absolute().relative_to(root.absolute()).as_posix() for path in paths]
    manifest = root / "MANIFEST.csv"
    if manifest.is_file():
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"file", "identity"} <= set(rows[0]):
            raise ValueError(f"{manifest} must have the columns file and identity, and a row below")
        # The prefixes keep an identity's name apart from the name of an unlisted file.
        listed = {row["file"]: f"identity:{row['identity']}" for row in rows}
        if not listed.keys() & set(names):
            raise ValueError(
                f"{manifest} lists none of the {len(names)} videos; its column file must hold "
                f"paths relative to that folder, such as {names[0]!r}"
            )
        return [listed.get(name, f"file:{name}") for name in names]
    first_level = [name.split("/")[0] if "/" in name else "" for name in names]
    if len(set(first_level) - {""}) >= 3:
        return [folder or name for folder, name in zip(first_level, names, strict=True)]
    return names


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


def hold_out(
    root: Path, found: dict[str, list[Path]], held_out: float = 0.2, seed: int = 0
) -> tuple[set[Path], set[Path]]:
    """Split the videos of each class into (training, test) so that no person is on both sides.

    With a MANIFEST.csv over all classes together, else within each class, so that each is tested.
    """
    if (root / "MANIFEST.csv").is_file():
        everything = [path for paths in found.values() for path in paths]
        train, test = map(set, split_videos(everything, root, held_out, seed))
        return train, test
    sides = [split_videos(paths, root / name, held_out, seed) for name, paths in found.items()]
    train, test = (set().union(*side) for side in zip(*sides, strict=True))
    return train, test
