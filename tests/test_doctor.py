"""The doctor: healthy folders pass, each spoiled one is caught by name, quick looks are true."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making_datasets import (
    MAKERS,
    linked_copy,
    make_class_folders,
    make_dfew,
    make_official_lists,
    own,
    tiny_video,
    write_lines,
)
from making_videos import cut, moving_frames, spoil, turn, write_images, write_video
from PIL import Image

from maedfer_lab import cli
from maedfer_lab.config import FinetuneConfig, OptimConfig, tiny
from maedfer_lab.data.doctor import DoctorReport, Finding, contact_sheet, counts_findings, doctor
from maedfer_lab.data.labels import published_labels
from maedfer_lab.data.readers import content_digest, glance, open_video
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.data.transforms import Box, clip_indices, crop_and_resize
from maedfer_lab.data.video import VideoError
from maedfer_lab.training.finetune import finetune


def check(name: str, root: Path, lists: Path | None = None, quick: bool = False) -> DoctorReport:
    return doctor(name, root, lists, quick=quick, progress=False)


def of(report: DoctorReport, name: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.check == name]


@pytest.mark.parametrize("name", MAKERS)
def test_a_healthy_folder_passes(name, sets):
    report = check(name, sets[name])
    assert report.exit_status == 0, str(report)
    unpadded = ["frame order"] * (name in ("dfew", "ferv39k"))
    assert [f.check for f in report.findings if f.level == "warning"] == ["counts", *unpadded]
    assert tuple(report.looks) == report.table.clips
    text = str(report)
    assert "natural order" not in text  # the lists are read as the official code reads them
    assert "ready to train" in text and "published" in text and "a sample with" in text
    assert f"all {len(report.looks)} clips" in text and " frames, median " in text


FRAMES = "Clip/clip_224x224/00001"
FERV, LISTS = "2_ClipsforFaceCrop/Action/Sad", "4_setups/All_scenes"
FLV = "VideoFlash/1001_IEO_DIS_XX.flv"
MP4 = "Actor_01/02-01-03-01-01-01-01.mp4"


def remove(root: Path, pattern: str) -> None:
    for path in list(root.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace `old`, a regular expression, in a list."""
    text, number = re.subn(old, new, path.read_text())
    assert number
    path.write_text(text)


def copy(root: Path, source: str, target: str) -> None:
    remove(root, target)
    (shutil.copytree if (root / source).is_dir() else shutil.copy)(root / source, root / target)


SPOILED: list[tuple[str, str, Callable[[Path], object], str]] = [
    # data set, check that must name it, how it is spoiled, words of the report
    ("dfew", "missing clips", lambda r: remove(r, FRAMES), "'1' does not exist"),
    ("dfew", "unreadable clips", lambda r: (own(r / FRAMES) / "7.jpg").write_bytes(b"\xff\xd8\xff"),
     "frame 6 (7.jpg) is broken"),
    ("ferv39k", "label order", lambda r: rewrite(r / LISTS / "train_All.csv", "War/Sad/0001 Sad",
     "War/Sad/0001 Fear"), "War/Sad/0001 is listed as fear"),
    ("ferv39k", "identical clips", lambda r: copy(r, f"{FERV}/0001", f"{FERV}/0002"), "sad, fold"),
    ("ferv39k", "identical clips", lambda r: copy(r, f"{FERV}/0001",
     "2_ClipsforFaceCrop/War/Fear/0001"), "with two labels"),
    ("cremad", "unreadable clips", lambda r: (r / FLV).write_bytes(b""), "empty (0 bytes)"),
    ("cremad", "damaged clips", lambda r: cut(r / FLV, r / FLV, 0.5), "cut off"),
    ("cremad", "empty class", lambda r: remove(r, "VideoFlash/*_NEU_*"), "no clip of neutral"),
    ("ravdess", "class without test clip", lambda r: (r / MP4).unlink(), "fold 1 has no test"),
    ("enterface", "class without test clip", lambda r: remove(r, "subject 44/anger"), "fold 5"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "finding", "spoil", "words"), SPOILED)
def test_a_spoiled_folder_is_caught_by_name(name, finding, spoil, words, sets, tmp_path):
    root = linked_copy(sets[name], tmp_path / name)
    spoil(root)
    report = check(name, root)
    assert report.exit_status == 1
    found = [f for f in of(report, finding) if f.level == "error"]
    printed = "\n".join([f.message + "\n" + "\n".join(f.where) for f in found])
    assert words in printed, f"{printed}\n\n{report}"
    assert report.exit_status == 1


@pytest.mark.parametrize("name", MAKERS)
def test_from_a_folder_to_a_score(name, sets, tmp_path, capsys):
    optim = OptimConfig(steps=2, batch_size=2, warmup_steps=0)
    config = FinetuneConfig(name=name, model=tiny().model, optim=optim, dataset=name,
                            data=sets[name], framing="whole")  # fmt: skip
    run = finetune(config, output=tmp_path)
    assert cli.main(["evaluate", str(run.folder), "--out", str(tmp_path)]) == 0
    printed, labels = capsys.readouterr().out, published_labels(name)
    assert labels and "UAR" in printed and "WAR" in printed and labels.classes[-1] in printed
    (path,) = tmp_path.glob("*.json")
    confusion = json.loads(path.read_text())["confusion"]
    assert len(confusion) == len(labels.classes)
    assert {sum(row) for row in confusion} == {2 if name == "ferv39k" else 1}


def test_sixteen_frame_clips_are_recognised(sets, tmp_path):
    make_dfew(tmp_path, "clip_224x224_16f", num=16)
    (finding,) = of(check("dfew", tmp_path), "frame counts")
    assert finding.level == "error" and "it would see 4 different frames" in finding.message
    (finding,) = of(check("dfew", sets["dfew"]), "frame counts")
    assert finding.level == "note" and "original clips" in finding.message


def test_odd_clips_are_told_without_an_error(sets, tmp_path):
    root = linked_copy(sets["ravdess"], tmp_path / "ravdess")
    clips = sorted((root / "Actor_01").glob("02-01-*"))[:3]
    for clip, shape in zip(clips, ((1, 32, 32), (5, 32, 32), (20, 96, 192)), strict=True):
        write_video(clip, moving_frames(*shape))
    turn(clips[2], 90)
    report = check("ravdess", root)
    assert report.exit_status == 0
    for name, level, clip in zip(("one-frame clips", "short clips"), ("warning", "note"), clips):  # noqa: B905
        (finding,) = of(report, name)
        assert finding.level == level and len(finding.where) == 1
        assert clip.name in finding.where[0]
    assert any("by their metadata" in f.message for f in of(report, "reading"))
    assert not of(report, "no face crops"), "the recipe cuts the faces out of these pictures"


def test_people_on_both_sides_are_told(sets, tmp_path):
    table = read_annotations("cremad", sets["cremad"])
    mixed = [f"{table.name(c)} {c.label}" for c in table.clips]
    write_lines(tmp_path / "train.csv", mixed[::2])
    write_lines(tmp_path / "test.csv", mixed[1::2])
    report = check("cremad", sets["cremad"], tmp_path)
    (finding,) = of(report, "subject overlap")
    assert finding.level == "error" and len(finding.where) == 5
    assert of(report, "class without test clip") and of(report, "folds")


def test_one_class_is_an_error(tmp_path):
    make_class_folders(tmp_path, ("calm",), num=2)
    write_lines(tmp_path / "mine.csv", ["path,label", "calm/take 8.mp4,0", "calm/take 9.mp4,0"])
    (finding,) = of(check("csv", tmp_path / "mine.csv"), "classes")
    assert finding.level == "error" and "one class (0)" in finding.message


def test_lists_that_count_from_one_are_told(sets, tmp_path):
    lists = make_official_lists(tmp_path / "lists")
    for path in lists.rglob("*.csv"):
        rows = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
        write_lines(path, [f"{name} {int(label) + 1}" for name, label in rows])
    (finding,) = of(check("dfew", sets["dfew"], lists), "label range")
    assert all("does the list count from 1?" in where for where in finding.where)


def test_counts_are_compared_with_the_published_ones(tmp_path):
    labels = published_labels("dfew")
    assert labels
    right = labels.clips_per_class

    def dealt(counts: tuple[int, ...], turns: tuple[int, ...] = (1, 2, 3, 4, 5)) -> list[Finding]:
        """Of clips of one class after the other, dealt to the folds in turn."""
        clips = (Clip(tmp_path, c, turns[i % 5]) for c, n in enumerate(counts) for i in range(n))
        table = Annotations("dfew", labels.classes, tuple(clips), tmp_path)
        return list(counts_findings(table, labels))

    for counts, level, name in (
        (right, "note", "counts"),
        (right[::-1], "error", "label order"),
        ((right[0] - 1, *right[1:]), "error", "counts"),
        ((right[0] + 1, *right[1:]), "error", "counts"),
        (tuple(n // 10 + 1 for n in right), "warning", "counts"),
    ):
        assert dealt(counts)[0][:2] == (level, name)
    assert dealt(right)[1][:2] == ("note", "folds")
    (fold,) = [finding for finding in dealt(right, (5, 4, 3, 2, 1)) if finding.level == "error"]
    assert fold.check == "folds"
    assert any(place.startswith("fold 1 test: 489, 378, 5") for place in fold.where)


def test_a_quick_look_opens_a_sample_and_decodes_no_whole_video(sets, monkeypatch, tmp_path):
    monkeypatch.setattr("maedfer_lab.data.doctor.QUICK", 3)
    first, again = (check("mafw", sets["mafw"], quick=True) for _ in range(2))
    assert 11 <= len(first.looks) <= 14 and "a sample of" in str(first)
    assert str(replace(first, seconds=0.0)) == str(replace(again, seconds=0.0))
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    root = make_class_folders(tmp_path / "set")
    whole = write_video(tmp_path / "whole.mp4", noise, options={"bf": "0"})
    spoil(root / "calm" / "take 8.mp4", whole, [11])
    assert of(check("folder", root), "damaged clips")
    assert not of(check("folder", root, quick=True), "damaged clips")


def test_frames_whose_numbers_have_two_readings_are_remarked(tmp_path):
    for i, name in enumerate(("calm", "loud", "calm", "loud")):
        folder = write_images(tmp_path / name / f"take {i}", moving_frames(2))
        for number, new in enumerate(("1.9", "1.10") if i == 0 else ("1.5", "10.5")):
            (folder / f"{number}.png").rename(folder / f"{new}.png")
    (found,) = of(check("folder", tmp_path), "frame order")
    assert found.level == "warning" and found.where == ("calm/take 0",)


@pytest.mark.parametrize("name", ["1.jpg", "001.png", "1_mask.png", "1 (1).png", "Kopie.png"])
def test_frames_that_stand_twice_are_remarked(name, tmp_path):
    for i in range(4):
        write_images(tmp_path / ("calm", "loud")[i % 2] / f"take {i}", moving_frames(9))
    assert not of(check("folder", tmp_path), "frame order")
    folder = tmp_path / "loud" / "take 3"
    shutil.copy(folder / "1.png", folder / name)
    (found,) = of(check("folder", tmp_path), "frame order")
    assert found.level == "warning" and found.where == ("loud/take 3",)


@pytest.mark.parametrize(
    ("name", "is_told"),
    [("{0:03}", False), ("{5:03}", False), ("{0}_of_9", False), ("2024-01-05_{3}", False),
     ("c{1}_{2}", True), ("{4:04}_face{2}", True), ("{6:03}", True), ("{7:03}", True),
     ("{8:.2f}", False)],
)  # fmt: skip
def test_frames_of_several_clips_or_faces_and_gaps_are_remarked(name, is_told, tmp_path):
    """They were read as one clip, one after the other, without a word."""
    numbers = [(i, i // 4, i % 4, i * 100 // 3, i // 4, 5 * i, i + 7 * (i > 4), (3 * i + 1) // 2,
                i / 4) for i in range(8)]  # fmt: skip
    folder = tmp_path / "shots"
    folder.mkdir()
    for frame, number in zip(moving_frames(8, 16, 16), numbers, strict=True):
        Image.fromarray(frame).save(folder / f"{name.format(*number)}.png")
    told = [remark for remark in glance(folder).remarks if "leap" in remark]
    assert len(told) == is_told and len(open_video(folder)) == 8


def test_names_that_are_no_utf8_pass_through_reports(tmp_path):
    odd = make_class_folders(tmp_path / "set") / "calm" / os.fsdecode(b"caf\xe9.mp4")
    try:
        odd.write_bytes(b"")
    except OSError:
        pytest.skip("names are text on this file system")
    page = check("folder", tmp_path / "set").write(tmp_path / "report.html")
    assert r"caf\udce9.mp4" in page.read_text(encoding="utf-8")


def test_the_report_shows_what_the_model_sees(sets, tmp_path):
    report = check("dfew", sets["dfew"])
    page = report.write(tmp_path / "new" / "report.html").read_text()
    assert "data:image/png;base64," in page and "35 clips of 7" in page and "http" not in page
    with pytest.raises(ValueError, match=r"must end in \.html"):
        report.write(tmp_path / "report.pdf")
    table, clip = report.table, report.table.clips[0]
    picture, rows = contact_sheet(table, table.clips)
    assert picture.size == (4 * 160, 7 * 160) and f"0  happy: {table.name(clip)}" in rows
    frames = table.open(clip).read(clip_indices(20, 16, 4)[[0, 5, 10, 15]])
    shown = np.concatenate(crop_and_resize(frames, Box(0, 0, 24, 24), 160, 160), axis=1)
    np.testing.assert_array_equal(np.asarray(picture)[:160], shown)
    gone = replace(table, clips=(replace(clip, path=tmp_path / "gone"),))
    other, rows = contact_sheet(gone, gone.clips)
    assert other.size == picture.size and "0  happy: no clip that can be read" in rows


def test_a_glance_says_what_reading_says(tmp_path):
    frames = moving_frames(23, 32, 48)
    paths = [
        write_video(tmp_path / "a.mp4", frames),
        write_video(tmp_path / "d.flv", frames, codec="flv"),
        write_video(tmp_path / "e.mp4", frames, hide_first=3),
        turn(write_video(tmp_path / "f.mp4", frames), 90),
        write_images(tmp_path / "g", frames),
    ]
    for path in paths:
        look, reader = glance(path), open_video(path)
        assert (look.frames, look.sides) == (len(reader), (reader.width, reader.height))
    assert "read upright" in glance(paths[3]).remarks[0]
    assert "sorted as text" in glance(paths[4]).remarks[0]
    assert content_digest(paths[0]) != content_digest(paths[2])
    shutil.copytree(paths[4], tmp_path / "copy")
    assert content_digest(tmp_path / "copy") == content_digest(paths[4])
    with pytest.raises(VideoError):
        glance(cut(tmp_path / "h.mp4", paths[0], 0.5))
    whole = write_video(tmp_path / "b.mkv", frames)
    assert "cut off" in str(glance(cut(tmp_path / "i.mkv", whole, 0.5)).damage)


def test_the_verb_tells_by_its_status(sets, tmp_path, capsys):
    args = ["doctor", "cremad", "--root", str(sets["cremad"])]
    assert cli.main([*args, "--out", str(tmp_path / "r.html")]) == 0
    assert "ready to train" in capsys.readouterr().out and (tmp_path / "r.html").is_file()
    make_class_folders(tmp_path / "mine")
    (tmp_path / "mine" / "calm" / "take 8.mp4").write_bytes(b"")
    assert cli.main(["doctor", "folder", "--root", str(tmp_path / "mine")]) == 1
    assert "calm/take 8.mp4: the file is empty" in capsys.readouterr().out
    assert cli.main([*args, "--out", str(tmp_path / "r.doc")]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert cli.main(["doctor", "afew", "--root", str(tmp_path)]) == 2


def test_unlabelled_videos_are_only_looked_at(tmp_path):
    for i in range(3):
        tiny_video(tmp_path / "id00001" / f"{i}.mp4", i)
    report = check("voxceleb2", tmp_path)
    assert report.exit_status == 0 and len(report.looks) == 3
