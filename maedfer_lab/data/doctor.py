"""Check a data set before an hour of training is spent on it: the verb `maedfer doctor`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from maedfer_lab.data.doctor_clips import clip_findings, frame_histogram, look_at, size_lines
from maedfer_lab.data.doctor_findings import LEVELS, Finding, in_words
from maedfer_lab.data.doctor_sheet import contact_sheet, page, png_bytes
from maedfer_lab.data.doctor_table import table_findings
from maedfer_lab.data.labels import published_labels
from maedfer_lab.data.table import Annotations, Clip, find_annotations
from maedfer_lab.files import check_writable, write_aside

QUICK = 400  # clips that are looked at with --quick


@dataclass(frozen=True)
class DoctorReport:
    """What the check found. The worst findings come first.

    table: the usable clips. opened: those that were looked at. frames, sizes: histograms as text.
    """

    table: Annotations
    findings: tuple[Finding, ...]
    opened: tuple[Clip, ...]
    frames: tuple[str, ...]
    sizes: tuple[str, ...]
    seconds: float

    @cached_property
    def sheet(self) -> Image.Image:
        """One clip per class as the model will see it; drawn when first asked for."""
        return contact_sheet(self.table, self.opened)

    @property
    def exit_status(self) -> int:
        """1 if something would spoil a result, else 0."""
        return int(any(finding.level == "error" for finding in self.findings))

    def of(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check, such as "unreadable clips"."""
        return tuple(finding for finding in self.findings if finding.check == check)

    @property
    def verdict(self) -> str:
        """One sentence."""
        number = {level: sum(f.level == level for f in self.findings) for level in LEVELS}
        told = ", ".join(in_words(number[level], level) for level in LEVELS)
        advice = "this would spoil results: mend it first" if number["error"] else "ready to train"
        return f"{told}: {advice}"

    def sections(self) -> list[tuple[str, str]]:
        """Title and text of the report's parts."""
        total, looked = len(self.table), len(self.opened)
        share = "all" if looked == total else f"a sample of {looked:,} of {total:,}"
        opened = f"{share} clips opened, in {self.seconds:.1f} s"
        parts = [
            ("Verdict", self.verdict),
            ("Findings", "\n".join(map(str, self.findings)) or "nothing"),
            ("Clips per class and test fold", _beside_published(self.table)),
            (f"Frames of a clip ({opened})", "\n".join(self.frames) or "no clip could be read"),
            ("Picture sizes (width x height, pixels)", "\n".join(self.sizes) or "none"),
        ]
        return parts

    def __str__(self) -> str:
        """The whole report as text."""
        title = f"maedfer doctor {self.table.dataset}: {self.table.root}"
        parts = [f"{name}\n{'-' * len(name)}\n{text}" for name, text in self.sections()]
        return "\n\n".join([title, *parts])

    def write(self, path: str | Path) -> Path:
        """Write the report: .html with the picture inside, or .txt with a .png beside it.

        Raises:
            ValueError: another suffix.
        """
        path = _report_path(path)
        if path.suffix == ".html":
            title = f"{self.table.dataset}: {self.table.root}"
            write_aside(path, page(title, self.sections(), self.sheet).encode())
            return path
        write_aside(path, f"{self}\n".encode())
        write_aside(path.with_suffix(".png"), png_bytes(self.sheet))
        return path


def doctor(
    dataset: str,
    root: str | Path | None = None,
    lists: str | Path | None = None,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> DoctorReport:
    """Check lists, labels, folds and clips of a data set; nothing is changed.

    dataset, root, lists: as `read_annotations` takes them. quick: open a seeded sample of the
    clips, at least one of each class. seed: of that sample.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: there is nothing to check.
    """
    start = time.perf_counter()
    table, problems = find_annotations(dataset, root, lists)
    clips = _sample(table, seed) if quick else table.clips
    looks = look_at(clips, progress)
    findings = [*table_findings(table, problems), *clip_findings(table, looks, progress)]
    return DoctorReport(
        table=table,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        opened=tuple(clips),
        frames=tuple(frame_histogram(looks)),
        sizes=tuple(size_lines(looks)),
        seconds=time.perf_counter() - start,
    )


def doctor_command(
    dataset: str,
    /,
    *,
    root: Path | None = None,
    lists: Path | None = None,
    quick: bool = False,
    seed: int = 0,
    out: Path | None = None,
) -> DoctorReport:
    """Check a data set before training on it; exit status 1 if something would spoil a result.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder (a folder per class), csv, or
        voxceleb2 (unlabelled videos).
    root: folder of the clips; without it the one that MAEDFER_DATA names.
    lists: folder of the annotation lists, or a CSV, if they do not lie below root.
    quick: open a sample of 400 clips instead of all.
    seed: of the sample.
    out: write the report there as well, as .html or .txt, with a picture of one clip per class.
    """
    if out is not None:
        check_writable(_report_path(out))
    report = doctor(dataset, root, lists, quick=quick, seed=seed)
    if out is not None:
        report.write(out)
    return report


def _report_path(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.suffix not in (".html", ".txt"):
        raise ValueError(f"out={str(path)!r} must end in .html or .txt, such as report.html")
    return path


def _sample(table: Annotations, seed: int) -> tuple[Clip, ...]:
    order = np.random.default_rng(seed).permutation(len(table)).tolist()
    chosen = set(order[:QUICK])
    firsts: dict[int, int] = {}
    for i in order:
        firsts.setdefault(table.clips[i].label, i)
    return tuple(table.clips[i] for i in sorted(chosen | set(firsts.values())))


def _beside_published(table: Annotations) -> str:
    """The table's own text, with the published clips per class on the right."""
    labels = published_labels(table.dataset)
    text = str(replace(table, notes=())).splitlines()
    if labels is None:
        return "\n".join(text)
    published = labels.clips_per_class
    right = ["", f"{'published':>11}", *(f"{n:>11,}" for n in (*published, sum(published)))]
    return "\n".join(f"{line}{right[i] if i < len(right) else ''}" for i, line in enumerate(text))
