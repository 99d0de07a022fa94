"""UAR, WAR, recalls and F1 from counts, and how far fold means can differ from pooled scores."""

from __future__ import annotations

from collections.abc import Sequence

from maedfer_lab.paper.reader import SplitCount

Clips = Sequence[Sequence[int]]


def recalls(clips: Clips) -> list[float]:
    """Recall of each class, in [0, 1]: the diagonal over the sums of the rows."""
    return [row[i] / sum(row) for i, row in enumerate(clips)]


def f1_scores(clips: Clips) -> list[float]:
    """F1 of each class: twice what is right over the clips in the class plus those called so."""
    called = [sum(column) for column in zip(*clips, strict=True)]
    return [2 * row[i] / (sum(row) + called[i]) for i, row in enumerate(clips)]


def scores(clips: Clips) -> dict[str, float]:
    """Scores of a confusion matrix as fractions: uar, war, and F1 weighted, macro and micro."""
    rows, f1 = [sum(row) for row in clips], f1_scores(clips)
    total, right = sum(rows), sum(row[i] for i, row in enumerate(clips))
    return {
        "uar": sum(recalls(clips)) / len(rows),
        "war": right / total,
        "weighted_f1": sum(f * n for f, n in zip(f1, rows, strict=True)) / total,
        "macro_f1": sum(f1) / len(f1),
        "micro_f1": right / total,
        "top1": right / total,
    }


def class_clips(splits: Sequence[SplitCount]) -> list[int]:
    """Clips of each class over all folds."""
    return [sum(n) for n in zip(*(split.clips_per_class for split in splits), strict=True)]


def fold_slack(splits: Sequence[SplitCount]) -> float:
    """How far WAR can lie from the share-weighted class recalls, whatever the folds' recalls are.

    Recalls and WAR are means over folds or pooled, and print does not say which. With s clips'
    shares they weigh fold f's recall of class c by w in {s_cf / k, n_cf / N} (WAR) and by e in
    {s_c / k, n_cf / N} (recalls times shares); recalls lie in [0, 1], so the difference is at most
    the sum of the positive (or of the negative) parts of w - e. 0 for a single split.
    """
    total = sum(split.clips for split in splits)
    per_class, k = class_clips(splits), len(splits)
    pooled = [n / total for s in splits for n in s.clips_per_class]
    of_folds = [n / s.clips / k for s in splits for n in s.clips_per_class]
    shares = [n / total / k for _ in splits for n in per_class]
    gaps = [
        [w - e for w, e in zip(war, estimate, strict=True)]
        for war in (pooled, of_folds)
        for estimate in (pooled, shares)
    ]
    return max(abs(sum(x for x in gap if sign * x > 0) + 0.0) for gap in gaps for sign in (1, -1))
