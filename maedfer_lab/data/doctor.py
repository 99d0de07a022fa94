"""Check a data set before an hour of training is spent on it: the verb `maedfer doctor`."""

from __future__ import annotations

import base64
import html
import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from maedfer_lab.config import finetune_recipe
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.labels import Labels, label_number, published_labels
from maedfer_lab.data.layouts import cremad_name, ravdess_name
from maedfer_lab.data.lists import Problem
from maedfer_lab.data.readers import DECIMALS, UNSORTED, Glance, glance
from maedfer_lab.data.table import TEXT_ORDER, Annotations, Clip, find_annotations
from maedfer_lab.data.transforms import Box, clip_indices, crop_and_resize
from maedfer_lab.data.video import VideoError
from maedfer_lab.files import check_writable, text_bytes, write_aside

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
QUICK = 400  # clips that are looked at with --quick
SAMPLE = 0.5  # a copy with fewer of the published clips is a sample made on purpose
ALIGNED = 0.95  # share of clips with exactly 16 frames from which on they are interpolated ones
CLIP_FRAMES, CLIP_PX = 16, 160
SQUARE = 1.15  # longer over shorter side up to which a picture passes for a face crop
LARGE_PX = 1280
BINS = (1, 2, 16, 17, 32, 64, 128, 256, 512)

ORDERS = {
    UNSORTED: "the official code reads the frames of these as text, 10.jpg before 2.jpg",
    DECIMALS: "name frames with a fixed number of decimals, 1.09 and 1.10, if 9 comes before 10",
}

# Kind of a problem -> the check it belongs to, and what its places are.
_PROBLEMS = {
    "missing": ("missing clips", "lines name a clip that is not there"),
    "places": ("two places", "choices between clips are yours"),
    "label": ("label range", "lines have a label that the data set does not know"),
    "spelling": ("spelling", "classes are spelled in two ways"),
    "duplicate": ("duplicates", "clips are listed twice"),
    "two labels": ("two labels", "clips have different labels in different lists"),
    "train and test": ("train and test", "clips are trained on and tested in the same fold"),
    "tested twice": ("tested twice", "clips are tested in two folds"),
    "folds disagree": ("folds disagree", "folds do not share one set of clips"),
    "encoding": ("encoding", "lists are not UTF-8"),
    "format": ("format", "lines cannot be understood"),
    "name": ("file names", "videos lie or are called so that nothing tells their class"),
    "subject": ("subjects", "videos show a person of no published fold"),
    "people": ("people", "ways in which people are not told"),
    "both sides": ("subject overlap", "people trained on and tested: faces can be learned"),
}


@dataclass(frozen=True)
class Finding:
    """level: "error" spoils a result, "warning" may, "note" is good to know.

    check: a few words that name what was looked at. where: the clips or lines concerned, all.
    """

    level: Level
    check: str
    message: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The message and the first few places."""
        lines = [f"{self.level.upper():<8}{self.check}: {self.message}", *self.where[:5]]
        if len(self.where) > 5:
            lines.append(f"and {len(self.where) - 5:,} more")
        return "\n          ".join(lines)


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
        number = Counter(finding.level for finding in self.findings)
        told = ", ".join(_many(number[level], level) for level in LEVELS)
        advice = "this would spoil results: mend it first" if number["error"] else "ready to train"
        return f"{told}: {advice}"

    def sections(self) -> list[tuple[str, str]]:
        """Title and text of the report's parts."""
        total, looked = len(self.table), len(self.opened)
        share = "all" if looked == total else f"a sample of {looked:,} of {total:,}"
        opened = f"{share} clips opened, in {self.seconds:.1f} s"
        return [
            ("Verdict", self.verdict),
            ("Findings", "\n".join(map(str, self.findings)) or "nothing"),
            ("Clips per class and test fold", _beside_published(self.table)),
            (f"Frames of a clip ({opened})", "\n".join(self.frames) or "no clip could be read"),
            ("Picture sizes (width x height, pixels)", "\n".join(self.sizes) or "none"),
        ]

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
        path, picture = _report_path(path), io.BytesIO()
        self.sheet.save(picture, "PNG", optimize=True)
        if path.suffix == ".txt":
            write_aside(path, text_bytes(f"{self}\n"))
            write_aside(path.with_suffix(".png"), picture.getvalue())
            return path
        title = html.escape(f"{self.table.dataset}: {self.table.root}")
        sections = "".join(
            f"<h2>{html.escape(name)}</h2><pre>{html.escape(text)}</pre>"
            for name, text in self.sections()
        )
        data = base64.b64encode(picture.getvalue()).decode()
        style = (
            "body{font:16px/1.5 system-ui;max-width:70em;margin:2em auto;padding:0 1em}"
            "pre{overflow-x:auto;font-size:14px;background:#f4f4f4;padding:1em}img{max-width:100%}"
        )
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>'
            f"{style}</style><h1>{title}</h1>{sections}<h2>One clip per class</h2>"
            f'<img alt="frames of a clip of each class" src="data:image/png;base64,{data}"></html>'
        )
        write_aside(path, text_bytes(page))
        return path


def doctor(
    dataset: str,
    /,
    root: Path | str | None = None,
    lists: Path | str | None = None,
    *,
    layout: str | None = None,
    quick: bool = False,
    seed: int = 0,
    out: Path | str | None = None,
    progress: bool = True,
) -> DoctorReport:
    """Check a data set before training on it; exit status 1 if something would spoil a result.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder (a folder per class), csv, or
        voxceleb2 (unlabelled videos).
    root: folder of the clips; without it the one that MAEDFER_DATA names.
    lists: folder of the annotation lists, or a CSV, if they do not lie below root.
    layout: what the levels of folders are, where that is not plain, such as class/person/clip.
    quick: open a sample of 400 clips instead of all, and decode only the first frame of an MP4.
    seed: of the sample.
    out: write the report there as well, as .html or .txt, with a picture of one clip per class.
    progress: show how far it is.
    """
    if out is not None:
        check_writable(_report_path(out))
    start = time.perf_counter()
    table, problems = find_annotations(dataset, root, lists, layout)
    clips = _sample(table, seed) if quick else table.clips
    looks = _look_at(clips, not quick, progress)
    findings = [*_of_table(table, problems), *_of_clips(table, looks), *_of_copies(table)]
    report = DoctorReport(
        table=table,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        opened=tuple(clips),
        frames=tuple(_frame_histogram(looks)),
        sizes=tuple(_size_lines(looks)),
        seconds=time.perf_counter() - start,
    )
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
    firsts: dict[int, int] = {}
    for i in order:
        firsts.setdefault(table.clips[i].label, i)
    return tuple(table.clips[i] for i in sorted({*order[:QUICK], *firsts.values()}))


def _beside_published(table: Annotations) -> str:
    """The table's own text, with the published clips per class on the right."""
    labels = published_labels(table.dataset)
    text = str(replace(table, notes=())).splitlines()
    if labels is None:
        return "\n".join(text)
    published = labels.clips_per_class
    right = ["", f"{'published':>11}", *(f"{n:>11,}" for n in (*published, sum(published)))]
    return "\n".join(f"{line}{right[i] if i < len(right) else ''}" for i, line in enumerate(text))


def _many(number: int, thing: str) -> str:
    """Number and noun: "1 clip", "2,000 clips"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


# ---- What lists, names and counts tell; no clip is opened --------------------------------------


def _of_table(table: Annotations, problems: Sequence[Problem]) -> Iterator[Finding]:
    for kind in dict.fromkeys(p.kind for p in problems if p.kind != "same content"):
        places = tuple(str(problem) for problem in problems if problem.kind == kind)
        check, what = _PROBLEMS[kind]
        message = f"{len(places):,} {what}"
        if kind == "label" and all(f"label '{len(table.classes)}'" in place for place in places):
            message += "; the list seems to count from 1: take one off, as the official code does"
        yield Finding("error", check, message, places)
    labels = published_labels(table.dataset)
    if labels is not None:
        yield from counts_findings(table, labels)
        told = ((clip, _name_label(labels, clip)) for clip in table.clips)
        wrong = tuple(
            f"{table.name(clip)} is listed as {table.classes[clip.label]} ({clip.source})"
            for clip, label in told
            if label is not None and label != clip.label
        )
        if wrong:
            message = f"{_many(len(wrong), 'clip')} listed as another class than the path says"
            yield Finding("error", "label order", message, wrong)
    if table.dataset != "voxceleb2":
        yield from _of_classes(table)
    for note in table.notes:
        worse = note.startswith(("nothing tells", "suspicious", "no clip of", "each fold of"))
        yield Finding("warning" if worse else "note", "reading", note)


def counts_findings(table: Annotations, labels: Labels) -> Iterator[Finding]:
    """Compare clips per class and fold with the published ones."""
    found, published = table.counts(), labels.clips_per_class
    differing = tuple(
        f"{name}: {n:,} clips, published {p:,}"
        for name, n, p in zip(table.classes, found, published, strict=True)
        if n != p
    )
    if not differing:
        yield Finding("note", "counts", "clips per class are the published ones")
    elif sorted(found) == sorted(published):
        message = "clips per class are the published ones of other classes: another label order"
        yield Finding("error", "label order", message, differing)
    elif sum(found) < SAMPLE * sum(published):
        message = (
            f"a sample with {_many(sum(found), 'clip')} of {sum(published):,} published; scores "
            "cannot be compared with the paper's"
        )
        yield Finding("warning", "counts", message)
    else:
        message = f"{_many(sum(found), 'clip')}, published are {sum(published):,}"
        yield Finding("error", "counts", message, differing)
    if table.num_folds != labels.num_folds:
        message = f"{_many(table.num_folds, 'fold')}, published are {labels.num_folds}"
        yield Finding("warning", "folds", message)
    elif not differing:
        other = tuple(
            f"fold {fold} {part}: {', '.join(map(str, counted))}, published "
            f"{', '.join(map(str, labels.counts[fold, part]))}"
            for fold in range(1, labels.num_folds + 1)
            for part, clips in zip(("train", "test"), table.sides(fold), strict=True)
            if (counted := table.counts(clips)) != labels.counts[fold, part]
        )
        what = "are not" if other else "are"
        message = f"clips per class and side of the folds {what} the published ones"
        yield Finding("error" if other else "note", "folds", message, other)


def _name_label(labels: Labels, clip: Clip) -> int | None:
    """The label that a clip's own path tells, in the data sets whose paths do."""
    name = clip.path.as_posix()
    if labels.name in ("ferv39k", "enterface"):
        parts = clip.path.parts[-2:-1] if labels.name == "ferv39k" else clip.path.parts[-4:-1]
        told = (label_number(part, labels.classes) for part in parts)
        return next((label for label in told if label is not None), None)
    rule = {"cremad": cremad_name, "ravdess": ravdess_name}.get(labels.name)
    found = rule(name, labels, set()) if rule else None
    return found[0] if isinstance(found, tuple) else None


def _of_classes(table: Annotations) -> Iterator[Finding]:
    if not table.num_folds:
        yield Finding("warning", "folds", "no clip is tested, so no score can be computed")
    empty = [name for name, n in zip(table.classes, table.counts(), strict=True) if not n]
    if empty:
        message = f"no clip of {', '.join(empty)}; a recall of it cannot be computed"
        yield Finding("error", "empty class", message)
    for fold in range(1, table.num_folds + 1):
        for part, clips in zip(("training", "test"), table.sides(fold), strict=True):
            counted = zip(table.classes, table.counts(clips), strict=True)
            lacking = [name for name, n in counted if not n and name not in empty]
            if lacking:
                message = f"fold {fold} has no {part} clip of {', '.join(lacking)}"
                yield Finding("error", f"class without {part} clip", message)


def _of_copies(table: Annotations) -> Iterator[Finding]:
    """Clips of equal bytes."""
    groups = {"under different labels": [], "in training and test": [], "on one side": []}
    for group in table.copies():
        labels, folds = ({clip.label for clip in group}, {clip.fold for clip in group})
        groups[list(groups)[0 if len(labels) > 1 else 1 if len(folds) > 1 else 2]].append(group)
    for what, found in groups.items():
        if found:
            where = tuple(
                " = ".join(
                    f"{table.name(c)} ({table.classes[c.label]}, fold {c.fold})" for c in group
                )
                for group in found
            )
            level = "warning" if what == "on one side" else "error"
            message = f"{_many(len(found), 'group')} of equal clips {what}"
            yield Finding(level, "identical clips", message, where)


# ---- What the clips tell: each is opened, video files decoded once ------------------------------

Looks = dict[Clip, Glance | str]  # or why it cannot be read


def _look_at(clips: Sequence[Clip], thorough: bool, progress: bool) -> Looks:
    """Glance at every clip, in threads."""
    from tqdm.auto import tqdm

    def look(clip: Clip) -> Glance | str:
        try:
            return glance(clip.path, thorough)
        except VideoError as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(look, clips)
        bar = tqdm(found, "looking at clips", len(clips), unit="clip", disable=not progress)
        return dict(zip(clips, bar, strict=True))


def _of_clips(table: Annotations, looks: Looks) -> Iterator[Finding]:
    broken = tuple(f"{table.name(c)}: {why}" for c, why in looks.items() if isinstance(why, str))
    if broken:
        message = f"{_many(len(broken), 'clip')} of {len(looks):,} cannot be read"
        yield Finding("error", "unreadable clips", message, broken)
    seen = {clip: look for clip, look in looks.items() if isinstance(look, Glance)}
    damaged = tuple(f"{table.name(c)}: {look.damage}" for c, look in seen.items() if look.damage)
    if damaged:
        message = f"{_many(len(damaged), 'clip')} of {len(looks):,} damaged or cut off"
        yield Finding("error", "damaged clips", message, damaged)
    if not seen:
        return
    recipe, labels = finetune_recipe(table.dataset, len(table)), published_labels(table.dataset)
    if np.mean([look.frames == CLIP_FRAMES for look in seen.values()]) >= ALIGNED:
        message = "these look like 16-frame time-aligned clips; this recipe needs the original ones"
        if recipe.stride > 1:
            kept = CLIP_FRAMES // recipe.stride
            message += f": at stride {recipe.stride} it would see {kept} different frames of each"
        spoils = recipe.stride > 1 and labels is not None
        yield Finding("error" if spoils else "warning", "frame counts", message)
    elif labels:
        message = "these look like original clips, which this recipe needs"
        yield Finding("note", "frame counts", message)

    def those(wrong: dict[Clip, str], level: Level, check: str, what: str) -> Iterator[Finding]:
        if wrong:
            where = tuple(f"{table.name(clip)}{told}" for clip, told in wrong.items())
            yield Finding(level, check, f"{_many(len(where), 'clip')} {what}", where)

    frames = {clip: look.frames for clip, look in seen.items()}
    sides = {clip: (look.width, look.height) for clip, look in seen.items()}
    shown = {clip: f": {w} x {h}" for clip, (w, h) in sides.items()}
    still = {clip: "" for clip, number in frames.items() if number == 1}
    yield from those(still, "warning", "one-frame clips", "of one frame: still pictures, no motion")
    short = {clip: f": {n} frames" for clip, n in frames.items() if 1 < n < CLIP_FRAMES}
    what = f"of under {CLIP_FRAMES} frames; the last is repeated"
    yield from those(short, "note", "short clips", what)
    oblong = {c: shown[c] for c, s in sides.items() if max(s) > SQUARE * min(s)}
    what = (
        "not square: the published runs use aligned crops of faces, and the recipe stretches the "
        "whole picture to a square; crop the faces first (maedfer prepare)"
    )
    if recipe.framing == "whole":
        yield from those(oblong, "warning", "no face crops", what)
    small = {clip: shown[clip] for clip, side in sides.items() if min(side) < CLIP_PX}
    what = f"smaller than the {CLIP_PX} pixels of a training clip: they are enlarged"
    yield from those(small, "note", "small pictures", what)
    large = {clip: shown[clip] for clip, side in sides.items() if max(side) > LARGE_PX}
    what = "far larger than a training clip: decoding will brake (maedfer prepare)"
    yield from those(large, "note", "large pictures", what)
    for remark in dict.fromkeys(remark for look in seen.values() for remark in look.remarks):
        where = tuple(table.name(clip) for clip, look in seen.items() if remark in look.remarks)
        if what := ORDERS.get(remark):
            told = f"{len(where):,} {remark}"
            if remark == UNSORTED and table.dataset in TEXT_ORDER:
                told = f"{_many(len(where), 'clip')}, read so here as well"
            yield Finding("warning", "frame order", f"{what}: {told}", where)
        else:
            yield Finding("note", "reading", f"{len(where):,} {remark}", where)


def _frame_histogram(looks: Looks, width: int = 40) -> Iterator[str]:
    """Clips by their number of frames, as bars of text."""
    frames = [look.frames for look in looks.values() if isinstance(look, Glance)]
    counts = np.bincount(np.searchsorted(BINS, frames, "right"), minlength=len(BINS) + 1)[1:]
    for low, high, count in zip(BINS, (*BINS[1:], None), counts if frames else (), strict=False):
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        bar = "#" * round(width * count / counts.max()) or "." * bool(count)
        yield f"{name:>8} frames {count:>8,}  {bar}".rstrip()


def _size_lines(looks: Looks, most: int = 5) -> Iterator[str]:
    """The most frequent picture sizes."""
    sizes = Counter((s.width, s.height) for s in looks.values() if isinstance(s, Glance))
    for (width, height), count in sizes.most_common(most):
        yield f"{width:>5} x {height:<5} {count:>8,} clips"
    if others := sizes.total() - sum(count for _, count in sizes.most_common(most)):
        yield f"{'others':>13} {others:>8,} clips"


# ---- A picture of one clip per class -----------------------------------------------------------

SHOWN = (0, 5, 10, 15)  # of the 16 frames of a clip
GAP, LABEL_PX, HEAD_PX = 8, 260, 84
INK, PALE = (20, 20, 20), (90, 90, 90)


def view_of(table: Annotations, clip: Clip) -> UInt8[np.ndarray, "n 160 160 3"]:
    """Some frames of the middle clip, framed as fine-tuning frames this data set.

    Raises:
        VideoError: the clip cannot be read.
    """
    reader, recipe = table.open(clip), finetune_recipe(table.dataset, len(table))
    frames = reader.read(clip_indices(len(reader), CLIP_FRAMES, recipe.stride)[list(SHOWN)])
    whole = Box(0, 0, reader.height, reader.width)
    box = whole if recipe.framing == "whole" else face_square(reader)
    return crop_and_resize(frames, box, CLIP_PX, CLIP_PX)


def contact_sheet(table: Annotations, clips: Sequence[Clip]) -> Image.Image:
    """One row per class: its name, its clips, and frames of the first of `clips` that can be read.

    A class of which none can be read gets a sentence instead of frames.
    """
    step = CLIP_PX + GAP
    size = LABEL_PX + len(SHOWN) * step + GAP, HEAD_PX + len(table.classes) * step
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (18, 13))
    recipe = finetune_recipe(table.dataset, len(table))
    framing = "whole picture" if recipe.framing == "whole" else "square around the face"
    draw.text((GAP, GAP), f"{table.dataset}: one clip per class", INK, large)
    heading = f"{framing}, {CLIP_PX} x {CLIP_PX} pixels, 16 frames at stride {recipe.stride}"
    draw.text((GAP, GAP + 26), heading, PALE, small)
    for i, shown in enumerate(SHOWN):
        text = f"frame {shown + 1} of {CLIP_FRAMES}"
        draw.text((LABEL_PX + i * step, HEAD_PX - 22), text, PALE, small)
    for label, (name, count) in enumerate(zip(table.classes, table.counts(), strict=True)):
        top, frames, told = HEAD_PX + label * step, (), "no clip that can be read"
        for clip in [clip for clip in clips if clip.label == label][:5]:
            try:
                frames, told = view_of(table, clip), table.name(clip)
                break
            except (VideoError, OSError):
                continue
        while len(told) > 1 and draw.textlength(told, small) > LABEL_PX - 2 * GAP:
            told = "…" + told.lstrip("…")[1:]
        draw.text((GAP, top + 40), f"{label}  {name}"[:24], INK, large)
        draw.text((GAP, top + 66), _many(count, "clip"), PALE, small)
        draw.text((GAP, top + 86), text_bytes(told).decode(), PALE, small)
        for i, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (LABEL_PX + i * step, top))
    return sheet
