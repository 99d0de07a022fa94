"""Find the clip that a line of a list means: lists carry the paths of another machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from maedfer_lab.data.layouts import Tree
from maedfer_lab.data.video import VIDEO_SUFFIXES

# Of several kinds of clips in one archive, the first that is there is taken: original frames
# before 16 interpolated ones, frames of faces before whole scenes. (DFEW's authors ship original,
# clip_224x224 and clip_224x224_16f, in parts on some servers; jpg_256 is what MAE-DFER's authors
# made of the original clips. MAFW's frames are made of its clips in the same way.)
CLIP_FOLDERS = {
    "dfew": ("jpg_256", "clip_224x224", "original", "clip_224x224_16f"),
    "ferv39k": ("2_ClipsforFaceCrop",),
    "mafw": ("frames", "clips"),
}
_NAME_PARTS = {"ferv39k": 3}  # Action/Happy/0063: elsewhere the last part of a path is enough


class Finder:
    """Find the clip that a list means: as written, below the root, or by its last parts.

    Lists carry paths of the machine they were made on. The longest tail of the path that exists
    below the root is taken; failing that the clip whose last part (FERV39k: three) is the same,
    with or without a video suffix, if there is exactly one.
    """

    def __init__(self, tree: Tree, dataset: str) -> None:
        self._exact: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._parts = _NAME_PARTS.get(dataset, 1)
        self.notes: list[str] = []
        for path in self._wanted(tree, CLIP_FOLDERS.get(dataset, ())):
            name = tree.name(path)
            self._exact[name] = path
            self._exact.setdefault(_bare(name), path)
            if dataset != "csv":
                self._by_name.setdefault(self._tail(name), []).append(path)

    def _wanted(self, tree: Tree, folders: tuple[str, ...]) -> Iterable[Path]:
        """The videos of the kind to be taken; what else is there goes into `notes`."""
        kinds = {
            folder: [p for p in tree.videos if folder in p.relative_to(tree.root).parts[:-1]]
            for folder in folders
        }
        kinds = {folder: paths for folder, paths in kinds.items() if paths}
        if not kinds:
            return tree.videos
        taken, *rest = kinds
        if rest:
            self.notes.append(
                f"clips are taken from {taken}; {', '.join(rest)} lies there as well: point root "
                "at it, and lists at the lists, to use it"
            )
        return kinds[taken]

    def _tail(self, name: str) -> str:
        return "/".join(PurePosixPath(_bare(name)).parts[-self._parts :])

    def find(self, listed: str) -> Path | str:
        """The clip, or the reason why there is none."""
        name = listed.replace("\\", "/")
        parts = PurePosixPath(name).parts
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if path := self._exact.get(tail) or self._exact.get(_bare(tail)):
                return path
        if Path(listed).is_absolute() and Path(listed).exists():
            return Path(listed)
        same = self._by_name.get(self._tail(name), []) if len(parts) >= self._parts else []
        if len(same) > 1:
            return f"{listed!r} may be {same[0]} or {same[1]}; point root at the ones meant"
        return same[0] if same else f"{listed!r} does not exist"


def _bare(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else name
