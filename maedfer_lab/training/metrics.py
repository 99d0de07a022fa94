"""Scores of a classifier: confusion matrix, unweighted and weighted average recall."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def confusion_matrix(
    labels: Int[np.ndarray, " n"], guesses: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """How often each class (row) was taken for each class (column)."""
    for name, values in (("labels", labels), ("guesses", guesses)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name} hold {values.min()} to {values.max()}; with num_classes={num_classes} "
                f"they must lie in 0 to {num_classes - 1}"
            )
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (labels, guesses), 1)
    return matrix


def recalls(confusion: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Share of each class's clips that were recognised, in [0, 1]; nan for a class without any."""
    counts = confusion.sum(1)
    hits = np.diag(confusion).astype(float)
    return np.divide(hits, counts, out=np.full(len(hits), np.nan), where=counts > 0)


def uar(confusion: Int[np.ndarray, "k k"]) -> float:
    """Unweighted average recall: the mean of the recalls of all classes that occur."""
    _check_not_empty(confusion)
    return float(np.nanmean(recalls(confusion)))


def war(confusion: Int[np.ndarray, "k k"]) -> float:
    """Weighted average recall, that is accuracy: the share of all clips that were recognised."""
    _check_not_empty(confusion)
    return float(np.trace(confusion) / confusion.sum())


def _check_not_empty(confusion: Int[np.ndarray, "k k"]) -> None:
    if not confusion.sum():
        raise ValueError("confusion holds no clip; it must hold at least one, such as [[1, 0]]")
