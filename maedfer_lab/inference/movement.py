"""`maedfer movement`: how much the parts of a face move over time; no labels, no classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from maedfer_lab.config import Framing
from maedfer_lab.data.faces import FRAMINGS, Detector, FaceVideo, detect_faces
from maedfer_lab.figures import draw_movement
from maedfer_lab.files import pack_picture, write_aside
from maedfer_lab.inference import faces as of_faces
from maedfer_lab.inference.embed import encode
from maedfer_lab.inference.faces import Faces, Window
from maedfer_lab.inference.known_model import KnownModel, known_model
from maedfer_lab.method.grid import Grid

# Rectangles in the face's box: left, top, right, bottom as shares of its larger side, from its
# middle and its top. In one frame of each of 51 people the eyes were at a height of 0.39 +- 0.025,
# the mouth at 0.76 +- 0.026. The nose hardly moves by itself: it shows residual head motion.
REGIONS = {
    "brows": (-0.30, 0.17, 0.30, 0.34),
    "eyes": (-0.30, 0.34, 0.30, 0.48),
    "nose": (-0.12, 0.48, 0.12, 0.64),
    "mouth": (-0.24, 0.66, 0.24, 0.92),
}
NAMES = (*REGIONS, "head")
NO_CHANGES = {f"{name}_tokens": None for name in REGIONS}
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Movement:
    """Movement from one frame to another, a row for each pair.

    rows: video, piece (number of the stretch in which the face is seen), start_s and end_s (the
        two frames' times); brows, eyes, nose, mouth: mean absolute motion target in grey levels of
        0 to 255; head: path of the corners of the face's box, in its larger sides per second;
        brows_tokens to mouth_tokens: `token_changes`, None where no whole clip holds the pair.
    """

    known: KnownModel
    faces: Faces
    rows: list[dict[str, Any]]
    about: str
    files: tuple[Path, ...] = ()

    def values(self, name: str) -> Float[np.ndarray, " w"]:
        """A column of the rows; nan where there is no value."""
        return np.array([row[name] for row in self.rows], dtype=float)

    def limit(self, name: str) -> float:
        """The clip's own median + 3 median absolute deviations (MAD)."""
        value, median = self.values(name), np.median(self.values(name))
        return float(median + 3 * np.median(np.abs(value - median)))

    def is_moving(self, name: str) -> Bool[np.ndarray, " w"]:
        """Where movement exceeds the limit; for brows, eyes and mouth also that of the nose."""
        value = self.values(name)
        is_own = name in ("nose", "head") or value > self.values("nose")
        return (value > self.limit(name)) & is_own

    def intervals(self, name: str) -> list[tuple[float, float, float]]:
        """Start and end (seconds) of each interval of movement, and its maximum."""
        pairs = list(zip(self.is_moving(name).tolist(), self.rows, strict=True))
        runs = groupby(pairs, lambda pair: (pair[0], pair[1]["piece"]))
        found = [[row for _, row in run] for (moves, _), run in runs if moves]
        return [(r[0]["start_s"], r[-1]["end_s"], max(row[name] for row in r)) for r in found]

    def __str__(self) -> str:
        most = {name: max(self.rows, key=lambda row: row[name]) for name in NAMES}
        lines = [
            f"{name:<5}  median {np.median(self.values(name)):6.2f}, max {row[name]:6.2f} at "
            f"{row['start_s']:.2f} s, intervals of movement: {len(self.intervals(name))}"
            for name, row in most.items()
        ]
        return "\n  ".join([f"{self.faces}\n{self.about}", *lines, *map(str, self.files)])

    def timeline(self) -> dict[str, Any]:
        """What `figures.draw_movement` draws."""
        seconds = (self.values("start_s") + self.values("end_s")) / 2
        crops = self.faces.crops(float(seconds[0]), float(seconds[-1]))
        return {
            "title": self.faces.path.name,
            "about": self.about,
            "footer": self.known.footer,
            "pieces": [row["piece"] for row in self.rows],
            "seconds": seconds.tolist(),
            "values": {name: self.values(name).tolist() for name in NAMES},
            "moving": {name: self.is_moving(name).tolist() for name in NAMES},
            "tokens": {name: self.values(f"{name}_tokens").tolist() for name in REGIONS},
            "crops": [{"second": second, "picture": pack_picture(picture),
                       "regions": region_shares(self.faces.videos[face])}
                      for second, face, picture in crops],
        }  # fmt: skip

    def eaf(self) -> bytes:
        """An ELAN file (EAF 2.8): a tier per name with its `intervals` and their maxima."""
        add, path = ElementTree.SubElement, self.faces.path.resolve()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="maedfer_lab", DATE=now,
                                   FORMAT="2.8", VERSION="2.8")  # fmt: skip
        header = add(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
        add(header, "MEDIA_DESCRIPTOR", MEDIA_URL=path.as_uri(), RELATIVE_MEDIA_URL=path.name,
            MIME_TYPE=guess_type(path.name)[0] or "unknown")  # fmt: skip
        add(header, "PROPERTY", NAME="about").text = self.about
        order, slots = add(root, "TIME_ORDER"), list[tuple[int, str]]()
        for name in NAMES:
            tier = add(root, "TIER", TIER_ID=name, LINGUISTIC_TYPE_REF="movement")
            for start, end, most in self.intervals(name):
                ends = [f"ts{len(slots) + i}" for i in (1, 2)]
                slots += zip((round(1000 * start), round(1000 * end)), ends, strict=True)
                note = add(add(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", TIME_SLOT_REF1=ends[0],
                           TIME_SLOT_REF2=ends[1], ANNOTATION_ID=f"a{len(slots) // 2}")  # fmt: skip
                add(note, "ANNOTATION_VALUE").text = f"{most:.2f}"
        for time, slot in sorted(slots):
            add(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
        add(root, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID="movement", TIME_ALIGNABLE="true",
            GRAPHIC_REFERENCES="false")  # fmt: skip
        return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def region_shares(video: FaceVideo) -> dict[str, tuple[float, ...]]:
    """The REGIONS in a crop: left, top, right, bottom as shares of its side (median of frames)."""
    left, top, width, height = video.boxes.T
    size, (square_top, square_left, side) = np.maximum(width, height), video.squares.T
    origin = left + width / 2 - square_left, top - square_top
    return {
        name: tuple(float(np.median((origin[i % 2] + share * size) / side).clip(0, 1))
                    for i, share in enumerate(shares))
        for name, shares in REGIONS.items()
    }  # fmt: skip


def movement(
    video: Path | str, /, checkpoint: Path | str | None = None, *,
    out: Path | str | None = None, face: str | int = "largest", framing: Framing = "wide",
    stride: int | None = None, detect: Detector = detect_faces, progress: bool = True,
) -> Movement:  # fmt: skip
    """Measure how much brows, eyes, mouth and head move over time: any face, without labels.

    Movement is the mean absolute motion target (Sun et al. 2023: odd minus even frame of a tubelet)
    over a fixed rectangle of the tracked square, in grey levels of 0 to 255. It says that something
    moves, not what or why. Lighting, key frames of a codec and tracking errors count too: the nose,
    which hardly moves by itself, shows how much. Head: path of the corners of the face's box, in
    its larger sides per second. Beside it, how much the model's own tokens change in the same
    places (`token_changes`).

    video: a video file or a folder of images.
    checkpoint: the model whose stride, clip size and tokens are used; `demo` by default.
    out: a .png with a timeline below the face's crops; also a .csv with all values and an ELAN .eaf
        with intervals where movement exceeds the clip's own median by 3 median absolute deviations
        (and that of the nose). movement.png on the command line.
    face: largest, longest, left, right, or the number of a face track.
    framing: wide, voxceleb2 or official: how tight the square is.
    stride: frames between the two that are compared; by default the model's.
    """
    if framing == "whole":
        raise ValueError(
            f"framing={framing!r} finds no face, so brows, eyes and mouth cannot be located; "
            f"use one of {', '.join(FRAMINGS)}"
        )
    out = of_faces.result_path(out, ".png")
    files = () if out is None else (out, out.with_suffix(".csv"), out.with_suffix(".eaf"))
    for path in files[1:]:
        of_faces.result_path(path)
    known = known_model(checkpoint)
    size_px = known.model.config.size_px
    (faces,), _ = of_faces.over_videos(
        [video], out and out.parent, lambda path, _: of_faces.open_faces(
            path, size_px, face=face, framing=framing, detect=detect, progress=progress)
    )  # fmt: skip
    step = of_faces.steps_for(known.stride, faces.fps, stride)
    # Clips of one tubelet, a stride apart: every frame is compared with the next.
    windows = faces.windows(replace(known.model.config, frames=2), step, hop=step)
    windows = [window for window in windows if window.frames[1] > window.frames[0]]
    if not windows:
        longest = max(map(len, faces.videos))
        raise ValueError(
            f"{faces.path.name}: movement is between frames {step} apart, and the face is seen in "
            f"{longest} in a row; give a longer video{', or stride=1' * (1 < longest <= step)}"
        )
    shares = [region_shares(one) for one in faces.videos]
    rectangles = [{name: [round(x * size_px) for x in share] for name, share in one.items()}
                  for one in shares]  # fmt: skip
    changes = token_changes(faces, known, step, shares, progress)
    rows: list[dict[str, Any]] = []
    for part, clips in faces.clips(windows, batch=64, progress=progress):
        motion = clips[:, :, 1] - clips[:, :, 0]  # the motion target, in units of pixels
        levels = 255 * torch.einsum("bchw,c->bhw", motion, torch.tensor(GREY)).abs()
        for window, level in zip(part, levels.numpy(), strict=True):
            own = faces.videos[window.face]
            start, end = (faces.tracks.second(own.first + int(i)) for i in window.frames)
            row = {"start_s": start, "end_s": end}
            for name, (left, top, right, bottom) in rectangles[window.face].items():
                row[name] = float(level[top:bottom, left:right].mean())
            row["head"] = _head(*own.boxes[window.frames]) / (end - start) if end > start else 0.0
            row |= changes.get((window.face, int(window.frames[0])), NO_CHANGES)
            rounded = {key: value and round(value, 4) for key, value in row.items()}
            rows.append({"video": faces.path.name, "piece": window.face, **rounded})
    about = "".join(f"{remark[:1].upper()}{remark[1:]}. " for remark in faces.remarks()) + (
        "brows, eyes, nose, mouth: mean absolute change in grey levels (0 to 255) between frames "
        f"{step} apart ({step / faces.fps:.2f} s), in fixed rectangles of the tracked square; the "
        "nose, which hardly moves by itself, shows residual head motion. "
        "head: sides of the face's box per second. Intervals of movement: above the clip's own "
        "median + 3 MAD, brows, eyes and mouth also above the nose. Columns ending in _tokens: "
        f"mean cosine distance (0 to 2) between the tokens of {known.name} at the same place in "
        "consecutive tubelets, nothing hidden. Movement, not its meaning."
    )
    result = Movement(known, faces, rows, about, files)
    if files:
        draw_movement(result.timeline(), files[0])
        of_faces.write_rows(files[1], rows, about, faces.path.name)
        write_aside(files[2], result.eaf())
    return result


def token_changes(
    faces: Faces, known: KnownModel, step: int, shares: Sequence[dict[str, tuple[float, ...]]],
    progress: bool = False,
) -> dict[tuple[int, int], dict[str, float]]:  # fmt: skip
    """How much a model's tokens change over time in each of the REGIONS; its own, no pixels.

    Mean cosine distance (0 to 2) between the encoder's last tokens at the same place in consecutive
    tubelets of a clip of which nothing is hidden. Less sensitive to light than pixels: brightness
    that flickered by 10 % multiplied the medians of grey levels in two of our clips by 4 to 15,
    those of token changes by 1.5 to 7. Keys: number of the face's video, last frame of
    the earlier tubelet; the later tubelet begins `step` frames after it. Pairs at the ends of a
    stretch of the face that no whole clip holds have none.

    shares: `region_shares` of each of the face's videos; tokens count by their overlap.
    """
    config, windows = known.model.config, list[Window]()
    grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
    (count, rows, columns), frames = grid.shape, config.tubelet[0]
    tubelet, span = frames * step, (config.frames - 1) * step
    for face, video in enumerate(faces.videos):
        last = len(video) - 1 - span
        # Clips that share their end tubelets, from each pair's place in a tubelet.
        starts = {start for first in range(0, min(tubelet, last + 1), step)
                  for start in (*range(first, last + 1, max(count - 1, 1) * tubelet),
                                last - (last - first) % tubelet)}  # fmt: skip
        windows += [Window(face, start + step * np.arange(config.frames), 0, 0) for start in starts]
    found: dict[tuple[int, int], dict[str, float]] = {}
    for part, clips in faces.clips(windows, progress=progress):
        tokens = encode(known.model, clips, ["token"])["token"]
        tokens = rearrange(tokens, "b (t h w) d -> t b h w d", t=count, h=rows, w=columns)
        change = 1 - torch.cosine_similarity(tokens[1:], tokens[:-1], dim=-1)
        for i, window in enumerate(part):
            for name, (left, top, right, bottom) in shares[window.face].items():
                height, width = _overlap(top, bottom, rows), _overlap(left, right, columns)
                means = torch.einsum("thw,h,w->t", change[:, i], height, width)
                for frame, mean in zip(window.frames[frames - 1 :: frames], means, strict=False):
                    found.setdefault((window.face, int(frame)), {})[f"{name}_tokens"] = float(mean)
    return found


def _overlap(low: float, high: float, cells: int) -> Float[Tensor, " cells"]:
    """Share of the interval [low, high] of [0, 1] in each of so many equal cells."""
    edges = torch.linspace(0, 1, cells + 1).clamp(low, high)
    return edges.diff() / max(high - low, 1e-6)


def _head(box: Float[np.ndarray, " 4"], later: Float[np.ndarray, " 4"]) -> float:
    """Mean path of a box's corners, relative to its larger side."""
    x, y, wider, higher = later - box
    ways = [np.hypot(x + i * wider, y + j * higher) for i in (0, 1) for j in (0, 1)]
    return float(np.mean(ways) / max(box[2:]))
