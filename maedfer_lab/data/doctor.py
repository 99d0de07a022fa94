"""Check a data set before spending time on training: the verb `maedfer doctor`."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from maedfer_lab.config import finetune_recipe
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.labels import Labels, published_labels
from maedfer_lab.data.lists import Clip, Problem
from maedfer_lab.data.readers import DECIMALS, TWICE, UNEVEN, UNSORTED, Glance, glance
from maedfer_lab.data.table import TEXT_ORDER, Annotations, find_annotations
from maedfer_lab.data.transforms import Box, clip_indices, crop_and_resize
from maedfer_lab.data.video import VideoError
from maedfer_lab.files import check_writable, text_bytes, write_aside

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
QUICK = 400  # clips that are opened with --quick
SAMPLE = 0.5  # with fewer of the published clips, a copy counts as a deliberate sample
ALIGNED = 0.95  # share of clips with exactly 16 frames above which they count as interpolated
CLIP_FRAMES, CLIP_PX = 16, 160
SHOWN = (0, 5, 10, 15)  # of the 16 frames of a clip
SQUARE = 1.15  # longer over shorter side up to which a picture counts as a face crop
ORDERS = {
    UNSORTED: "the official code sorts frames as text, 10.jpg before 2.jpg",
    TWICE: "each image counts as a frame: keep one of each, with names of one kind",
    UNEVEN: "give each clip and each face a folder of its own; where frames miss, motion leaps",
    DECIMALS: "name frames with a fixed number of decimals, 1.09 and 1.10, if 9 comes before 10",
}
# Level, check, message, and whether it applies to a clip under the recipe's framing.
_OF_A_CLIP: tuple[tuple[Level, str, str, Callable[[Glance, str], bool]], ...] = (
    ("warning", "one-frame clips", "of one frame: still pictures, no motion",
     lambda look, _: look.frames == 1),
    ("note", "short clips", f"of under {CLIP_FRAMES} frames; the last is repeated",
     lambda look, _: 1 < look.frames < CLIP_FRAMES),
    ("warning", "no face crops", "not square: the published runs use aligned crops of faces, and "
     "the recipe stretches the whole picture to a square; crop the faces first (maedfer prepare)",
     lambda look, how: how == "whole" and max(look.sides) > SQUARE * min(look.sides)),
)  # fmt: skip
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{0}</title><style>'
    "body{{font:16px/1.5 system-ui;max-width:70em;margin:2em auto;padding:0 1em}}"
    "pre{{overflow-x:auto;font-size:14px;background:#f4f4f4;padding:1em}}img{{max-width:100%}}"
    "</style><h1>{0}</h1><pre>{1}</pre><h2>One clip per class</h2><pre>{2}</pre>"
    '<img alt="frames of a clip of each class" src="data:image/png;base64,{3}"></html>'
)


class Finding(NamedTuple):
    """level: "error" invalidates a result, "warning" may, "note" is for information.

    check: a short name of the check. where: all clips or lines concerned.
    """

    level: Level
    check: str
    message: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The message and the first few places."""
        lines = [f"{self.level.upper():<8}{self.check}: {self.message}", *self.where[:5]]
        lines += [f"and {len(self.where) - 5:,} more"] * (len(self.where) > 5)
        return "\n          ".join(lines)


@dataclass(frozen=True)
class DoctorReport:
    """The findings, worst first.

    table: the usable clips. looks: what was found in those that were opened, or the error.
    """

    table: Annotations
    findings: tuple[Finding, ...]
    looks: dict[Clip, Glance | str]
    seconds: float

    @property
    def exit_status(self) -> int:
        """1 if a finding would invalidate results, else 0."""
        return int(any(finding.level == "error" for finding in self.findings))

    def __str__(self) -> str:
        """The whole report as text."""
        number, looked = Counter(finding.level for finding in self.findings), len(self.looks)
        verdict = ", ".join(_many(number[level], level) for level in LEVELS)
        advice = "fix the errors before training" if number["error"] else "ready to train"
        share = f"a sample of {looked:,} of" if looked < len(self.table) else "all"
        seen = [look for look in self.looks.values() if isinstance(look, Glance)]
        frames = sorted(look.frames for look in seen) or [0]
        sizes = Counter(f"{look.sides[0]} x {look.sides[1]} px" for look in seen).most_common(6)
        return "\n\n".join([
            f"maedfer doctor: {verdict}: {advice}",
            "\n".join(map(str, self.findings)) or "nothing found",
            str(self.table).partition("\n(")[0],
            f"Opened {share} {len(self.table):,} clips, in {self.seconds:.1f} s: "
            f"{frames[0]:,} to {frames[-1]:,} frames, median {frames[len(frames) // 2]:,}; "
            f"{', '.join(f'{size} ({n:,})' for size, n in sizes)}",
        ])  # fmt: skip

    def write(self, path: str | Path) -> Path:
        """Write the report as one HTML file with a picture of one clip per class.

        Raises:
            ValueError: another suffix.
        """
        path, file = _report_path(path), io.BytesIO()
        picture, rows = contact_sheet(self.table, tuple(self.looks))
        picture.save(file, "PNG", optimize=True)
        title = f"{self.table.dataset}: {self.table.root}"
        code = base64.b64encode(file.getvalue()).decode()
        page = PAGE.format(*map(html.escape, (title, str(self), rows)), code)
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
    """Check a data set before training on it; exit status 1 if an error would invalidate results.

    dataset: dfew, ferv39k, mafw, cremad, ravdess, enterface, folder (a folder per class), csv, or
        voxceleb2 (unlabelled videos).
    root: folder of the clips; MAEDFER_DATA by default.
    lists: folder of the annotation lists, or a CSV, if they are not below root.
    layout: meaning of the folder levels if ambiguous, e.g. class/person/clip.
    quick: open a sample of 400 clips instead of all, and decode only the first frame of an MP4.
    seed: random seed of the sample.
    out: also write the report there, as .html with a picture of one clip per class.
    progress: show a progress bar.
    """
    from tqdm.auto import tqdm

    if out is not None:
        check_writable(_report_path(out))
    start = time.perf_counter()
    table, problems = find_annotations(dataset, root, lists, layout)
    copies, clips = table.copies(), table.clips
    wrong = {id(group): problem for group in copies if (problem := table.copy_problem(group))}
    if not any(problem.kind == "identical clips" for problem in problems):
        problems += tuple(wrong.values())
    if quick:
        order = np.random.default_rng(seed).permutation(len(table)).tolist()
        firsts = {clips[i].label: i for i in reversed(order)}
        clips = [clips[i] for i in sorted({*order[:QUICK], *firsts.values()})]

    def look(clip: Clip) -> Glance | str:
        try:
            return glance(clip.path, thorough=not quick)
        except (VideoError, OSError) as error:
            return error.reason if isinstance(error, VideoError) else error.strerror or str(error)

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(look, clips)
        bar = tqdm(found, "opening clips", len(clips), unit="clip", disable=not progress)
        looks = dict(zip(clips, bar, strict=True))
    findings = [*_of_table(table, problems), *_of_clips(table, looks)]
    if equal := tuple(table.equal(group) for group in copies if id(group) not in wrong):
        message = f"{_many(len(equal), 'group')} of equal clips on one side"
        findings.append(Finding("warning", "identical clips", message, equal))
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    report = DoctorReport(table, tuple(findings), looks, time.perf_counter() - start)
    if out is not None:
        report.write(out)
    return report


def _report_path(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.suffix != ".html":
        raise ValueError(f"out={str(path)!r} must end in .html, such as report.html")
    return path


def _many(number: int, thing: str) -> str:
    """Number and noun: "1 clip", "2,000 clips"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


# ---- Findings from lists, names and counts; no clip is opened ----------------------------------


def _of_table(table: Annotations, problems: Sequence[Problem]) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(str(problem))
    for kind, places in kinds.items():
        yield Finding("error", kind, _many(len(places), "problem"), tuple(places))
    if (labels := published_labels(table.dataset)) is not None:
        yield from counts_findings(table, labels)
    if table.dataset != "voxceleb2":
        yield from _of_classes(table)
    for note in table.notes:
        yield Finding("warning" if note in table.doubts else "note", "reading", note)


def counts_findings(table: Annotations, labels: Labels) -> Iterator[Finding]:
    """Compare clips per class and fold with the published ones."""
    found, published = table.counts(), labels.clips_per_class
    clips, triples = _many(sum(found), "clip"), zip(table.classes, found, published, strict=True)
    differing = tuple(f"{name}: {n:,} clips, published {p:,}" for name, n, p in triples if n != p)
    if not differing:
        yield Finding("note", "counts", "clips per class are the published ones")
    elif sorted(found) == sorted(published):
        message = "clips per class are the published ones of other classes: another label order"
        yield Finding("error", "label order", message, differing)
    elif sum(found) < SAMPLE * sum(published):
        message = f"a sample with {clips} of {sum(published):,} published; scores cannot be "
        yield Finding("warning", "counts", message + "compared with the paper's")
    else:
        yield Finding("error", "counts", f"{clips}, published are {sum(published):,}", differing)
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
        message = f"clips per class and side of the folds are {'not ' * bool(other)}the published"
        yield Finding("error" if other else "note", "folds", message + " ones", other)


def _of_classes(table: Annotations) -> Iterator[Finding]:
    def lacking(clips: Sequence[Clip] | None = None) -> list[str]:
        return [table.classes[i] for i, number in enumerate(table.counts(clips)) if not number]

    if len(table.classes) < 2:
        text = f"one class ({', '.join(table.classes)}) and nothing to classify"
        yield Finding("error", "classes", text)
    if not table.num_folds:
        yield Finding("warning", "folds", "no clip is tested, so no score can be computed")
    if empty := lacking():
        message = f"no clip of {', '.join(empty)}; a recall of it cannot be computed"
        yield Finding("error", "empty class", message)
    for fold in range(1, table.num_folds + 1):
        for part, clips in zip(("training", "test"), table.sides(fold), strict=True):
            if names := [name for name in lacking(clips) if name not in empty]:
                message = f"fold {fold} has no {part} clip of {', '.join(names)}"
                yield Finding("error", f"class without {part} clip", message)


# ---- Findings from the clips: each is opened, video files decoded once -------------------------


def _of_clips(table: Annotations, looks: dict[Clip, Glance | str]) -> Iterator[Finding]:
    seen = {clip: look for clip, look in looks.items() if isinstance(look, Glance)}
    broken = {clip: look for clip, look in looks.items() if isinstance(look, str)}
    damaged = {clip: look.damage for clip, look in seen.items() if look.damage}
    for check, wrong in (("unreadable clips", broken), ("damaged clips", damaged)):
        if wrong:
            where = tuple(f"{table.name(clip)}: {why}" for clip, why in wrong.items())
            yield Finding("error", check, f"{len(wrong):,} of {len(looks):,}", where)
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
    for level, check, what, is_so in _OF_A_CLIP:
        if where := tuple(
            f"{table.name(clip)}: {_many(look.frames, 'frame')}, {look.sides[0]} x {look.sides[1]}"
            for clip, look in seen.items()
            if is_so(look, recipe.framing)
        ):
            yield Finding(level, check, f"{_many(len(where), 'clip')} {what}", where)
    for remark in dict.fromkeys(remark for look in seen.values() for remark in look.remarks):
        where = tuple(table.name(clip) for clip, look in seen.items() if remark in look.remarks)
        text = f"{len(where):,} {remark}"
        if remark not in ORDERS:
            yield Finding("note", "reading", text, where)
            continue
        if remark == UNSORTED and table.dataset in TEXT_ORDER:
            text = f"{_many(len(where), 'clip')}, read so here as well"
        yield Finding("warning", "frame order", f"{ORDERS[remark]}: {text}", where)


# ---- A picture of one clip per class -----------------------------------------------------------


def contact_sheet(table: Annotations, clips: Sequence[Clip]) -> tuple[Image.Image, str]:
    """A row per class: frames of the first of `clips` that can be read, else grey; and its name.

    They are framed as fine-tuning frames this data set.
    """
    rows, lines, recipe = [], [], finetune_recipe(table.dataset, len(table))
    for label, name in enumerate(table.classes):
        frames = np.full((len(SHOWN), CLIP_PX, CLIP_PX, 3), 128, np.uint8)
        caption = "no clip that can be read"
        for clip in [clip for clip in clips if clip.label == label][:5]:
            with contextlib.suppress(VideoError, OSError):
                reader = table.open(clip)
                chosen = clip_indices(len(reader), CLIP_FRAMES, recipe.stride)[list(SHOWN)]
                whole = Box(0, 0, reader.height, reader.width)
                box = whole if recipe.framing == "whole" else face_square(reader)
                frames = crop_and_resize(reader.read(chosen), box, CLIP_PX, CLIP_PX)
                caption = table.name(clip)
                break
        rows.append(np.concatenate(frames, axis=1))
        lines.append(f"{label}  {name}: {caption}")
    return Image.fromarray(np.concatenate(rows)), "\n".join(lines)
