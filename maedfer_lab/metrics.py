"""Scores of a classifier with their intervals, and probes of features. Without torch.

A class without test clips has no recall: UAR is the mean over the classes that have some. (The
official script averages over the classes in scikit-learn's matrix, and gives nan if one of them
occurs only in predictions.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SCORES = ("uar", "war", "macro_f1", "weighted_f1")
Intervals = dict[str, tuple[float, float]]
STRENGTHS = (0.1, 1.0, 10.0)  # C of probes whose clips have a norm of about 1


def confusion_matrix(
    labels: Int[np.ndarray, " n"], guesses: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """How often each class (row) was predicted as each class (column)."""
    for name, values in (("labels", labels), ("guesses", guesses)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name} hold {values.min()} to {values.max()}; with num_classes={num_classes} "
                f"they must lie in 0 to {num_classes - 1}"
            )
    cells = np.bincount(labels * num_classes + guesses, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def recalls(confusion: Int[np.ndarray, "*m k k"]) -> Float[np.ndarray, "*m k"]:
    """Share of each class's clips that were recognised, in [0, 1]; nan for a class without any."""
    return _share(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1))


def f1(confusion: Int[np.ndarray, "*m k k"]) -> Float[np.ndarray, "*m k"]:
    """Harmonic mean of recall and precision; nan for a class neither present nor predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _share(2 * hits, confusion.sum(-1) + confusion.sum(-2))


def scores(confusion: Int[np.ndarray, "*m k k"]) -> dict[str, Float[np.ndarray, "*m"]]:
    """The SCORES of one matrix or, along the first axes, of many; in [0, 1]."""
    clips = confusion.sum(-1)
    total = clips.sum(-1)
    if not np.all(total):
        raise ValueError("confusion holds no clip; it must hold at least one, such as [[1, 0]]")
    own = f1(confusion)
    war = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1) / total
    weighted = np.nansum(own * clips, -1) / total
    found = np.nanmean(recalls(confusion), -1), war, np.nanmean(own, -1), weighted
    return dict(zip(SCORES, map(np.asarray, found), strict=True))


def uar(confusion: Int[np.ndarray, "k k"]) -> float:
    """Unweighted average recall: the mean of the recalls of all classes that have clips."""
    return float(scores(confusion)["uar"])


def war(confusion: Int[np.ndarray, "k k"]) -> float:
    """Weighted average recall, that is accuracy: the share of all clips that were recognised."""
    return float(scores(confusion)["war"])


def bootstrap(
    labels: Int[np.ndarray, " n"], guesses: Int[np.ndarray, " n"], num_classes: int,
    subjects: Sequence[str] | None = None, *, resamples: int = 2000, level: float = 0.95,
    seed: int = 0,
) -> Intervals:  # fmt: skip
    """Percentile intervals of the SCORES over resampled test sets.

    Clips are drawn with replacement, or with `subjects` (one name per clip) whole people: clips of
    one person are correlated, so intervals over clips are too narrow for generalisation to other
    people. Neither includes the variance of training.
    """
    people = None
    if subjects is None:  # n draws of clips fill the cells of the matrix as one multinomial
        number = len(labels)
        shares = confusion_matrix(labels, guesses, num_classes).ravel() / max(number, 1)
    else:
        names, of_person = np.unique(np.array(subjects), return_inverse=True)
        number, shares = len(names), np.full(len(names), 1 / len(names))
        people = np.zeros((number, num_classes**2), dtype=np.int64)
        np.add.at(people, (of_person, labels * num_classes + guesses), 1)

    def of(drawn: Int[np.ndarray, "m n"]) -> dict[str, np.ndarray]:
        cells = drawn if people is None else drawn @ people
        return scores(cells.reshape(len(drawn), num_classes, num_classes))

    return resampled(of, shares, number, resamples=resamples, level=level, seed=seed)


def resampled(
    of: Callable[[Int[np.ndarray, "m n"]], dict[str, np.ndarray]], shares: Float[np.ndarray, " n"],
    number: int, *, resamples: int = 2000, level: float = 0.95, seed: int = 0,
) -> Intervals:  # fmt: skip
    """Percentile bootstrap of any statistics.

    of: the statistics, (m,) each, of m draws (how often each of n units was drawn).
    shares: probability of each unit. number: draws of each resample.
    """
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"resamples={resamples} must be at least 1 and level={level} lie between 0 and 1; try "
            "2000 and 0.95"
        )
    drawn = np.random.default_rng(seed).multinomial(number, shares, resamples)
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {name: tuple(np.quantile(x, tails).tolist()) for name, x in of(drawn).items()}


def standardise(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Every channel with mean 0 and standard deviation 1, so that none dominates distances."""
    centred = features - features.mean(0)
    return centred / np.maximum(centred.std(0), 1e-6)


def neighbour_share(
    features: Float[np.ndarray, "n d"], names: Sequence[str | int], metric: str = "cosine"
) -> float:
    """Share of clips, in [0, 1], whose nearest neighbour has the same name (scikit-learn).

    Only clips whose name occurs more than once count.
    """
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1, metric=metric).fit(features)
    index = nearest.kneighbors(return_distance=False)[:, 0]  # without queries: other clips alone
    _, of_name, counts = np.unique(np.array(names), return_inverse=True, return_counts=True)
    return float(np.mean((of_name == of_name[index])[counts[of_name] > 1]))


def map_features(
    features: Float[np.ndarray, "n d"], seed: int = 0, perplexity: float = 30.0
) -> Float[np.ndarray, "n 2"]:
    """Positions in the plane by t-SNE (scikit-learn): neighbourhoods are kept, distances are not.

    perplexity: about how many neighbours count; at most a third of the clips.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4:
        raise ValueError(f"{len(features)} features are too few for a map; give at least 4")
    fitting = min(perplexity, (len(features) - 1) / 3)
    placed = TSNE(2, perplexity=fitting, init="pca", random_state=seed)
    return placed.fit_transform(features).astype(float)


def linear_probe(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"],
    unseen: Float[np.ndarray, "m d"], num_classes: int, strength: float = 1.0,
) -> Float[np.ndarray, "m k"]:  # fmt: skip
    """Class probabilities of unseen clips by logistic regression on standardised features.

    Frozen features vary little around a common mean, so that a head trained by gradient descent
    misses information that a regression solved to its optimum finds (scikit-learn).

    strength: C, the inverse of the penalty; small for many features and few labels.
    """
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=strength, max_iter=2000)
    return _chances(probe, features, labels, unseen, num_classes)


def probe_person(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "m n"], people: Sequence[str],
    person: str,
) -> Int[np.ndarray, "m u"]:  # fmt: skip
    """Predictions for one person's clips by a linear probe of all other people, for m labellings.

    Logistic regression on standardised features (scikit-learn), with balanced class weights and the
    one of the `STRENGTHS` that gives the best UAR between two halves of the other people: nothing
    is fitted on the person.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    names = np.array(people)
    unseen = names == person
    scale = StandardScaler().fit(features[~unseen])
    known, new = (scale.transform(features[at]) / features.shape[1] ** 0.5
                  for at in (~unseen, unseen))  # fmt: skip
    if len(known) < known.shape[1]:  # rotated into the span of the clips: the same probe, faster
        u, s, turn = np.linalg.svd(known, full_matrices=False)
        known, new = u * s, new @ turn.T
    _, first, of = np.unique(names[~unseen], return_index=True, return_inverse=True)

    def guess(x: np.ndarray, y: np.ndarray, other: np.ndarray, strength: float) -> np.ndarray:
        probe = LogisticRegression(C=strength, class_weight="balanced", max_iter=500, tol=1e-3)
        return probe.fit(x, y).predict(other) if len(np.unique(y)) > 1 else np.full(len(other), -1)

    def between_halves(own: np.ndarray, strength: float) -> float:
        half = own[first].argsort(kind="stable").argsort()[of] % 2  # each class in both, if it can
        right = np.zeros(len(own), dtype=bool)
        for one, other in ((half == 0, half == 1), (half == 1, half == 0)):
            right[other] = guess(known[one], own[one], known[other], strength) == own[other]
        return float(np.mean([right[own == k].mean() for k in np.unique(own)]))

    return np.array([
        guess(known, own, new, max(STRENGTHS, key=lambda c: between_halves(own, c)))
        for own in labels[:, ~unseen]
    ])  # fmt: skip


def permuted(
    labels: Int[np.ndarray, " n"], people: Sequence[str], number: int, seed: int = 0
) -> tuple[Int[np.ndarray, "m n"], str]:
    """`number` labellings, exchangeable with the true one under the null; and how, as text.

    Labels are permuted within each person who shows several classes, which controls for identity;
    people who show one class exchange it with each other.
    """
    rng = np.random.default_rng(seed)
    _, first, of = np.unique(np.array(people), return_index=True, return_inverse=True)
    single = np.array([len(set(labels[of == i])) == 1 for i in range(len(first))])
    groups = [of == i for i in np.flatnonzero(~single)]
    found = np.tile(labels, (number, 1))
    for row in found:
        own = labels[first]
        own[single] = rng.permutation(own[single])
        row[:] = np.where(single[of], own[of], row)
        for group in groups:
            row[group] = rng.permutation(row[group])
    parts = [f"permuted within each of the {len(groups)} people who show several classes"]
    parts += [f"exchanged between the {single.sum()} people who show one class"]
    return found, " and ".join(parts[not groups : 2 - (single.sum() < 2)])


def nearest_classes(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"],
    unseen: Float[np.ndarray, "m d"], num_classes: int, neighbours: int = 10,
) -> Float[np.ndarray, "m k"]:  # fmt: skip
    """Class shares among the nearest labelled clips (cosine, standardised features)."""
    from sklearn.neighbors import KNeighborsClassifier

    probe = KNeighborsClassifier(min(neighbours, len(labels)), metric="cosine")
    return _chances(probe, features, labels, unseen, num_classes)


def _chances(
    probe: Any, features: np.ndarray, labels: np.ndarray, unseen: np.ndarray, num_classes: int
) -> np.ndarray:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), probe).fit(features, labels)
    found = np.zeros((len(unseen), num_classes))
    found[:, fitted.classes_] = fitted.predict_proba(unseen)
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
