"""What is true of any face without labels, and whether features carry labels of one's own."""

# pyright: reportArgumentType=false, reportCallIssue=false

import json
import sys
from itertools import product
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from making_videos import write_images

from maedfer_lab.checkpoints.saving import save_pretrained
from maedfer_lab.cli import main
from maedfer_lab.config import tiny
from maedfer_lab.data.faces import FaceBox
from maedfer_lab.drawn.people import AU_NUMBERS, CENTRE_X, EYE_Y, sample_identity
from maedfer_lab.drawn.scene import render_face, sample_scene
from maedfer_lab.inference.movement import NAMES, movement
from maedfer_lab.inference.probe import FER_NAMES, hog, of_expressions, probe
from maedfer_lab.method.models import build_autoencoder
from maedfer_lab.metrics import permuted, probe_person

MOVES = {"brows": (1, 2), "eyes": (45,), "mouth": (25, 26)}  # action units


def drawn(units, path, frames=40):
    """A drawn person who holds still but for these units, twice; and a detector of that face."""
    rng = np.random.default_rng(3)
    who, scene = sample_identity(rng), sample_scene(0.0, rng)
    scene.noise, scene.pose_swing, scene.gaze_swing = 0.0, scene.pose_swing * 0, [0.0, 0.0]
    timeline = np.zeros((frames, len(AU_NUMBERS)))
    for unit in units:
        timeline[5:10, AU_NUMBERS.index(unit)] = timeline[25:30, AU_NUMBERS.index(unit)] = 1.0
    size = (who.mouth_y - EYE_Y) / 0.37  # where detectors put a box: eyes at .39, mouth at .76
    left, top = CENTRE_X - 0.36 * size, EYE_Y - 0.39 * size
    box = [160 * x for x in (left, top, 0.72 * size, size)]
    write_images(path, render_face(who, timeline, scene, 160))
    return lambda frame: [FaceBox(*box, 1.0)]


@pytest.mark.parametrize("region", MOVES)
def test_a_region_that_moves_is_found_moving(region, tmp_path):
    detect = drawn(MOVES[region], tmp_path / "face")
    found = movement(tmp_path / "face", detect=detect, stride=1, progress=False)
    most = {name: value.max() for name in NAMES for value in [found.values(name)]}
    others = [most[name] for name in (*MOVES, "nose") if name != region]
    assert most[region] > 1.5 * max(others) and most["head"] < 0.01, most
    moved = [start + 0.04 for start, _, most in found.intervals(region) if most > 1]
    assert moved == pytest.approx([5 / 25, 10 / 25, 25 / 25, 30 / 25]), "there, back, twice"
    tokens = {name: found.values(f"{name}_tokens") for name in (*MOVES, "nose")}
    assert max(tokens, key=lambda name: np.nanmax(tokens[name])) == region
    # Clips of 16 frames from every start: no pair lacks its value but the first and the last.
    assert np.flatnonzero(np.isnan(tokens[region])).tolist() == [0, 38]
    assert np.nanmedian(tokens[region]) < 0.1 * np.nanmax(tokens[region]), "mostly it holds still"


def test_a_head_that_moves_is_followed_and_timed(tmp_path):
    """Half a side of its box a second; what moves with the square stands still in it."""
    frames = np.full((50, 64, 160, 3), 10, np.uint8)
    for i, frame in enumerate(frames):
        frame[12:52, 20 + i // 2 * 2 : 60 + i // 2 * 2] = 150

    def detect(frame):
        left = np.flatnonzero((frame[32] > 40).all(-1))[0]
        return [FaceBox(float(left), 12.0, 40.0, 40.0, 1.0)]

    write_images(tmp_path / "head", frames)
    found = movement(tmp_path / "head", detect=detect, stride=2, progress=False)
    assert np.median(found.values("head")[8:-8]) == pytest.approx(25 / 40, rel=0.05)
    assert np.median(found.values("nose")) < 1


def test_movement_is_written_as_picture_table_and_tiers(tmp_path):
    detect = drawn(MOVES["mouth"], tmp_path / "a face")
    found = movement(tmp_path / "a face", detect=detect, stride=1, out=tmp_path / "m.png",
                     progress=False)  # fmt: skip
    assert [path.suffix for path in found.files] == [".png", ".csv", ".eaf"]
    table = pd.read_csv(tmp_path / "m.csv", comment="#")
    for name in ("mouth", "mouth_tokens"):
        assert table[name].to_numpy() == pytest.approx(found.values(name), abs=1e-3, nan_ok=True)
    root = ElementTree.fromstring((tmp_path / "m.eaf").read_bytes())
    times = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", -1))
             for slot in root.iter("TIME_SLOT")}  # fmt: skip
    assert list(times.values()) == sorted(times.values())
    tiers = {tier.get("TIER_ID"): tier for tier in root.iter("TIER")}
    assert list(tiers) == ["brows", "eyes", "nose", "mouth", "head"]
    notes = [tuple(times[note.get(f"TIME_SLOT_REF{i}")] / 1000 for i in (1, 2))
             for note in tiers["mouth"].iter("ALIGNABLE_ANNOTATION")]  # fmt: skip
    assert notes == [pytest.approx((a, b), abs=1e-3) for a, b, _ in found.intervals("mouth")]
    write_images(tmp_path / "wall", np.full((1, 64, 64, 3), 120, np.uint8))
    for video, more, message in (
        ("x.mp4", {"framing": "whole", "out": tmp_path / "n.png"}, "finds no face"),
        ("x.mp4", {"out": tmp_path / "m.csv"}, "must end in .png"),
        (tmp_path / "wall", {"out": tmp_path / "m.png"}, "no face was found"),
        (tmp_path / "a face", {"detect": detect, "stride": 40}, "frames 40 apart.* or stride=1"),
    ):
        with pytest.raises(ValueError, match=message):
            movement(video, progress=False, **more)
    assert (tmp_path / "wall_no_face.png").is_file()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """24 clips of six people, each with an own background; in half of them a bar is on the left."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for person in range(6):
        colours = rng.integers(0, 50, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for clip in range(4):
            frames = colours[None].repeat(8, 0).copy()
            at = 4 if clip % 2 else 20
            frames[:, :, at : at + 8] = 250
            frames = frames + rng.integers(0, 6, frames.shape).astype(np.uint8)
            write_images(folder / f"person {person}" / f"clip{clip}", frames)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = build_autoencoder(tiny().model, tiny().target)
    return save_pretrained(model, tmp_path_factory.mktemp("autoencoder"))


def labels(path, of, people=6):
    rows = [[f"person {i}/clip{j}", of(i, j), f"p{i}"] for i in range(people) for j in range(4)]
    path.write_text("\n".join(map(",".join, [["path", "label", "subject"], *rows])) + "\n")
    return path


def run(faces, checkpoint, file, **more):
    return probe([faces], file, checkpoint=checkpoint, framing="whole", stride=1, progress=False,
                 **more)  # fmt: skip


def test_planted_labels_are_found_and_others_are_not(faces, checkpoint, tmp_path):
    planted = labels(tmp_path / "side.csv", lambda i, j: "left" if j % 2 else "right")
    found = run(faces, checkpoint, planted, permutations=20)
    assert found.scores["model"]["uar"][0] == 1.0 and found.p == pytest.approx(1 / 21)
    assert "do not" not in found.reading
    assert "within each of the 6 people" in str(found) and "50.0%" in str(found)
    rows = labels(tmp_path / "none.csv", lambda i, j: "ab"[(j // 2 + i) % 2], people=4)
    found = run(faces, checkpoint, rows, permutations=9)
    assert found.p > 0.1 and "do not" in found.reading
    value, low, high = found.scores["model"]["war"]
    assert low <= value <= high


def test_nothing_of_a_person_is_known_to_the_probe_of_that_person():
    rng = np.random.default_rng(0)
    features, people = rng.normal(size=(24, 40)), [f"p{i // 4}" for i in range(24)]
    truth = rng.integers(0, 3, (1, 24))
    expected = probe_person(features, truth, people, "p2")
    other, moved = truth.copy(), features.copy()
    other[:, 8:12] = (other[:, 8:12] + 1) % 3
    moved[9:12] *= 100
    np.testing.assert_array_equal(probe_person(features, other, people, "p2"), expected)
    np.testing.assert_array_equal(probe_person(moved, truth, people, "p2")[:, 0], expected[:, 0])


def test_hog_tells_directions_and_not_contrast():
    stripes = np.sin(np.arange(64) / 3)[None, None, :] * np.ones((1, 64, 1)) / 2 + 0.5
    found = hog(stripes)
    assert found.shape == (1, 7, 7, 36) and found.reshape(-1, 9).argmax(1).max() == 0, "across"
    assert hog(stripes.transpose(0, 2, 1)).reshape(-1, 9).argmax(1).min() == 4, "down"
    np.testing.assert_allclose(hog(stripes / 2), found, atol=1e-6)


def test_labels_are_permuted_within_people_or_between_them():
    people = [f"p{i // 4}" for i in range(24)]
    found, how = permuted(np.tile([0, 1, 1, 2], 6), people, 20)
    assert "within" in how and len(np.unique(found, axis=0)) > 15
    assert (np.sort(found.reshape(-1, 4), 1) == [0, 1, 1, 2]).all()
    found, how = permuted(np.repeat([0, 0, 0, 1, 1, 2], 4), people, 20)
    assert "between the 6 people" in how and "within" not in how
    assert (np.sort(found[:, ::4], 1) == [0, 0, 0, 1, 1, 2]).all()
    assert (found.reshape(20, 6, 4) == found[:, ::4, None]).all()
    found, how = permuted(np.array([0, 1] * 4 + [0] * 8 + [1] * 8), people, 20)
    assert "the 2 people" in how and "the 4 people" in how
    assert len(np.unique(found[:, 8::4], axis=0)) > 3 and (found.sum(1) == 12).all()


def test_folders_of_classes_are_labels_and_fer_is_asked_where_it_is_installed(
    checkpoint, tmp_path, monkeypatch
):
    """A stand-in: it calls a face happy by the share of its square that is bright."""
    for person, shown in product(range(3), ("Happiness", "sad")):
        frames = np.zeros((16, 160, 160, 3), np.uint8)
        frames[:, 50:110, 50:110] = (255 if shown == "Happiness" else 90) - person
        write_images(tmp_path / "clips" / shown / f"p{person}" / "clip", frames)

    class Fer:
        def detect_emotions(self, frame, boxes):
            x, y, width, height = boxes[0]
            bright = float(frame[y : y + height, x : x + width].mean()) / 255
            return [{"emotions": {name: 0.0 for name in FER_NAMES} | {"happy": bright, "sad": 0.5}}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fer", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "fer.fer", SimpleNamespace(FER=Fer))
    options = {"checkpoint": checkpoint, "stride": 1, "permutations": 1, "progress": False}

    def box(frame):
        return [FaceBox(50, 50, 60, 60, 1.0)]

    found = probe([tmp_path / "clips"], framing="wide", detect=box, **options)
    assert found.scores["fer"]["uar"][0] == 1.0, "it is shown the face's box"
    found = probe([tmp_path / "clips"], framing="whole", **options)
    assert {row["fer"] for row in found.videos} == {"sad"}, "and here the whole, mostly dark"
    with pytest.raises(ValueError, match=r"'sad' has 0;.*3 videos could not be used: .*no face"):
        probe([tmp_path / "clips"], detect=lambda x: box(x) if x.max() > 200 else [], **options)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"], "nothing asked for, or written"
    monkeypatch.setitem(sys.modules, "fer.fer", None)
    assert "fer" not in probe([tmp_path / "clips"], framing="whole", **options).scores
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path))
    assert isinstance(of_expressions(tmp_path / "clips"), str)  # no face is found
    for folder, said in (
        (None, "Set MAEDFER_DATA"),
        (tmp_path / "clips" / "sad", "p0"),
    ):
        assert said in str(of_expressions(folder))
    with pytest.raises(ValueError, match="labels=None needs a folder with a sub-folder per class"):
        probe([tmp_path / "clips" / "sad" / "p0" / "clip"] * 2, checkpoint=checkpoint)


def test_the_probes_verb_and_what_it_refuses(faces, checkpoint, tmp_path, capsys):
    file = labels(tmp_path / "l.csv", lambda i, j: "left" if j % 2 else "right", people=4)
    out = tmp_path / "p.json"
    command = ["probe", str(faces), "--checkpoint", str(checkpoint), "--framing", "whole"]
    more = ["--stride", "1", "--permutations", "3", "--out", str(out)]
    assert main([*command, "--labels", str(file), *more]) == 0
    said = capsys.readouterr().out
    assert "16 videos of 4 people" in said and "8 clips below root are in no list" in said
    kept = json.loads(out.read_text())
    assert {"model", "HOG", "raw pixels"} == set(kept["scores"]) and "commit" in kept["provenance"]
    assert len(kept["videos"]) == 16 and {"person", "label", "HOG"} < kept["videos"][0].keys()
    for of, people, message in (
        (lambda i, j: f"only p{i}", 3, "'only p0' has 1 .p0."),
        (lambda i, j: "same", 3, "two classes or more .* only same is there"),
        (lambda i, j: "", 3, "label '' of 'person 0/clip0'"),
        (lambda i, j: "ab"[j % 2], 7, "person 6/clip0' does not exist"),
    ):
        file = labels(tmp_path / "bad.csv", of, people)
        with pytest.raises(ValueError, match=message):
            run(faces, checkpoint, file)
    one = faces / "person 0" / "clip0"
    file = labels(tmp_path / "few.csv", lambda i, j: "ab"[j % 2])
    with pytest.raises(ValueError, match="two people each"):
        probe([one, faces / "person 1" / "clip1"], file, checkpoint=checkpoint, framing="whole")
