"""Synthetic faces: same bits always, balanced labels, movements where the action units say."""

import hashlib
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maedfer_lab.drawn.faces import SyntheticFaces
from maedfer_lab.drawn.people import (
    ACTION_UNITS,
    AU_NUMBERS,
    EXPRESSIONS,
    PROTOTYPES,
    onset_timeline,
)
from maedfer_lab.drawn.scene import render_face, sample_scene

# Where each region of the face lies, in fractions of the frame: top, bottom.
REGIONS = {
    "brows": (0.22, 0.50),
    "eyes": (0.36, 0.58),
    "cheeks": (0.38, 0.72),
    "nose": (0.36, 0.80),
    "mouth": (0.60, 0.98),
}


def digest(faces: SyntheticFaces, index: int) -> str:
    return hashlib.sha256(faces[index].frames.tobytes()).hexdigest()


def test_clips_are_the_same_bytes_in_any_order_process_and_number_of_threads():
    faces, before = SyntheticFaces(20, num_frames=4), repr(np.random.get_state())  # noqa: NPY002
    forwards, threads = [digest(faces, index) for index in range(6)], cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        backwards = [digest(SyntheticFaces(20, num_frames=4), i) for i in reversed(range(6))]
    finally:
        cv2.setNumThreads(threads)
    assert forwards == backwards[::-1]
    others = (SyntheticFaces(20, num_frames=4, seed=1), SyntheticFaces(20, "test", 4))
    assert len({*forwards, *(digest(each, 0) for each in others)}) == 8, "they differ"
    program = (
        "import hashlib; from maedfer_lab.drawn.faces import SyntheticFaces; "
        "print(hashlib.sha256(SyntheticFaces(20, num_frames=4)[5].frames.tobytes()).hexdigest())"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.strip() == forwards[5], answer.stderr
    assert before == repr(np.random.get_state()), "global randomness stays"  # noqa: NPY002


def test_people_differ_between_splits_and_labels_are_balanced_whoever_is_shown():
    both = [SyntheticFaces(280, split=split) for split in ("train", "test")]
    people = [Counter(faces.identity_of(index) for index in range(280)) for faces in both]
    assert not set(people[0]) & set(people[1])
    assert all(set(count.values()) == {7} for count in people)
    skins = [tuple(both[0].person(who).skin) for split in people for who in split]
    assert len(set(skins)) == len(skins), "no invented person occurs twice"
    faces = SyntheticFaces(1400)
    labels = [faces.labels(index) for index in range(1400)]
    assert set(Counter(labels).values()) == {100}
    people = np.array([faces.identity_of(index) for index in range(1400)])
    for column in np.array(labels).T:
        assert abs(np.corrcoef(column, people)[0, 1]) < 0.08


def test_offset_is_the_onset_backwards():
    faces = SyntheticFaces(28, num_frames=5, size_px=48)
    for index in range(4):
        onset, offset = faces.clip(index, direction=0), faces.clip(index, direction=1)
        assert (offset.frames == onset.frames[::-1]).all()
        assert (onset.label, onset.identity) == (offset.label, offset.identity)
        own = faces[index]
        assert (own.frames == (onset, offset)[own.direction].frames).all()
        assert (own.label, own.direction) == faces.labels(index)
        assert own.expression == EXPRESSIONS[own.label]


@settings(max_examples=40, deadline=None)
@given(label=st.integers(0, 6), num_frames=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_onset_never_falls_and_uses_the_prototype(label, num_frames, seed):
    timeline = onset_timeline(label, num_frames, 0.8, 0.0, np.random.default_rng(seed))
    assert timeline.shape == (num_frames, len(AU_NUMBERS))
    assert ((timeline >= 0.0) & (timeline <= 1.0)).all()
    lasting = np.delete(timeline, AU_NUMBERS.index(45), axis=1)
    assert (np.diff(lasting, axis=0) >= 0.0).all()
    moved = {n for n, column in zip(AU_NUMBERS, timeline.T, strict=True) if column.any()} - {45}
    if EXPRESSIONS[label] == "neutral":
        assert len(moved) == 2
    else:
        assert moved == set(PROTOTYPES[EXPRESSIONS[label]])


@pytest.mark.parametrize("number", ACTION_UNITS)
def test_action_unit_moves_pixels_of_its_region(number):
    faces, size = SyntheticFaces(7), 160
    scene = sample_scene(0.0, np.random.default_rng(3))
    rest = np.zeros((1, len(AU_NUMBERS)))
    apex = rest.copy()
    apex[0, AU_NUMBERS.index(number)] = 1.0
    change = np.zeros((size, size))
    for who in range(4):
        pair = (render_face(faces.person(who), units, scene, size)[0] for units in (rest, apex))
        before, after = (frame.astype(float) for frame in pair)
        change += np.abs(after - before).mean(-1) / 4
    top, bottom = (round(size * edge) for edge in REGIONS[ACTION_UNITS[number].region])
    assert (change > 12).sum() > 0.001 * size**2, "too little to see"
    assert change[top:bottom].sum() > 0.75 * change.sum(), "it shows in the wrong place"


def test_expressions_of_unseen_people_are_read_from_the_movement():
    def sides(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        clips = [clip for clip in SyntheticFaces(number, split, num_frames=2, size_px=64)]
        onsets = np.stack([clip.frames[:: 1 - 2 * clip.direction] for clip in clips]).astype(float)
        coarse = np.diff(onsets, axis=1).reshape(number, 16, 4, 16, 4, 3).mean((2, 4))
        return coarse.reshape(number, -1), np.array([clip.label for clip in clips])

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=300))
    right = probe.fit(*sides("train", 350)).score(*sides("test", 140))
    assert right > 0.5, f"{right:.1%} of unseen people's clips are right; chance is 14.3 %"


def test_difficulty_adds_noise_and_takes_away_intensity():
    def roughness(difficulty: float) -> float:
        corner = SyntheticFaces(2, num_frames=6, difficulty=difficulty)[0].frames[:, :12, :8]
        return corner.astype(float).std(axis=0).mean()

    noises = [roughness(difficulty) for difficulty in (0.0, 0.3, 0.6, 1.0)]
    assert noises == sorted(noises) and noises[-1] > 4 * noises[0]
    easy, hard = (
        np.mean([c.intensity for c in SyntheticFaces(28, num_frames=2, size_px=16, difficulty=d)])
        for d in (0.0, 1.0)
    )
    assert hard < 0.7 * easy


def test_any_size_and_length_and_the_protocol_of_a_sequence():
    for size_px, num_frames in [(33, 3), (224, 2)]:
        frames = SyntheticFaces(1, size_px=size_px, num_frames=num_frames)[0].frames
        assert frames.shape == (num_frames, size_px, size_px, 3)
        assert frames.dtype == np.uint8 and frames.flags.c_contiguous
    faces = SyntheticFaces(3, num_frames=2, size_px=16)
    assert len(faces) == len([clip for clip in faces]) == 3
    assert (faces[-1].frames == faces[np.int64(2)].frames).all()
    with pytest.raises(IndexError, match="there are 3 clips"):
        _ = faces[3]
    with pytest.raises(ValueError, match="direction=2"):
        faces.clip(0, direction=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"difficulty": float("nan")}, "difficulty=nan must lie in 0 to 1"),
        ({"size_px": 3}, "size_px=3 must be at least 16"),
        ({"num_frames": 1}, "num_frames=1 must be at least 2"),
        ({"split": "val"}, "split='val' is unknown; use one of train, test"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"num_identities": 0}, "num_identities=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_settings_are_explained(wrong, message):
    with pytest.raises(ValueError, match=message):
        SyntheticFaces(**{"num_clips": 10, **wrong})
