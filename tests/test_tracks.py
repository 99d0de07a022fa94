"""Tracks of "faces" that are bright squares, found by a detector of the test's own."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maedfer_lab.data.faces import (
    FRAMINGS,
    FaceBox,
    FaceVideo,
    NoFaceError,
    SceneChanges,
    detect_faces,
    frame_square,
    track_faces,
)
from maedfer_lab.data.folder import sample_clip
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.video import VideoReader
from maedfer_lab.drawn.faces import SyntheticFaces

SIZE = 24  # of a face in pixels
COLOURS = ((255, 0, 0), (0, 255, 0))


class Drawn(VideoReader):
    """Grey frames with a square per face: `places[face][frame]` is (left, top), None if unseen."""

    backend = "drawn"

    def __init__(self, *places, height=120, width=160, cut_at=1000):
        self.path, self.fps = Path("drawn.mp4"), 25.0
        self.places, self.height, self.width, self.cut_at = places, height, width, cut_at
        self._length, self.pieces = len(places[0]), []

    def _read(self, indices):
        self.pieces.append(len(indices))
        frames = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        ramp = np.linspace(20, 90, self.width).astype(np.uint8)
        for frame, i in zip(frames, indices, strict=True):
            frame[:] = (ramp[::-1] if i >= self.cut_at else ramp)[None, :, None]
            for place, colour in zip(self.places, COLOURS, strict=False):
                if place[i] is not None:
                    left, top = place[i]
                    frame[top : top + SIZE, left : left + SIZE] = colour
        return frames


def find_squares(frame):
    boxes = []
    for colour in COLOURS:
        down, across = np.nonzero((frame == colour).all(2))
        if len(down) > SIZE * SIZE / 3:
            box = (across.min(), down.min(), np.ptp(across) + 1, np.ptp(down) + 1, 1)
            boxes.append(FaceBox(*map(float, box)))
    return boxes


def track(*places, cut_at=1000, **how):
    return track_faces(Drawn(*places, cut_at=cut_at), find_squares, progress=False, **how)


def line(start, stop, num=100, top=40):
    return [(round(x), top) for x in np.linspace(start, stop, num)]


def test_a_moving_face_is_one_track_whose_square_stays_on_it_and_whose_crops_are_a_video():
    places = line(10, 120)
    tracks = track(places)
    (one,) = tracks.tracks
    assert (one.first, one.stop, one.ending) == (0, 100, "end of the video")
    assert tracks.pick() == (one,) and tracks.coverage((one,)) == 1.0
    assert "0:   0.00 to   4.00 s, face 24 px high, end of the video" in str(tracks)
    off = one.smooth_boxes(25.0)[:, 0] - [left for left, _ in places]
    assert np.abs(off[10:-10]).max() < 1.5, "a straight path is kept by the smoothing"
    face = FaceVideo(tracks, one, 32, FRAMINGS["official"])
    assert (len(face), face.height, face.width, face.fps) == (100, 32, 32, 25.0)
    middle = face.read([50, 3, 50])
    assert middle.shape == (3, 32, 32, 3) and (middle[0] == middle[2]).all()
    assert middle[0, 4:-4, 4:-4, 0].min() > 200, "the square is the face"
    assert len(track([(40, 40)]).tracks[0]) == 1, "a still picture"


def test_short_gaps_are_bridged_and_long_ones_split():
    places = [None if 40 <= i < 60 else p for i, p in enumerate(line(40, 40))]
    assert len(track(places).tracks) == 1
    (one, two) = track(places, bridge_s=0.4).tracks
    assert one.ending == "face lost" and one.stop <= 43 and two.first >= 57
    assert 70 < len(one) + len(two) < 90


def test_tracks_end_where_faces_cross_and_scenes_are_cut():
    tracks = track(line(10, 120), line(120, 10))
    assert [t.ending for t in tracks.tracks].count("another face crosses") == 2
    (one, two) = track(line(40, 40), cut_at=50).tracks
    assert one.ending == "scene cut" and one.stop <= 50 <= two.first, "no frame of the other scene"


@pytest.fixture(scope="module")
def people():
    """40 frames of one drawn person, cut to 40 of another in the same place."""
    faces = SyntheticFaces(8, "train", num_frames=40, size_px=64)
    one = faces[0]
    other = next(clip for clip in faces if clip.identity != one.identity)
    return np.concatenate([one.frames, other.frames])


def flash(frames, number):
    frames = frames[:40].copy()
    frames[20 : 20 + number] = 255 - (255 - frames[20 : 20 + number]) // 4
    return frames


def pan(frames):
    wide = np.tile(np.concatenate(list(frames[::8]), axis=1), (1, 2, 1))
    lefts = [min(max(0, i - 15), 20) * 12 for i in range(40)]  # stands, pans, stands
    return np.stack([wide[:, left : left + 64] for left in lefts])


def fade(frames):
    share = np.linspace(0, 1, 40)[:, None, None, None]
    return ((1 - share) * frames[:40] + share * frames[40:]).astype(np.uint8)


SCENES = {
    "cut": (lambda frames: frames, [40]),
    "early cut": (lambda frames: frames[38:], [2]),
    "flash": (lambda frames: flash(frames, 1), []),
    "long flash": (lambda frames: flash(frames, 4), []),
    "pan": (pan, []),
    "fade": (fade, []),
    "still": (lambda frames: frames[:1], []),
}


@pytest.mark.parametrize("kind", SCENES)
def test_cuts_between_people_are_told_from_flashes_pans_and_fades(kind, people):
    changes, (scene, cuts) = SceneChanges(), SCENES[kind]
    for frame in scene(people):
        changes.add(frame)
    assert changes.cuts() == cuts


def test_one_of_several_people_is_picked():
    tracks = track(line(10, 20, top=10), line(120, 120, top=80))
    assert [t.ending for t in tracks.tracks] == ["end of the video"] * 2
    assert tracks.pick("left")[0].left_px < 30 and tracks.pick("right")[0].left_px > 100
    assert tracks.pick(1) == (tracks.tracks[1],)
    assert all(a.stop <= b.first for a, b in pairwise(tracks.pick("largest")))
    for wrong, message in ((2, r"face=2 must lie in \[0, 2\)"), ("best", "not known; use largest")):
        with pytest.raises(ValueError, match=message):
            tracks.pick(wrong)


def test_without_a_face_the_error_names_frames_and_shows_three():
    with pytest.raises(NoFaceError, match=r"no face was found in the 11 frame.*0, 5, 10") as caught:
        track([None] * 50)
    assert caught.value.looked[-1] == 49 and len(caught.value.pictures) == 3


@pytest.mark.parametrize(
    ("turns", "seen", "way"),
    [(1, 0.97, "to the right"), (2, 0.97, "upside down"), (3, None, "to the left"), (0, 1.0, "")],
)
def test_a_turned_face_is_refused_with_the_way_to_turn_it(turns, seen, way):
    class Turned(Drawn):
        def _read(self, indices):
            return np.rot90(super()._read(indices), turns, axes=(1, 2))

    def surest_upright(frame):  # the ramp behind the face rises to the right
        rise = frame[0, -1, 0] > frame[0, 0, 0] and frame[0, 0, 0] == frame[-1, 0, 0]
        faces = find_squares(frame) if rise or seen else []
        return [face._replace(confidence=1.0 if rise else seen) for face in faces]

    video = Turned(line(60, 60, num=30))
    if not way:
        assert len(track_faces(video, surest_upright, progress=False).tracks) == 1
        return
    with pytest.raises(NoFaceError, match=f"turned .*{way}: turn the video"):
        track_faces(video, surest_upright, progress=False)


def test_large_frames_pass_in_small_pieces():
    video = Drawn([(200, 200)] * 12, height=2160, width=3840)
    tracks = track_faces(video, find_squares, look_every_s=0.04, progress=False)
    FaceVideo(tracks, tracks.pick()[0], 32).read(range(12))
    assert max(video.pieces) <= 2, "two 4K frames are 50 MB"


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.floats(-50, 400), st.floats(-50, 300), st.floats(4, 500), st.floats(4, 500)),
       st.sampled_from(sorted(FRAMINGS)))  # fmt: skip
def test_squares_stay_inside_the_picture(box, framing):
    top, left, side = frame_square(np.array(box), 240, 320, FRAMINGS[framing])
    assert 0 <= top and 0 <= left and 0 < side
    assert top + side <= 240 + 1e-9 and left + side <= 320 + 1e-9


def test_the_detector_finds_the_face_of_the_sample_clip_once():
    video = open_video(sample_clip(), "pyav")
    assert sum(map(len, track_faces(video, progress=False).pick())) == len(video)
    assert len(detect_faces(video.read([0])[0])) == 1
    assert detect_faces(np.full((90, 90, 3), 128, np.uint8)) == []
