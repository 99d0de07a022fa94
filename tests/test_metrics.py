"""Scores against scikit-learn and by hand; bootstrap intervals; maps of features."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from maedfer_lab import metrics
from maedfer_lab.metrics import bootstrap, confusion_matrix, f1, recalls, scores, uar, war

answers = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.tuples(*2 * [st.integers(0, k - 1)]), min_size=1, max_size=40).map(
        lambda pairs: (*np.array(pairs).T, k)
    )
)


@given(answers)
def test_scores_are_those_of_scikit_learn(drawn):
    labels, guesses, k = drawn
    matrix = confusion_matrix(labels, guesses, k)
    assert np.array_equal(matrix, reference.confusion_matrix(labels, guesses, labels=np.arange(k)))
    found = scores(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes that are only guessed
        assert found["uar"] == pytest.approx(reference.balanced_accuracy_score(labels, guesses))
        assert found["war"] == pytest.approx(reference.accuracy_score(labels, guesses))
        for kind in ("macro", "weighted"):
            theirs = reference.f1_score(labels, guesses, average=kind, zero_division=0.0)  # type: ignore
            assert found[f"{kind}_f1"] == pytest.approx(theirs)


def test_a_class_without_clips_has_no_recall_and_does_not_count():
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 4)
    assert np.isnan(recalls(matrix)).tolist() == [False, False, True, True]
    assert uar(matrix) == pytest.approx((0.5 + 1) / 2) and war(matrix) == pytest.approx(2 / 3)
    assert f1(matrix)[2] == 0 and np.isnan(f1(matrix)[3]), "guessed only, and not even that"
    many = np.random.default_rng(0).integers(1, 9, (5, 3, 3))
    assert scores(many)["uar"].tolist() == pytest.approx([uar(one) for one in many])


def test_intervals_hold_the_score_and_shrink_with_the_clips():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 4000)
    guesses = np.where(rng.random(4000) < 0.7, labels, (labels + 1) % 3)
    few, many = (bootstrap(labels[:n], guesses[:n], 3) for n in (400, 4000))
    for name, value in scores(confusion_matrix(labels, guesses, 3)).items():
        low, high = many[name]
        assert low < value < high
        assert high - low == pytest.approx((few[name][1] - few[name][0]) / 10**0.5, rel=0.25)
    low, high = many["war"]  # against the normal approximation of a share
    share = war(confusion_matrix(labels, guesses, 3))
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 4000) ** 0.5, rel=0.1)


def test_people_who_are_all_alike_widen_the_interval():
    labels = np.tile([0, 1], 100)
    right = np.repeat(np.arange(20) % 2 == 0, 10)  # every second person is always recognised
    guesses, people = np.where(right, labels, 1 - labels), [f"p{i // 10}" for i in range(200)]
    by_clip, by_person = (bootstrap(labels, guesses, 2, s)["war"] for s in (None, people))
    assert by_person[1] - by_person[0] > 2 * (by_clip[1] - by_clip[0])
    everyone = [str(i) for i in range(200)]  # a person per clip: clips are people
    alone = bootstrap(labels, guesses, 2, everyone)["war"]
    assert alone == pytest.approx(by_clip, abs=0.02)


def test_intervals_are_seeded_and_odd_requests_refused():
    labels, guesses = np.array([0, 1, 1]), np.array([0, 1, 0])
    assert bootstrap(labels, guesses, 2) == bootstrap(labels, guesses, 2)
    assert bootstrap(labels, guesses, 2, resamples=50) != bootstrap(labels, guesses, 2, seed=1)
    with pytest.raises(ValueError, match="level=2"):
        bootstrap(labels, guesses, 2, level=2.0)
    with pytest.raises(ValueError, match="no clip"):
        bootstrap(labels[:0], guesses[:0], 2)


def test_neighbours_probe_and_map_see_what_the_features_hold():
    rng = np.random.default_rng(0)
    people, classes = np.repeat(np.arange(20), 6), np.tile(np.arange(3), 40)
    features = 2 * rng.standard_normal((20, 16))[people] + 2 * np.eye(3, 16)[classes]
    features += 0.3 * rng.standard_normal(features.shape)
    assert metrics.neighbour_share(features, people.tolist()) > 0.9, "people are far apart"
    assert metrics.neighbour_share(features, [f"alone {i}" for i in range(60)] * 2) < 0.1
    guesses = metrics.linear_probe(features[:60], classes[:60], features[60:], 4)
    assert guesses.shape == (60, 4) and np.allclose(guesses.sum(1), 1)
    assert np.mean(guesses.argmax(1) == classes[60:]) > 0.5, "and classes linearly readable"
    places = metrics.map_features(features)
    near = metrics.neighbour_share(places - places.mean(0), people.tolist())
    assert places.shape == (120, 2) and near > 0.3
    apart = np.repeat(np.eye(3), 10, 0) * 20 + rng.normal(size=(30, 3))
    apart = metrics.standardise(apart)
    assert metrics.neighbour_share(apart, (np.arange(30) // 10).tolist(), "euclidean") == 1
    with pytest.raises(ValueError, match="at least 4"):
        metrics.map_features(features[:3])
