"""Prepared sets: one index in a file, on this machine or behind a URL."""

import hashlib
import http.server
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
import torch
from making_videos import moving_frames, write_video

from maedfer_lab.config import tiny
from maedfer_lab.data.prepare import prepare
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.shard_format import Shard, ShardWriter, open_index, pack_index
from maedfer_lab.data.shards import Clips, open_shards
from maedfer_lab.data.table import Annotations, Clip
from maedfer_lab.data.transforms import Box, crop_and_resize
from maedfer_lab.training.stream import pretraining_data


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Annotations:
    """Nine clips of 20 to 28 frames, three of each of three people; one is nobody's."""
    root = tmp_path_factory.mktemp("videos")
    clips = []
    for i in range(9):
        path = write_video(root / f"ü {i}.mp4", moving_frames(20 + i, seed=i))
        person = f"p{i // 3}" if i else None
        clips.append(Clip(path, i % 2, i // 3, None, f"list, line {i}", person))
    return Annotations("csv", ("calm", "loud"), tuple(clips), root)


@pytest.fixture(scope="module")
def prepared(table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    return prepare(table, out, size_px=32, framing="whole", workers=0, progress=False).out


@pytest.fixture
def copied(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "copy")


def test_raw_frames_are_kept_as_they_are(table, prepared, tmp_path):
    """To the bit, where JPEGs are near; for the disk that pixels take."""
    raw = prepare(table, tmp_path, size_px=32, framing="whole", store="raw", workers=0)
    some, rows = [0, 3, 19], open_shards(raw.out)
    for kept, coded in zip(rows.clips[:3], open_shards(prepared).clips, strict=False):
        frames, near = open_video(kept.path).read(some), open_video(coded.path).read(some)
        assert frames.shape == (3, 32, 32, 3) and np.abs(frames.astype(int) - near).mean() < 5
        source = open_video(table.root / rows.name(kept)).read(some)
        assert np.array_equal(frames, crop_and_resize(source, Box(0, 0, 48, 64), 32, 32))
    assert open_index(str(raw.out)).about["store"] == "raw"
    assert raw.bytes > raw.frames * 32 * 32 * 3


def test_rows_are_those_of_the_table_they_were_prepared_from(table, prepared, monkeypatch):
    opened = open_shards(prepared)
    assert isinstance(opened.clips, Clips) and len(opened) == 9
    for old, new in zip(table.clips, opened.clips, strict=True):
        facts = [(c.label, c.fold, c.source, c.subject) for c in (new, old)]
        assert facts[0] == facts[1] and opened.name(new) == table.name(old)
    assert opened.people() == table.people()
    assert opened.counts() == table.counts() and opened.num_folds == table.num_folds
    for ours, theirs in zip(opened.split(2), table.split(2), strict=True):
        assert [opened.name(c) for c in ours] == [table.name(c) for c in theirs]
        assert opened.counts(ours) == table.counts(theirs)
        assert opened.people(ours) == table.people(theirs)
    rows, doubt = str(opened).splitlines()[1:-1], "unknown people in 1 of 9 clips"
    assert rows == str(table).splitlines()[1:] and opened.doubts[0].startswith(doubt)
    assert opened.clips[-2:] == [opened.clips[7], opened.clips[8]]
    with pytest.raises(ValueError, match="fold=3 is not in this table"):
        opened.split(3)
    with pytest.raises(ValueError, match="holds no clip of this name"):
        open_video(opened.clips[4].path.parent / "another.mp4")
    monkeypatch.setattr("maedfer_lab.data.shards.TOLD", 3)  # very many clips, without asking each
    facts = opened.summary()
    assert facts["clips"] == 9 and facts["digest"] == open_shards(prepared).summary()["digest"]


def test_mended_people_count(copied):
    manifest = copied / "MANIFEST.csv"
    manifest.write_text(manifest.read_text().replace(",p2,", ",p1,"))
    assert {clip.subject for clip in open_shards(copied, verify=True).clips} == {None, "p0", "p1"}


@pytest.mark.parametrize("how", ["missing", "bit", "other set"])
def test_a_missing_or_damaged_index_is_made_anew(prepared, copied, how):
    file = copied / "index.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        bit = whole[:-200] + bytes([whole[-200] ^ 4]) + whole[-199:]
        file.write_bytes(bit if how == "bit" else whole.replace(b"calm", b"glad"))
    assert list(open_shards(copied).clips.rows) == list(range(9))
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
    (tmp_path / "index.safetensors").write_bytes(pack_index(shards(), {}, about))
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
    for number in (7, 2):
        ours, theirs = (table.open(table.clips[number]) for table in (far, near))
        assert len(ours) == len(theirs) and ours.fps == theirs.fps
        np.testing.assert_array_equal(ours.read([3, 0, 17]), theirs.read([3, 0, 17]))
    assert all(wanted for _, wanted in Ranges.asked), "no shard is fetched whole"
    assert pickle.loads(pickle.dumps(far)).people() == near.people()


@pytest.mark.parametrize("behind_a_url", ["memory"], indirect=True)
def test_pre_training_from_a_url_sees_the_same_clips(behind_a_url, prepared):
    config = replace(tiny(), held_out=0.3)
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
