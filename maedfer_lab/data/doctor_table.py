"""What can be wrong with the table itself: counts, labels, folds, people. No clip is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maedfer_lab.data.doctor_findings import Finding, in_words, listed
from maedfer_lab.data.labels import Labels, label_number, published_labels
from maedfer_lab.data.table import Annotations, Clip, Problem

SAMPLE = 0.5  # a copy with fewer of the published clips is a sample made on purpose

_SENTENCES = {
    "missing": ("missing clips", "lines name a clip that is not there"),
    "label": ("label range", "lines have a label that the data set does not know"),
    "duplicate": ("duplicates", "clips are listed twice"),
    "two labels": ("two labels", "clips have different labels in different lists"),
    "train and test": ("train and test", "clips are trained on and tested in the same fold"),
    "tested twice": ("tested twice", "clips are tested in two folds"),
    "folds disagree": ("folds disagree", "folds do not share one set of clips"),
    "encoding": ("encoding", "lists are not UTF-8"),
    "format": ("format", "lines cannot be understood"),
    "name": ("file names", "videos have a name that tells no class"),
    "subject": ("subjects", "videos show a person of no published fold"),
    "people": ("people", "sides cannot be held apart"),
}


def table_findings(table: Annotations, problems: Sequence[Problem]) -> Iterator[Finding]:
    """Everything that lists, names and counts tell."""
    yield from _of_problems(problems, len(table.classes))
    labels = published_labels(table.dataset)
    if labels is not None:
        yield from counts_findings(table, labels)
        yield from _of_names(table, labels)
    if table.dataset != "voxceleb2":
        yield from _of_classes(table)
    yield from _of_people(table)
    yield from (Finding("note", "reading", note) for note in table.notes)


def _of_problems(problems: Sequence[Problem], num_classes: int) -> Iterator[Finding]:
    kinds = dict.fromkeys(problem.kind for problem in problems)
    for kind in kinds:
        places = tuple(str(problem) for problem in problems if problem.kind == kind)
        check, what = _SENTENCES[kind]
        message = f"{len(places):,} {what}"
        if kind == "label" and all(f"label '{num_classes}'" in place for place in places):
            message += "; the list seems to count from 1: take one off, as the official code does"
        yield Finding("error", check, message, places)


def counts_findings(table: Annotations, labels: Labels) -> Iterator[Finding]:
    """Compare clips per class and fold with the published ones."""
    found, published = table.counts(), labels.clips_per_class
    share = sum(found) / sum(published)
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
    elif share < SAMPLE:
        message = (
            f"a sample with {in_words(sum(found), 'clip')} of {sum(published):,} published; scores "
            "cannot be compared with the paper's"
        )
        yield Finding("warning", "counts", message)
    else:
        message = f"{in_words(sum(found), 'clip')}, published are {sum(published):,}"
        yield Finding("error", "counts", message, differing)
    if table.num_folds != labels.num_folds:
        message = f"{in_words(table.num_folds, 'fold')}, published are {labels.num_folds}"
        yield Finding("warning", "folds", message)
    elif not differing:
        yield from _of_folds(table, labels)


def _of_folds(table: Annotations, labels: Labels) -> Iterator[Finding]:
    other = tuple(
        f"fold {fold} {part}: {listed([str(n) for n in found], 11)}, published "
        f"{listed([str(n) for n in labels.counts[fold, part]], 11)}"
        for fold in range(1, labels.num_folds + 1)
        for part, clips in zip(("train", "test"), table.split(fold), strict=True)
        if (found := table.counts(clips)) != labels.counts[fold, part]
    )
    if other:
        message = "the sides of the folds are not the published ones"
        yield Finding("error", "folds", message, other)
    else:
        yield Finding("note", "folds", "clips per class and fold are the published ones")


def name_label(dataset: str, clip: Clip, classes: Sequence[str]) -> int | None:
    """The label that a clip's own path tells, in the data sets whose paths do."""
    name = clip.path.name
    if dataset == "ferv39k":
        return label_number(clip.path.parent.name, classes)
    if dataset == "enterface":
        below = [label_number(part, classes) for part in clip.path.parts[-4:-1]]
        return next((label for label in below if label is not None), None)
    if dataset == "cremad" and name.count("_") >= 3:
        codes = [word[:3].upper() for word in classes]
        code = name.split("_")[2]
        return codes.index(code) if code in codes else None
    if dataset == "ravdess" and name.count("-") == 6 and name[6:8].isdigit():
        return int(name[6:8]) - 1
    return None


def _of_names(table: Annotations, labels: Labels) -> Iterator[Finding]:
    classes = table.classes
    told = {clip: name_label(labels.name, clip, classes) for clip in table.clips}
    wrong = tuple(
        f"{table.name(clip)} is listed as {classes[clip.label]} ({clip.source})"
        for clip, label in told.items()
        if label is not None and label != clip.label
    )
    if wrong:
        message = f"{in_words(len(wrong), 'clip')} listed as another class than the path says"
        yield Finding("error", "label order", message, wrong)


def _of_classes(table: Annotations) -> Iterator[Finding]:
    if not table.num_folds:
        yield Finding("warning", "folds", "no clip is tested, so no score can be computed")
    empty = [name for name, n in zip(table.classes, table.counts(), strict=True) if not n]
    if empty:
        message = f"no clip of {listed(empty, 11)}; a recall of it cannot be computed"
        yield Finding("error", "empty class", message)
    for fold in range(1, table.num_folds + 1):
        for part, clips in zip(("training", "test"), table.split(fold), strict=True):
            counted = zip(table.classes, table.counts(clips), strict=True)
            lacking = [name for name, n in counted if not n and name not in empty]
            if lacking:
                message = f"fold {fold} has no {part} clip of {listed(lacking, 11)}"
                yield Finding("error", f"class without {part} clip", message)


def _of_people(table: Annotations) -> Iterator[Finding]:
    folds: dict[str, set[int]] = {}
    for clip in table.clips:
        if clip.subject is not None:
            folds.setdefault(clip.subject, set()).add(clip.fold)
    both = tuple(
        f"subject {who} in folds {', '.join(map(str, sorted(numbers)))}"
        for who, numbers in folds.items()
        if len(numbers) > 1
    )
    if both:
        message = f"{in_words(len(both), 'person')} trained on and tested: faces can be learned"
        message = message.replace("persons", "people")
        yield Finding("error", "subject overlap", message, both)
