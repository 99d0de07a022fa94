import importlib.util
import os
import re
import socket
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from making_videos import (
    cut,
    display_as,
    moving_frames,
    spoil,
    write_growing,
    write_images,
    write_sound,
    write_tracks,
    write_video,
)
from PIL import Image, ImageOps

from maedfer_lab.data import shard_format, writing
from maedfer_lab.data.readers import glance, open_video
from maedfer_lab.data.video import VideoError, natural_key

NUM_FRAMES = 40
HAS_DECORD = importlib.util.find_spec("decord") is not None


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("mp4") / "talking face ü 笑.mp4"
    faststart = {"movflags": "+faststart"}  # table first: a cut file still has it
    return write_video(path, moving_frames(NUM_FRAMES), container_options=faststart)


def plain_decode(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


KINDS = {
    "b_frames.mp4": {},
    "open_groups.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:bframes=3"}},
    "key_frames_only.mp4": {"options": {"g": "1"}},
    "hidden_by_an_edit_list.mp4": {"hide_first": 5},
    "trimmed.mp4": {"hide_first": 8},  # a whole group of pictures
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "programme.mpg": {"codec": "mpeg1video"},
    "transport.ts": {},
    "old.avi": {"codec": "mpeg4"},
    "b_frames.avi": {"options": {"bf": "2"}},
    "odd.mkv": {"codec": "ffv1"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "alpha.mov": {"codec": "png", "pix_fmt": "rgba"},
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_in_any_order_are_those_of_plain_decoding(tmp_path, name):
    width = 63 if name.startswith("odd") else 64
    path = write_video(tmp_path / name, moving_frames(NUM_FRAMES, width=width), **KINDS[name])
    expected = plain_decode(path)
    assert len(expected) == NUM_FRAMES - KINDS[name].get("hide_first", 0)
    indices = np.random.default_rng(0).integers(len(expected), size=60)
    readers = [open_video(path)]
    if HAS_DECORD and name in ("b_frames.mp4", "key_frames_only.mp4", "fragments.mp4"):
        readers.append(open_video(path, "decord"))
    elif HAS_DECORD:  # by name too it is refused where it misreads
        with pytest.raises(VideoError, match=r"decord (misreads|cannot open)"):
            open_video(path, "decord")
    for reader in readers:
        assert (len(reader), reader.fps, reader.damage) == (len(expected), 25.0, None)
        np.testing.assert_array_equal(reader.read(indices), expected[indices])
        for some in ([30], [3], [31, 12, 12], []):  # the reader's own position must not matter
            np.testing.assert_array_equal(reader.read(some), expected[some])


def test_without_decord_it_is_said(mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(VideoError, match="decord is not installed"):
        open_video(mp4, "decord")


BROKEN = {
    "missing.mp4": (lambda path, mp4: None, "no such file"),
    "empty.mp4": (lambda path, mp4: path.touch(), r"empty \(0 bytes\)"),
    "notes.txt": (lambda path, mp4: path.write_text("no video\n" * 99), "not a video"),
    "sound.mp4": (lambda path, mp4: write_sound(path), "sound but no picture"),
    "folder": (lambda path, mp4: path.mkdir(), "folder"),
    "photo.heic": (lambda path, mp4: path.write_bytes(
        mp4.read_bytes().replace(b"ftypisom", b"ftypheic")), "a HEIC or AVIF picture"),
    "cut.mp4": (lambda path, mp4: cut(path, mp4, 0.6),
                rf"frame \d+ of {NUM_FRAMES} cannot be read: the file ends early"),
    "table.mp4": (lambda path, mp4: cut(path, write_video(path, moving_frames(9)), 0.6), "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_end_in_plain_words(tmp_path, mp4, name):
    path, (spoiled, reason) = tmp_path / name, BROKEN[name]
    spoiled(path, mp4)
    with pytest.raises(VideoError, match=reason) as error:
        open_video(path, "pyav")
    assert error.value.path == path and str(path) in str(error.value)


PROMISE, TORN = r"promises 1.60 s.*these are used", r"\(was it cut off\?\)"
CUT: dict[str, tuple[dict[str, Any], float, str]] = {  # how it is written, what is left of it
    "a.mkv": ({}, 0.6, PROMISE),
    "a.webm": ({"codec": "libvpx-vp9"}, 0.7, PROMISE),
    "a.avi": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, 0.94, PROMISE),
    "a.flv": ({"codec": "flv1"}, 0.9, TORN),  # these promise nothing
    "a.wmv": ({"codec": "wmv2"}, 0.82, TORN),
    "a.mpg": ({"codec": "mpeg2video", "options": {"b": "2M"}}, 0.82, TORN),
    "a.ts": ({"codec": "mpeg2video"}, 0.82, TORN),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_ends_early_is_read_with_a_warning(tmp_path, name):
    how, keep, words = CUT[name]
    whole = write_video(tmp_path / name, moving_frames(NUM_FRAMES), **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_video(whole)) == NUM_FRAMES
    path = cut(tmp_path / f"cut_{name}", whole, keep)
    with pytest.warns(UserWarning, match=words) as caught:
        reader = open_video(path)
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(str(path)) and 10 < len(reader) < NUM_FRAMES
    if words == PROMISE:
        assert f"but its {len(reader)} frames end at " in message
    assert "cut off" in str(glance(path).damage)
    # The last may be a torn JPEG, which decodes in part.
    expected = plain_decode(whole)[: len(reader) - 1]
    np.testing.assert_array_equal(reader.read(range(len(expected))), expected)


@pytest.mark.parametrize("more", [5, 40])
def test_sound_may_outlast_the_pictures_a_little(tmp_path, more):
    """Where Matroska does not tell the length of each stream, as the sound's end is the file's."""
    path = write_video(tmp_path / "sound.mkv", moving_frames(25), sound_s=(25 + more) / 25)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"XURATION"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(open_video(path)) == 25
    assert len(caught) == (more > 5)


@pytest.mark.parametrize("name", ["grows.mp4", "grows.mkv", "grows.ts"])
def test_a_size_that_changes_names_the_frame(tmp_path, name):
    path = write_growing(tmp_path / name, moving_frames(8))
    assert "its size changes" in str(glance(path).damage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = open_video(path)
    reader.read(range(8))
    with pytest.raises(VideoError, match="frame 8 is 128 x 96 pixels, the first is 64 x 48"):
        reader.read([8])


def test_frames_outside_and_unknown_backends_are_refused(mp4):
    for index in (-1, NUM_FRAMES):
        with pytest.raises(IndexError, match=f"frame {index} .* from 0 to {NUM_FRAMES - 1}"):
            open_video(mp4).read([0, index])
    with pytest.raises(ValueError, match=r"'opencv' is not known; .*auto, decord, pyav, images"):
        open_video(mp4, "opencv")


def test_a_video_of_no_frames_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="frames is empty"):
        writing.write_video(tmp_path / "a.mp4", iter(()), 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_images_of_any_kind_become_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 35).reshape(5, 7).astype(np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257)
    if mode != "I;16":
        image = Image.fromarray(grey).convert("RGB" if mode == "P" else "L").convert(mode)
    image.save(tmp_path / "still.png")
    frame = open_video(tmp_path / "still.png").read([0])
    assert frame.shape == (1, 5, 7, 3)
    if mode in ("L", "RGBA", "I;16"):
        np.testing.assert_array_equal(frame[0], np.repeat(grey[..., None], 3, axis=-1))
    assert ("alpha" in str(glance(tmp_path / "still.png").remarks)) is (mode == "RGBA")


def test_pictures_of_12_bits_stored_in_16_are_remarked(tmp_path):
    Image.fromarray(np.full((5, 7), 4095, np.uint16)).save(tmp_path / "still.png")
    assert "10 or 12 bits" in str(glance(tmp_path / "still.png").remarks)


JPEGS: dict[str, dict[str, Any]] = {
    "4:2:0": {"quality": 90},
    "4:2:2": {"quality": 80, "subsampling": 1},
    "4:4:4": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "turned": {"turned": 6},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_of_a_folder_are_what_pillow_says_they_are(tmp_path, kind):
    options = dict(JPEGS[kind])
    mode, turned = options.pop("mode", "RGB"), options.pop("turned", None)
    if turned:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turned
    picture = Image.fromarray(moving_frames(1, 51, 85)[0]).convert(mode)
    for name in ("1.jpg", "2.JPEG"):
        picture.save(tmp_path / name, "JPEG", **options)
    with Image.open(tmp_path / "1.jpg") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    reader = open_video(tmp_path)
    assert np.array_equal(reader.read([0, 1]), np.stack([wanted, wanted]))
    if mode == "RGB" and not turned and shard_format.simplejpeg is not None:
        found = shard_format.decode_plain_jpeg((tmp_path / "1.jpg").read_bytes())
        assert found is not None, "the quick way was taken"
    (tmp_path / "2.JPEG").write_bytes((tmp_path / "1.jpg").read_bytes() + bytes(99))
    assert glance(tmp_path / "2.JPEG").frames == 1, "phones add data of their own"
    cut(tmp_path / "2.JPEG", tmp_path / "1.jpg", 0.7)
    with pytest.raises(VideoError, match=r"frame 1 \(2.JPEG\) is broken"):
        reader.read([1])


def test_images_of_two_sizes_or_broken_are_named(tmp_path):
    folder = write_images(tmp_path / "frames", moving_frames(3))
    Image.fromarray(moving_frames(1, 20, 20)[0]).save(folder / "1.png")
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"frame 1 \(1.png\) is 20 x 20 .* first is 64 x 48"):
        open_video(folder).read([0, 1])
    with pytest.raises(VideoError, match=r"frame 2 \(2.png\) is empty"):
        open_video(folder).read([2])


@pytest.mark.parametrize(
    "names",
    ["01.jpg 1.jpg 9.jpg 10.jpg a2/X.jpg a2/x.jpg a10/x.jpg b/1.jpg",
     "0.04.png 0.2.png 1.5.png 10.png 10.5.png v1.2.3.png v1.2.10.png"],
)  # fmt: skip
def test_natural_order_and_decimal_numbers(names):
    paths = [Path(name) for name in names.split()]
    assert sorted(reversed(paths), key=natural_key) == paths


@pytest.mark.skipif(not HAS_DECORD, reason="decord has no wheel for this machine")
def test_decord_ends_before_the_interpreter_does(tmp_path):
    """Its threads, if left alive, crash Python at its exit (seen on 1280 x 720 clips)."""
    path = write_video(tmp_path / "clip.mp4", moving_frames(8))
    code = (
        "import atexit, sys; from maedfer_lab.data.readers import glance, open_video\n"
        "atexit.register(lambda: print('left:', len(reader._held)))\n"
        "reader = open_video(sys.argv[1], 'decord'); print(len(reader.read([3])))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "left:", "0"]), done


MATRICES = {  # of display: (a b c d), and the picture as it is seen
    "hflip": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "vflip": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transpose": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "antitranspose": ((0, -1, -1, 0), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
    "a phone, 90": ((0, -1, 1, 0), lambda p: np.rot90(p)),
    "a phone, 180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "a phone, 270": ((0, 1, -1, 0), lambda p: np.rot90(p, 3)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_pictures_are_shown_as_ffmpeg_shows_them(tmp_path, kind):
    matrix, shown = MATRICES[kind]
    path = display_as(write_video(tmp_path / "a.mp4", moving_frames(3)), *matrix)
    reader, upright = open_video(path), shown(plain_decode(path)[2])
    np.testing.assert_array_equal(reader.read([2])[0], upright)
    assert (reader.height, reader.width) == upright.shape[:2]
    assert "by their metadata" in reader.remarks[0]


def test_a_matrix_that_stands_in_the_first_frame_alone_is_for_all(tmp_path):
    """As a message inside H.264 that some cameras write."""
    source, path = write_video(tmp_path / "a.mp4", moving_frames(12)), tmp_path / "b.mp4"
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        track: Any = written.add_stream_from_template(read.streams.video[0])
        turn = "h264_metadata=display_orientation=insert:rotate=180"
        turned = BitStreamFilterContext(turn, read.streams.video[0], track)
        packets = [p for packet in read.demux(video=0) for p in turned.filter(packet)]
        for packet in packets:
            packet.stream = track
            written.mux(packet)
    upright = np.stack([np.rot90(frame, 2) for frame in plain_decode(path)])
    np.testing.assert_array_equal(open_video(path).read(range(12)), upright)


GAPS = np.random.default_rng(0).integers(45, 90, 39).tolist()
TIMES = {  # milliseconds at which frames are shown, the rate in all, and what is remarked
    "plain": ([40 * i for i in range(20)], 25.0, None),
    "uneven": ([40 * i + 13 * (i % 3) + 400 * (i > 9) for i in range(20)], 19 / 1.173, "variable"),
    "browser": ([sum(GAPS[:i]) for i in range(40)], 39_000 / sum(GAPS), "variable"),
    "jump": ([40 * i + 3_600_000 * (i > 9) for i in range(20)], 25.0, "jump"),
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_counted_and_their_times_and_rate_told(tmp_path, kind, suffix):
    times_ms, rate, remark = TIMES[kind]
    frames = moving_frames(len(times_ms))
    path = write_video(tmp_path / f"a.{suffix}", frames, times_ms=times_ms)
    expected, reader = plain_decode(path), open_video(path)
    assert len(reader) == len(expected) == len(frames)
    for indices in (range(20), [15, 3, 10]):
        np.testing.assert_array_equal(reader.read(indices), expected[list(indices)])
    assert reader.fps == pytest.approx(rate, rel=1e-3) and reader.times is not None
    assert remark in str(reader.remarks) if remark else not reader.remarks
    if kind == "browser" and suffix == "mkv":  # MP4 states the mean
        assert "frame rate is wrong" in str(reader.remarks)
    assert glance(path).remarks == reader.remarks
    shown = [40 * i for i in range(20)] if kind == "jump" else times_ms  # a jump is one frame
    np.testing.assert_allclose(reader.times * 1000, shown, atol=1)
    if HAS_DECORD and suffix == "mp4":
        np.testing.assert_array_equal(open_video(path, "decord").times, reader.times)
    writing.write_video(tmp_path / "again.mp4", frames, reader.fps or 25, reader.times)
    assert len(open_video(tmp_path / "again.mp4")) == len(frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_default_track_is_read(tmp_path, name):
    path = write_tracks(tmp_path / name, moving_frames(5), moving_frames(9, seed=1))
    reader = open_video(path)
    assert len(reader) == 9 and any("several video tracks" in r for r in reader.remarks)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_damage_in_the_middle_is_counted_and_said(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    how: dict[str, Any] = {"options": {"bf": "0"}}
    if name == "a.avi":
        how = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}
    whole = write_video(tmp_path / f"whole_{name}", frames, **how)
    path = spoil(tmp_path / name, whole, [11, 20])
    look, damaged = glance(path), []
    assert look.frames == 40 and re.search(r"\d of 40 frames are damaged", str(look.damage))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if name == "a.mp4" else "ignore")
        reader = open_video(path)
    expected = plain_decode(whole)
    for i in range(40):
        try:
            frame = reader.read([i])[0]
            assert 10 < i < 24 or np.array_equal(frame, expected[i]), "the rest is spared"
        except VideoError as error:
            assert f"frame {i} of 40" in str(error)
            damaged.append(i)
    assert damaged and str(look.damage).startswith(f"{len(damaged)} of 40")
    assert f"({', '.join(map(str, damaged))})" in str(look.damage)
    assert glance(whole).damage is None
    if HAS_DECORD and name == "a.mp4":
        with pytest.raises(VideoError, match="decord misreads"):
            open_video(path, "decord")


def test_the_same_damage_is_found_in_every_look(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", np.random.default_rng(0).integers(
        0, 256, (1, 48, 64, 3), dtype=np.uint8)).read_bytes()  # fmt: skip
    begin = whole.index(b"mdat") + 700
    for seed in range(8):
        data, noise = bytearray(whole), np.random.default_rng(seed)
        for at in noise.integers(begin, begin + 1400, 4):
            data[at] ^= int(noise.integers(1, 256))
        (tmp_path / "a.mp4").write_bytes(data)
        looks = set()
        for _ in range(6):
            try:
                looks.add(glance(tmp_path / "a.mp4").damage)
            except VideoError as error:
                looks.add(error.reason)
        assert len(looks) == 1, looks


def test_hdr_interlaced_and_oblong_pixels_are_remarked(tmp_path):
    options = {"x264-params": "transfer=smpte2084:tff=1"}
    path = write_video(tmp_path / "a.mp4", moving_frames(3), pix_fmt="yuv420p10le",
                       options=options, aspect=Fraction(4, 3))  # fmt: skip
    reader = open_video(path)
    assert reader.width == 64
    assert all(word in str(reader.remarks) for word in ("not square", "HDR", "interlaced"))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_no_utf8_are_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_video(tmp_path / "a.mp4", moving_frames(3)).rename(path)
    assert len(open_video(path)) == glance(path).frames == 3


LISTS = (
    "ffconcat version 1.0\nfile a.mp4\n",
    "ffconcat version 1.0\nfile '{url}'\n",
    "#EXTM3U\n#EXTINF:1,\na.mp4\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "[Reference]\nRef1={url}\n",
    "rtsptext\n{url}\n",
    '<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>',
)


def test_a_list_of_files_or_addresses_is_no_video_and_asks_nobody(tmp_path):
    write_video(tmp_path / "a.mp4", moving_frames(3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for text in LISTS:
            for name in ("list.mp4", "list.m3u8", "list.sdp"):
                url = f"http://127.0.0.1:{port}/a.mp4"
                (tmp_path / name).write_text(text.format(url=url, port=port))
                with pytest.raises(VideoError, match="not a video"):
                    open_video(tmp_path / name)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_only_pictures_of_reasonable_size_are_decoded(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "gif.png", "GIF")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    for name, reason in (("gif.png", "is broken"), ("bomb.png", "9000 x 9000 pixels, too many")):
        with pytest.raises(VideoError, match=reason):
            open_video(tmp_path / name)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        for kind in ("png", "mp4"):
            (tmp_path / f"pipe.{kind}").symlink_to(tmp_path / "pipe")
            (tmp_path / f"zero.{kind}").symlink_to("/dev/zero")
            for look in (open_video, glance):
                for name in ("pipe", "zero"):
                    with pytest.raises(VideoError, match="pipe or device"):
                        look(tmp_path / f"{name}.{kind}")


def test_a_second_film_and_other_pictures_of_one_file_are_never_lost(tmp_path, mp4):
    """cat a.mp4 b.flv, of which FFmpeg reads the first; an animated .png has many pictures."""
    joined, whole = tmp_path / "joined.mp4", mp4.read_bytes()
    for name in ("a.mp4", "a.mkv", "a.avi", "a.flv", "a.wmv"):
        how: dict[str, Any] = {"codec": "wmv2"} if name == "a.wmv" else {"options": {"bf": "0"}}
        path = write_video(tmp_path / name, moving_frames(8), **how)
        other = path.read_bytes()
        assert glance(path).damage is None
        for both in (whole + other, other + whole, other + other):
            joined.write_bytes(both)
            look = glance(joined)
            assert "second film" in str(look.damage) or look.frames == 16, name
    first, *others = map(Image.fromarray, moving_frames(3))
    first.save(tmp_path / "still.png", save_all=True, append_images=others)
    with pytest.raises(VideoError, match=r"frame 0 \(still.png\).* moves \(3 pictures\)"):
        open_video(tmp_path / "still.png")
