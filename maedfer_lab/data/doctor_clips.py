"""What can be wrong with the clips: each is opened, none decoded as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from maedfer_lab.config import finetune_recipe
from maedfer_lab.data.doctor_findings import Finding, in_words
from maedfer_lab.data.labels import published_labels
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.data.video_glance import Glance, content_digest, glance
from maedfer_lab.data.video_reader import VideoError

THREADS = 8
ALIGNED = 0.95  # share of clips with exactly 16 frames from which on they are interpolated ones
CLIP_FRAMES = 16
CLIP_PX = 160
SQUARE = 1.15  # longer over shorter side up to which a picture passes for a face crop
LARGE_PX = 1280
BINS = (1, 2, 16, 17, 32, 64, 128, 256, 512)

Looks = dict[Clip, Glance | str]  # or why it cannot be read


def look_at(clips: Sequence[Clip], progress: bool = True) -> Looks:
    """Glance at every clip, in threads."""
    from tqdm.auto import tqdm

    def look(clip: Clip) -> Glance | str:
        try:
            return glance(clip.path)
        except VideoError as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(look, clips)
        bar = tqdm(found, "looking at clips", len(clips), unit="clip", disable=not progress)
        return dict(zip(clips, bar, strict=True))


def clip_findings(table: Annotations, looks: Looks, progress: bool = True) -> Iterator[Finding]:
    """Everything that a look at the clips tells."""
    broken = tuple(
        f"{table.name(clip)}: {reason}" for clip, reason in looks.items() if isinstance(reason, str)
    )
    if broken:
        message = f"{in_words(len(broken), 'clip')} of {len(looks):,} cannot be read"
        yield Finding("error", "unreadable clips", message, broken)
    seen = {clip: look for clip, look in looks.items() if isinstance(look, Glance)}
    if seen:
        yield from _of_frames(table, seen)
        yield from _of_sizes(table, seen)
        yield from _of_content(table, seen, progress)
    remarks = Counter(remark for look in seen.values() for remark in look.remarks)
    for remark in remarks:
        where = tuple(table.name(clip) for clip, look in seen.items() if remark in look.remarks)
        yield Finding("note", "reading", f"{len(where):,} {remark}", where)


def _of_frames(table: Annotations, seen: dict[Clip, Glance]) -> Iterator[Finding]:
    stride = finetune_recipe(table.dataset, len(table)).stride
    frames = np.array([look.frames for look in seen.values()])
    if (frames == CLIP_FRAMES).mean() >= ALIGNED:
        message = "these look like 16-frame time-aligned clips; this recipe needs the original ones"
        if stride > 1:
            kept = CLIP_FRAMES // stride
            message += f": at stride {stride} it would see {kept} different frames of each"
        spoils = stride > 1 and published_labels(table.dataset) is not None
        yield Finding("error" if spoils else "warning", "frame counts", message)
    elif published_labels(table.dataset):
        message = "these look like original clips, which this recipe needs"
        yield Finding("note", "frame counts", message)
    still = tuple(table.name(clip) for clip, look in seen.items() if look.frames == 1)
    if still:
        message = f"{in_words(len(still), 'clip')} of one frame: a still picture, no motion"
        yield Finding("warning", "one-frame clips", message, still)
    short = tuple(
        f"{table.name(clip)}: {look.frames} frames"
        for clip, look in seen.items()
        if 1 < look.frames < CLIP_FRAMES
    )
    if short:
        message = f"{in_words(len(short), 'clip')} of under 16 frames; the last is repeated"
        yield Finding("note", "short clips", message, short)


def _of_sizes(table: Annotations, seen: dict[Clip, Glance]) -> Iterator[Finding]:
    sides = {clip: (look.width, look.height) for clip, look in seen.items()}
    crops_needed = finetune_recipe(table.dataset, len(table)).framing == "whole"
    oblong = tuple(
        f"{table.name(clip)}: {w} x {h}"
        for clip, (w, h) in sides.items()
        if max(w, h) > SQUARE * min(w, h)
    )
    if oblong and crops_needed:
        message = (
            f"{in_words(len(oblong), 'clip')} not square: the published runs use aligned crops of "
            "faces, and the recipe stretches the whole picture to a square; crop the faces first "
            "(maedfer prepare)"
        )
        yield Finding("warning", "no face crops", message, oblong)
    for check, what, where in (
        (
            "small pictures",
            f"smaller than the {CLIP_PX} pixels of a training clip: they are enlarged",
            [clip for clip, side in sides.items() if min(side) < CLIP_PX],
        ),
        (
            "large pictures",
            "far larger than a training clip: decoding will brake (maedfer prepare)",
            [clip for clip, side in sides.items() if max(side) > LARGE_PX],
        ),
    ):
        if where:
            names = tuple(f"{table.name(c)}: {sides[c][0]} x {sides[c][1]}" for c in where)
            yield Finding("note", check, f"{in_words(len(where), 'clip')} {what}", names)


def _of_content(table: Annotations, seen: dict[Clip, Glance], progress: bool) -> Iterator[Finding]:
    """Equal bytes: only clips of equal size and length are read in full."""
    from tqdm.auto import tqdm

    sizes = Counter((look.size, look.frames) for look in seen.values())
    same_size = [clip for clip, look in seen.items() if sizes[look.size, look.frames] > 1]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda clip: content_digest(clip.path), same_size)
        bar = tqdm(
            digests,
            "comparing clips",
            len(same_size),
            unit="clip",
            disable=not (progress and same_size),
        )
        keyed = sorted(zip(bar, range(len(same_size)), strict=True))
    groups = [
        [same_size[i] for _, i in group] for _, group in groupby(keyed, key=lambda pair: pair[0])
    ]
    copies = [group for group in groups if len(group) > 1]

    def told(chosen: list[list[Clip]]) -> tuple[str, ...]:
        return tuple(
            " = ".join(f"{table.name(c)} ({table.classes[c.label]}, fold {c.fold})" for c in group)
            for group in chosen
        )

    labels = [group for group in copies if len({clip.label for clip in group}) > 1]
    folds = [g for g in copies if g not in labels and len({clip.fold for clip in g}) > 1]
    rest = [group for group in copies if group not in labels and group not in folds]
    if labels:
        message = f"{in_words(len(labels), 'group')} of equal clips under different labels"
        yield Finding("error", "identical clips", message, told(labels))
    if folds:
        message = f"{in_words(len(folds), 'group')} of equal clips in training and test"
        yield Finding("error", "identical clips", message, told(folds))
    if rest:
        message = f"{in_words(len(rest), 'group')} of equal clips on one side"
        yield Finding("warning", "identical clips", message, told(rest))


def frame_histogram(looks: Looks, width: int = 40) -> list[str]:
    """Clips by their number of frames, as bars of text."""
    frames = np.array([look.frames for look in looks.values() if isinstance(look, Glance)])
    if not len(frames):
        return []
    counts = [
        int(((frames >= low) & (frames < high)).sum())
        for low, high in zip(BINS, (*BINS[1:], np.inf), strict=True)
    ]
    lines = []
    for low, high, count in zip(BINS, (*BINS[1:], None), counts, strict=True):
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        bar = "#" * round(width * count / max(counts)) or "." * (count > 0)
        lines.append(f"{name:>8} frames {count:>8,}  {bar}".rstrip())
    return lines


def size_lines(looks: Looks, most: int = 5) -> list[str]:
    """The most frequent picture sizes."""
    sizes = Counter((s.width, s.height) for s in looks.values() if isinstance(s, Glance))
    lines = [f"{w:>5} x {h:<5} {count:>8,} clips" for (w, h), count in sizes.most_common(most)]
    others = sum(sizes.values()) - sum(count for _, count in sizes.most_common(most))
    return [*lines, f"{'others':>13} {others:>8,} clips"] if others else lines
