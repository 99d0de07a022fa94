"""`maedfer prepare`: what goes in comes out, whatever happens on the way, here or behind a URL."""

import csv
import errno
import hashlib
import http.server
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Any
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
import simplejpeg  # noqa: F401 - one of the two decoders
import torch
from making_videos import cut, moving_frames, turn, write_images, write_sound, write_video

from maedfer_lab.config import tiny
from maedfer_lab.data import shard_format
from maedfer_lab.data.faces import face_square
from maedfer_lab.data.folder import VideoFolder, find_videos
from maedfer_lab.data.prepare import Job, encode, encode_in_order, prepare
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.shard_format import (
    Jpegs,
    Shard,
    ShardWriter,
    decode_jpeg,
    encode_jpeg,
    open_index,
    pack_index,
)
from maedfer_lab.data.shards import Clips, open_shards
from maedfer_lab.data.table import Annotations, Clip, read_annotations
from maedfer_lab.data.transforms import Box, crop_and_resize
from maedfer_lab.data.video import VideoError
from maedfer_lab.training.stream import pretraining_data

NUM_CLIPS = 7


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Annotations:
    """Seven clips of 3, 5, 7, ... frames with labels, folds and people; one is images of nobody."""
    root = tmp_path_factory.mktemp("clips with a space ü")
    clips = []
    for i in range(NUM_CLIPS):
        frames = moving_frames(3 + 2 * i, seed=i)
        (root / f"{i % 3}").mkdir(exist_ok=True)
        path = root / f"{i % 3}" / (f"take {i}.mp4" if i else "images")
        write_video(path, frames) if i else write_images(path, frames)
        person = f"person {i // 2}" if i else None
        clips.append(Clip(path, i % 3, i // 2 % 2, None, f"list.txt, line {i}", person))
    return Annotations("csv", ("happy", "sad", "neutral"), tuple(clips), root)


def small(table: Annotations, out: Path, **changes: Any):
    settings: dict[str, Any] = dict(size_px=40, framing="whole", workers=0, progress=False)
    return prepare(table, out, **(settings | changes))


@pytest.fixture(scope="module")
def prepared(table, tmp_path_factory) -> Path:
    return small(table, tmp_path_factory.mktemp("prepared")).out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 48), (130, 191), (160, 160)])
@pytest.mark.parametrize("quality", [60, 95])
def test_both_decoders_give_the_same_pixels(size, quality, monkeypatch):
    coarse = np.random.default_rng(0).integers(0, 256, (2, 7, 9, 3), dtype=np.uint8)
    for frame in crop_and_resize(coarse, Box(0, 0, 7, 9), *size):
        data, found = encode_jpeg(frame, quality), np.zeros((2, *size, 3), np.uint8)
        decode_jpeg(data, found[0])
        with monkeypatch.context() as patch:
            patch.setattr(shard_format, "simplejpeg", None)
            decode_jpeg(data, found[1])
        assert np.array_equal(found[0], found[1]) and found.any()


@pytest.mark.parametrize("framing", ["whole", "face"])
def test_frames_come_back_cropped(table, tmp_path, framing):
    report = small(table, tmp_path, framing=framing)
    again = open_shards(tmp_path)
    assert (report.clips, report.frames, len(report.skipped)) == (NUM_CLIPS, 63, 0)
    assert (again.dataset, again.classes) == ("csv", table.classes)
    for old, new in zip(table.clips, again.clips, strict=True):
        before, after = open_video(old.path), again.open(new)
        box = Box(0, 0, 48, 64) if framing == "whole" else face_square(before)
        side = 40 if framing == "whole" else 48  # a margin of 1.2, and not larger than the square
        assert (len(after), after.height, after.width) == (new.frames, side, side)
        assert (len(after), after.fps) == (len(before), before.fps)
        indices = [len(before) - 1, 0, 1, 1]
        expected = crop_and_resize(before.read(indices), box, side, side)
        assert psnr(after.read(indices), expected) > 36  # hard edges; faces keep 46 dB
        assert face_square(after) == Box(0, 0, side, side)


def test_a_prepared_folder_is_a_folder_of_videos(table, prepared, tmp_path):
    paths, clips = find_videos(prepared), open_shards(prepared).clips
    assert paths == [clip.path for clip in clips]
    videos = VideoFolder(paths, frames=2, stride=2, size_px=16, progress=False)
    assert len(videos.paths) == NUM_CLIPS and videos[0].shape == (2, 16, 16, 3)
    with pytest.raises(FileNotFoundError, match="is a prepared set, for finetune shards and"):
        read_annotations("folder", prepared)
    with pytest.raises(FileNotFoundError, match=r"holds no index.json; .* `maedfer prepare` wrote"):
        open_shards(tmp_path)


def test_shards_are_open_to_other_tools(prepared, tmp_path):
    clip = open_shards(prepared).clips[4]
    with tarfile.open(clip.path.parents[1]) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path, filter="data")
    assert [Path(n).suffix for n in names] == [".json", ".npy", ".mjpeg"]
    about = json.loads((tmp_path / names[0]).read_text())
    assert (about["name"], about["label"]) == ("1/take 4.mp4", 1)
    played = open_video(tmp_path / names[2])
    expected = open_video(clip.path).read(range(clip.frames or 0))
    assert len(played) == clip.frames
    assert psnr(played.read(range(len(played))), expected) > 30  # FFmpeg's own colours


class Deadly(PosixPath):
    """A path that ends the process which is sent it, as a crash in a decoder does."""

    def __reduce__(self):
        return os._exit, (3,)


def test_workers_give_the_same_and_a_death_costs_one_clip(table):
    paths = [table.clips[1].path, Deadly("crash.mp4"), *(clip.path for clip in table.clips[2:])]
    jobs = [Job(path, "whole", 40, 95) for path in paths]
    with closing(encode_in_order(jobs, 2)) as results:
        many = list(results)
    assert isinstance(many[1], str) and "process that read it died" in many[1]
    for job, result in zip(jobs, many, strict=True):
        if job.path != paths[1]:
            alone = encode(job)
            assert isinstance(alone, Jpegs) and isinstance(result, Jpegs)
            assert (result.data, result.about) == (alone.data, alone.about)
            np.testing.assert_array_equal(result.table, alone.table)


@pytest.mark.parametrize("how", ["missing", "short", "index", "bit"])
def test_a_damaged_shard_is_named_and_mended(table, prepared, tmp_path, how):
    small(table, tmp_path)
    file = sorted(tmp_path.glob("*.tar"))[2]
    data = bytearray(file.read_bytes())
    if how == "index":
        file.with_suffix(".json").write_text('{"plan": "')
    elif how == "bit":
        data[data.index(b"\xff\xd8\xff") + 700] ^= 1  # inside the first frame
        file.write_bytes(data)
    else:
        file.unlink() if how == "missing" else file.write_bytes(data[:-999])
    with pytest.raises(ValueError, match=rf"1 of 7 shards are damaged:\n.*{file.stem}.*delete it"):
        open_shards(tmp_path, verify=True)
    if how == "bit":
        clip = open_shards(tmp_path).clips[2]
        with pytest.raises(VideoError, match=r"frame 0: the shard shard-00002.tar is damaged"):
            open_video(clip.path).read([0])
        open_video(clip.path).read([1, 2])
        file.unlink()
    small(table, tmp_path)
    assert contents(tmp_path) == contents(prepared)


def test_clips_that_changed_since_are_not_shown_as_before(table, prepared, tmp_path):
    shutil.copytree(table.root, tmp_path / "clips")
    clips = [
        replace(c, path=tmp_path / "clips" / c.path.relative_to(table.root)) for c in table.clips
    ]
    moved = replace(table, clips=tuple(clips), root=tmp_path / "clips")
    assert contents(small(moved, tmp_path / "out").out) == contents(prepared)
    clips[2].path.write_bytes(clips[2].path.read_bytes()[::-1])
    with pytest.raises(ValueError, match=r"older version of 2/take 2.mp4, whose file has changed"):
        small(replace(moved), tmp_path / "out")  # looks at the files anew
    write_video(clips[2].path, moving_frames(9, seed=99))
    moved = replace(moved)
    with pytest.raises(ValueError, match=r"shard-00002.tar .*2/take 2.mp4"):
        small(moved, tmp_path / "out")
    for suffix in (".tar", ".json"):
        (tmp_path / "out" / f"shard-00002{suffix}").unlink()
    small(moved, tmp_path / "out")
    assert len(open_shards(tmp_path / "out").open(open_shards(tmp_path / "out").clips[2])) == 9


def test_a_shard_of_another_set_is_never_read(table, tmp_path):
    out = small(table, tmp_path, size_px=16).out
    size = (out / "shard-00002.tar").stat().st_size
    (out / "shard-00002.tar").write_bytes((out / "shard-00001.tar").read_bytes())
    assert size == (out / "shard-00002.tar").stat().st_size
    with pytest.raises(VideoError, match="holds another clip there"):
        open_video(open_shards(out).clips[2].path)


def test_odd_videos_go_in_and_broken_ones_are_listed(tmp_path):
    root = tmp_path / "clips"
    odd, broken = root / "odd", root / "broken"
    odd.mkdir(parents=True)
    broken.mkdir()
    write_video(odd / "one frame.mp4", moving_frames(1))
    turn(write_video(odd / "turned.mp4", moving_frames(3)), 90)
    write_video(odd / "alpha.mov", moving_frames(3), codec="png", pix_fmt="rgba")
    write_images(odd / "unsorted", moving_frames(12))
    (broken / "empty.mp4").touch()
    write_sound(broken / "sound.mp4")
    cut(broken / "cut.mp4", write_video(tmp_path / "whole.mp4", moving_frames(30)), 0.6)
    images = write_images(broken / "images", moving_frames(2))
    cut(images / "10.jpg", images / "1.png", 0.5)
    out = tmp_path / "out"
    report = prepare("folder", root=root, out=out, size_px=32, framing="whole", workers=0)
    assert report.clips == len(open_shards(out)) == 4 and "4 clips were" in str(open_shards(out))
    with (out / "skipped.csv").open(encoding="utf-8", newline="") as file:
        reasons = {row["clip"]: row["reason"] for row in csv.DictReader(file)}
    expected = {"empty.mp4": "0 bytes", "sound.mp4": "sound but no picture", "cut.mp4": "cut off"}
    for name, text in {**expected, "images": "frame 2 (10.jpg) is broken"}.items():
        assert text in reasons[f"broken/{name}"] and f"broken/{name}" in str(report)
    unsorted = next(c for c in open_shards(out).clips if c.path.name == "unsorted")
    whole = crop_and_resize(moving_frames(12), Box(0, 0, 48, 64), 32, 32)
    assert psnr(open_video(unsorted.path).read(range(12)), whole) > 33


@pytest.mark.parametrize(
    "rows", [["a,0,train", "b,1,tset"], ["a,0.5,test"], ["a,0,test", "a,1,test"]]
)
def test_a_table_that_contradicts_itself_is_not_prepared(rows, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "mine.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(ValueError, match="maedfer doctor lists all"):
        prepare("csv", root=tmp_path / "mine.csv", out=tmp_path / "out")


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "empty.mp4").touch()
    table = Annotations("csv", ("a",), (Clip(tmp_path / "empty.mp4", 0, 1),), tmp_path)
    with pytest.raises(ValueError, match=r"none of 1 clips could be read:\n.*0 clips"):
        small(table, tmp_path / "out")
    assert "empty.mp4,the file is empty" in (tmp_path / "out" / "skipped.csv").read_text()


def test_a_full_disk_is_named_and_loses_nothing(table, prepared, tmp_path, monkeypatch):
    add, count = tarfile.TarFile.addfile, 0

    def full(self, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(
            OSError, match=r"shard-00002.tar to .* No space left .* 2 of 7"
        ) as error:
            small(table, tmp_path)
    assert error.value.errno == errno.ENOSPC and str(tmp_path) in str(error.value)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(finished) == 4  # two shards, and nothing half written
    with pytest.raises(FileNotFoundError, match="not finished: run the same"):
        open_shards(tmp_path)
    small(table, tmp_path)
    assert contents(tmp_path) == contents(prepared)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "written once"


def test_parts_joined_are_what_one_machine_writes(table, prepared, tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for number in (1, 2):
        report = small(table, folders[number], part=f"{number + 1}/3")
        assert f"part {number + 1}/3" in str(report) and report.clips == 2
        assert f"{report.bytes / 1e6:.2f} MB" in str(report), "also of a few clips"
    with pytest.raises(FileNotFoundError, match="with --join"):
        open_shards(folders[1])
    with pytest.raises(ValueError, match=r"3 of 7 shards .*: shard-00000.tar, shard-"):
        small(table, folders[0], join=folders[1:])
    assert small(table, folders[0], part="1/3").clips == 3
    other = shutil.copytree(folders[1], tmp_path / "other")
    assert small(table, folders[0], join=folders[1:]).clips == NUM_CLIPS
    assert contents(folders[0]) == contents(prepared)
    beside = other / "shard-00001.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"shard-00001.tar was prepared twice"):
        small(table, folders[0], join=[other])
    with pytest.raises(FileNotFoundError, match="holds no shard"):
        small(table, folders[0], join=[tmp_path / "nothing"])


def test_what_dead_processes_left_goes_and_a_living_one_is_named(table, prepared, tmp_path):
    here, dead = socket.gethostname(), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = [
        tmp_path / f".shard-00002.tar.{here}-{dead.pid}.part",
        tmp_path / ".shard-00003.tar.another-machine-77.part",
        tmp_path / ".shard-00004.tar.part",  # of an older version
        tmp_path / ".index.json.k3x_9abc",
    ]
    for path in old:
        path.touch()
        os.utime(path, (0, 0))
    (tmp_path / ".my notes").touch()
    (tmp_path / ".index.json.vzu9y4qo").touch()  # just now: a look, killed
    living = tmp_path / f".shard-00002.tar.{here}-{os.getppid()}.part"
    living.touch()
    with pytest.raises(ValueError, match=rf"shard-00002.tar is being written by .*{os.getppid()}"):
        small(table, tmp_path)
    small(table, tmp_path, part="1/3")  # has other shards
    living.unlink()
    small(table, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".my notes"]
    (tmp_path / ".my notes").unlink()
    assert contents(tmp_path) == contents(prepared)


def test_other_clips_or_settings_need_another_folder(table, prepared):
    for changes in (dict(size_px=32), dict(quality=90), dict(framing="face"), dict(store="raw")):
        with pytest.raises(ValueError, match="holds shards of other clips or settings"):
            small(table, prepared, **changes)
    fewer = Annotations("csv", table.classes, table.clips[:-1], table.root)
    with pytest.raises(ValueError, match="other clips or settings"):
        small(fewer, prepared)


@pytest.mark.parametrize(
    "change",
    [dict(size_px=8), dict(margin=0.5), dict(quality=0), dict(workers=-1), dict(part="0/3"),
     dict(part="4/3"), dict(part="3"), dict(part="a/b")],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(table, tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} .*(must|use|choose)"):
        small(table, tmp_path, **change)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_any_name_of_a_file_is_prepared_and_read_back(tmp_path):
    """A carriage return was not quoted: the set could not be opened."""
    names = ["a\rb", "a\nb", 'a"b', "a,b", "=1+1", "-rf", "$(id)", os.fsdecode(b"caf\xe9")]
    for i, name in enumerate(names):
        path = tmp_path / "clips" / ("x", "y")[i % 2] / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "clip.mp4", moving_frames(2, 32, 32, i)).rename(path)
    table = read_annotations("folder", tmp_path / "clips")
    ready = open_shards(prepare(table, tmp_path / "ready", size_px=32, workers=0).out)
    assert {ready.name(clip) for clip in ready.clips} == {table.name(clip) for clip in table.clips}


# --- the set that is opened ---


@pytest.fixture
def copied(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "copy")


def test_raw_frames_are_kept_as_they_are(table, prepared, tmp_path):
    """To the bit, where JPEGs are near; for the disk that pixels take."""
    raw = small(table, tmp_path, store="raw")
    some, rows = [0, 2, 1], open_shards(raw.out)
    for kept, coded in zip(rows.clips[:3], open_shards(prepared).clips, strict=False):
        frames, near = open_video(kept.path).read(some), open_video(coded.path).read(some)
        assert frames.shape == (3, 40, 40, 3) and np.abs(frames.astype(int) - near).mean() < 5
        source = open_video(table.root / rows.name(kept)).read(some)
        assert np.array_equal(frames, crop_and_resize(source, Box(0, 0, 48, 64), 40, 40))
    assert open_index(str(raw.out)).about["store"] == "raw"
    assert raw.bytes > raw.frames * 40 * 40 * 3


def test_rows_are_those_of_the_table_they_were_prepared_from(table, prepared, monkeypatch):
    opened = open_shards(prepared)
    assert isinstance(opened.clips, Clips) and len(opened) == NUM_CLIPS
    for old, new in zip(table.clips, opened.clips, strict=True):
        facts = [(c.label, c.fold, c.source, c.subject) for c in (new, old)]
        assert facts[0] == facts[1] and opened.name(new) == table.name(old)
    assert opened.people() == table.people()
    assert opened.counts() == table.counts() and opened.num_folds == table.num_folds
    for ours, theirs in zip(opened.split(1), table.split(1), strict=True):
        assert [opened.name(c) for c in ours] == [table.name(c) for c in theirs]
        assert opened.counts(ours) == table.counts(theirs)
        assert opened.people(ours) == table.people(theirs)
    rows, doubt = str(opened).splitlines()[1:-1], "unknown people in 1 of 7 clips"
    assert rows == str(table).splitlines()[1:] and opened.doubts[0].startswith(doubt)
    assert [*opened.clips[-2:]] == [opened.clips[5], opened.clips[6]]
    with pytest.raises(ValueError, match="fold=3 is not in this table"):
        opened.split(3)
    with pytest.raises(ValueError, match="holds no clip of this name"):
        open_video(opened.clips[4].path.parent / "another.mp4")
    monkeypatch.setattr("maedfer_lab.data.shards.TOLD", 3)  # very many clips, without asking each
    facts = opened.summary()
    assert facts["clips"] == NUM_CLIPS
    assert facts["digest"] == open_shards(prepared).summary()["digest"]


def test_mended_people_count(copied):
    manifest = copied / "MANIFEST.csv"
    manifest.write_text(manifest.read_text().replace(",person 2,", ",person 1,"))
    people = {clip.subject for clip in open_shards(copied).clips}
    assert people == {None, "person 0", "person 1", "person 3"}


def test_mended_people_are_kept_where_shards_are_written_anew(table, copied):
    manifest = copied / "MANIFEST.csv"
    manifest.write_text(manifest.read_text().replace(",person 2,", ",person 1,"))
    (copied / "shard-00003.tar").unlink()
    people = {clip.subject for clip in open_shards(small(table, copied).out).clips}
    assert people == {None, "person 0", "person 1", "person 3"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sad,1,0,", "happy,1,0,"),
        ("sad,1,0,", "sad,1,1,"),
        (",1/take 4.mp4,", ",4.mp4,"),
        ("neutral,2", "neutral,0"),
    ],
)
def test_a_manifest_that_changes_more_than_people_is_refused(old, new, copied):
    manifest = copied / "MANIFEST.csv"
    whole = manifest.read_text()
    manifest.write_text(whole.replace(old, new))
    with pytest.raises(ValueError, match=r"MANIFEST.csv has other clips, classes or folds than"):
        open_shards(copied)
    manifest.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"such as '0/take 6.mp4'; people may be mended in it"):
        open_shards(copied)


@pytest.mark.parametrize("how", ["missing", "bit", "other set"])
def test_a_missing_or_damaged_index_is_made_anew(prepared, copied, how):
    file = copied / "index.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        bit = whole[:-200] + bytes([whole[-200] ^ 4]) + whole[-199:]
        file.write_bytes(bit if how == "bit" else whole.replace(b"happy", b"merry"))
    assert list(open_shards(copied).clips.rows) == list(range(NUM_CLIPS))
    assert file.read_bytes() == whole


MEMORY = """
import pickle, sys
def private():  # MB that this process alone holds
    rows = [line.split() for line in open("/proc/self/smaps_rollup")]
    return sum(int(r[1]) for r in rows if r[0].startswith("Private_Dirty")) / 1024
import maedfer_lab.data.shards
before = private()
table = pickle.loads(sys.stdin.buffer.read())
clips = [table.clips[i] for i in range(0, len(table), 500)]
print(private() - before, len(table), clips[-1].subject)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="Linux tells the memory")
def test_a_worker_gets_a_path_and_not_a_table(tmp_path):
    """A hundred thousand clips as objects would take about 100 MB."""

    def shards():
        for s in range(400):
            clips = [
                dict(name=f"id{s // 7:05d}/take {s}/{i:05d}.mp4", label=0, fold=0, source="folders",
                     subject=f"id{s // 7:05d}", frames=195, height=192, width=192, fps=25.0,
                     table=1024, data=4096)
                for i in range(250)
            ]  # fmt: skip
            yield Shard("plan", 0, f"{s:064x}", clips)

    listed = [{"sha256": shard.sha256, "bytes": 0} for shard in shards()]
    digest = hashlib.sha256("".join(one["sha256"] for one in listed).encode()).hexdigest()
    head = {"dataset": "voxceleb2", "classes": ["unlabelled"], "skipped": 0}
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "shards": listed, **head}))
    about = {**head, "bytes": [0] * 400, "shards": digest, "people": None}
    (tmp_path / "index.safetensors").write_bytes(pack_index(shards(), about))
    for s in range(400):
        (tmp_path / f"shard-{s:05d}.tar").touch()
    sent = pickle.dumps(open_shards(tmp_path))
    assert len(sent) < 1000
    done = subprocess.run([sys.executable, "-c", MEMORY], input=sent, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    megabytes, number, person = done.stdout.decode().split()
    assert (int(number), person) == (100_000, "id00056") and float(megabytes) < 10


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves a folder, whole or a range; notes what was asked for."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        folder, wanted = self.server.folder, self.headers.get("Range")  # type: ignore[attr-defined]
        path = folder / self.path.strip("/").partition("/")[2]
        if not path.is_file():
            return self.send_error(404)
        data, with_body = path.read_bytes(), self.command == "GET"
        begin, end = map(int, re.findall(r"\d+", wanted)) if wanted else (0, len(data) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end + 1 - begin))
        self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        self.end_headers()
        if with_body:
            Ranges.asked.append((path.name, wanted))
            self.wfile.write(data[begin : end + 1])

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def behind_a_url(request, prepared, tmp_path, monkeypatch):
    """The prepared set behind a URL of a kind."""
    monkeypatch.setenv("MAEDFER_OUTPUT", str(tmp_path / "output"))
    if request.param == "memory":
        files = fsspec.filesystem("memory")
        for path in prepared.iterdir():
            files.pipe_file(f"/sets/{tmp_path.name}/{path.name}", path.read_bytes())
        yield f"memory://sets/{tmp_path.name}"
        return
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.folder = prepared  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{tmp_path.name}"
    server.shutdown()


@pytest.mark.parametrize("behind_a_url", ["memory", "http"], indirect=True)
def test_a_set_behind_a_url_is_read_in_parts(behind_a_url, prepared):
    near, far = open_shards(prepared), open_shards(behind_a_url)
    assert [far.name(clip) for clip in far.clips] == [near.name(clip) for clip in near.clips]
    Ranges.asked.clear()
    for number in (6, 2):
        ours, theirs = (table.open(table.clips[number]) for table in (far, near))
        assert len(ours) == len(theirs) and ours.fps == theirs.fps
        np.testing.assert_array_equal(ours.read([3, 0, 5]), theirs.read([3, 0, 5]))
    assert all(wanted for _, wanted in Ranges.asked), "no shard is fetched whole"
    assert pickle.loads(pickle.dumps(far)).people() == near.people()


@pytest.mark.parametrize("behind_a_url", ["memory"], indirect=True)
def test_pre_training_from_a_url_sees_the_same_clips(behind_a_url, prepared):
    config = replace(tiny(), held_out=0.3, stride=1)
    near, far = (
        pretraining_data(replace(config, data=Path(place))).stream
        for place in (prepared, behind_a_url)
    )
    assert all(torch.equal(near[i], far[i]) for i in range(6))


def test_a_url_without_its_package_says_what_to_install(monkeypatch):
    for module in ("s3fs", "aiohttp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"s3://bucket/set: .* pip install .* s3fs"):
        open_shards("s3://bucket/set")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'maedfer-lab\[remote\]'"):
        open_shards("gs://bucket/set")


def test_a_disk_so_full_that_nothing_can_be_closed_leaves_no_half_shard(tmp_path):
    with pytest.raises(OSError, match="File too large"):
        with ShardWriter(tmp_path / "shard-00000.tar", "plan") as writer:
            writer._tar.fileobj = Mock(close=Mock(side_effect=OSError("File too large")))
    assert [*tmp_path.iterdir()] == []
