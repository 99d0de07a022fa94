"""`maedfer predict`: a classifier's predictions for the face in a video, window by window."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from maedfer_lab.config import Framing
from maedfer_lab.data.faces import Detector, detect_faces
from maedfer_lab.data.writing import write_video
from maedfer_lab.figures import draw_timeline
from maedfer_lab.files import check_writable, pack_picture
from maedfer_lab.inference import faces as of_faces
from maedfer_lab.inference.faces import Faces, Window
from maedfer_lab.inference.known_model import KnownModel, known_model
from maedfer_lab.method.models import Classifier

DEFAULT = "demo-expressions"
SHOWN_PX = 720  # longer side of an annotated video, at most
SQUARE = (86, 180, 233)  # sky blue, safe for colour-blind readers


@dataclass(frozen=True)
class Prediction:
    """Probabilities (w k) of each window of a face, and the windows' positions."""

    known: KnownModel
    faces: Faces
    windows: list[Window]
    probabilities: Float[np.ndarray, "w k"]
    files: tuple[Path, ...] = ()

    @property
    def mean(self) -> Float[np.ndarray, " k"]:
        """Probabilities averaged over the windows."""
        return self.probabilities.mean(0)

    def __str__(self) -> str:
        written = "".join(
            f"\n  {line}" for line in (*self.faces.remarks(self.windows), *self.files)
        )
        said = f"mean of {len(self.windows)} windows: {self.known.answer(self.mean)}"
        return f"{self.faces}\n  {said}{written}"

    def at(self, frame: int) -> Float[np.ndarray, " k"] | None:
        """Mean over the windows that contain a frame of the whole video; None if none does."""
        second = self.faces.tracks.second(frame)  # starts and ends both rise
        first, stop = (bisect_right(self.windows, second, key=attrgetter(key))
                       for key in ("end_s", "start_s"))  # fmt: skip
        return self.probabilities[first:stop].mean(0) if first < stop else None

    def rows(self) -> list[dict[str, Any]]:
        """A row per window: face piece, start and end in seconds, guess, probabilities."""
        names = self.known.classes
        return [{
            "video": self.faces.path.name, "piece": window.face,
            "start_s": round(window.start_s, 3), "end_s": round(window.end_s, 3),
            "guess": names[int(p.argmax())] if p.max() >= self.known.sure else "not sure",
            **dict(zip(names, np.round(p.astype(float), 6).tolist(), strict=True)),
        } for window, p in zip(self.windows, self.probabilities, strict=True)]  # fmt: skip

    def timeline(self) -> dict[str, Any]:
        """What `figures.draw_timeline` draws."""
        middles = [(w.start_s + w.end_s) / 2 for w in self.windows]
        crops = self.faces.crops(min(middles), max(middles))
        return {
            "title": self.faces.path.name, "model": str(self.known), "footer": self.known.footer,
            "classes": list(self.known.classes), "sure": self.known.sure,
            "pieces": [w.face for w in self.windows],
            "seconds": [round(second, 3) for second in middles],
            "probabilities": self.probabilities.round(5).tolist(),
            "scale": "probability" if self.known.calibration else "score (not calibrated)",
            "crops": [{"second": second, "picture": pack_picture(x)} for second, _, x in crops],
        }  # fmt: skip


@torch.no_grad()
def predict(
    video: Path | str, checkpoint: Path | str | KnownModel | None = None, *,
    labels: str | None = None, face: str | int = "largest", framing: Framing | None = None,
    stride: int | None = None, hop: int | None = None, drawn_model: bool = False,
    detect: Detector = detect_faces, progress: bool = True,
) -> Prediction:  # fmt: skip
    """Classify every window of one person's face; see `predict_videos`.

    face, framing, detect: `faces.open_faces`. stride, hop: frames; `Faces.windows`.
    drawn_model: allow a model that was trained only on drawn faces.
    """
    known = known_model(checkpoint, default=DEFAULT, labels=labels)
    model = known.model
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{known.name} is a pre-trained autoencoder without classes, which cannot predict "
            "expressions; give a fine-tuned checkpoint (`maedfer finetune` makes one)"
        )
    if known.synthetic and not drawn_model:
        raise ValueError(
            f"{known.name} was trained only on drawn faces, and its predictions for real people "
            "mean nothing; give a model fine-tuned on labelled videos with --checkpoint "
            "(`maedfer finetune` makes one), or --drawn-model for a video of a drawn face"
        )
    faces = of_faces.open_faces(video, model.config.size_px, face=face, detect=detect,
                                framing=framing or known.framing, progress=progress)  # fmt: skip
    temperature = known.calibration.temperature if known.calibration else 1.0
    windows = faces.windows(model.config, of_faces.steps_for(known.stride, faces.fps, stride), hop)
    found = [(model(clips).float() / temperature).softmax(1)
             for _, clips in faces.clips(windows, progress=progress)]  # fmt: skip
    return Prediction(known, faces, windows, torch.cat(found).numpy())


def save_prediction(result: Prediction, out: Path, name: str, video: bool = True) -> Prediction:
    """Write NAME.csv, NAME.png (timeline) and NAME.mp4 (annotated video) to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.csv", out / f"{name}.png"]
    about = "\n".join([str(result.known), *result.faces.remarks(result.windows)])
    of_faces.write_rows(files[0], result.rows(), about, result.faces.path.name)
    draw_timeline(result.timeline(), files[1])
    if video:
        files.append(out / f"{name}.mp4")
        source = result.faces.tracks.video
        write_video(files[-1], annotated_frames(result), result.faces.fps, source.times)
    return replace(result, files=tuple(files))


def annotated_frames(result: Prediction) -> Iterator[np.ndarray]:
    """Every frame of the video with the square around the face and the predictions."""
    faces, source = result.faces, result.faces.tracks.video
    scale = min(1.0, SHOWN_PX / max(source.height, source.width))
    size = max(2, round(source.width * scale)), max(2, round(source.height * scale))
    font = ImageFont.load_default(size=max(12, size[1] // 28))
    foot = _label((result.known.footer,), size, ImageFont.load_default(size=max(9, size[1] // 45)))
    every = chain.from_iterable(frames for _, frames in source.in_pieces(range(len(source))))
    shown = tqdm(every, "annotated video", len(source), unit="frame", leave=False)
    for number, frame in enumerate(shown):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(picture)
        for video in faces.videos:
            if video.first <= number < video.first + len(video):
                top, left, side = video.squares[number - video.first] * scale
                draw.rectangle((left, top, left + side, top + side), outline=SQUARE, width=2)
        lines = ["drawn-face model: not for real use"] if result.known.synthetic else []
        if (said := result.at(number)) is not None:
            lines += result.known.answer(said).split(", ")
        label = _label(tuple(lines), size, font)
        picture.paste(label, mask=label)
        picture.paste(foot, (0, size[1] - foot.height - 2), mask=foot)
        yield np.asarray(picture)


@lru_cache(maxsize=1)  # the text stays for many frames, and drawing it takes longer than the rest
def _label(lines: tuple[str, ...], size: tuple[int, int], font: Any) -> Image.Image:
    """White lines on black, transparent elsewhere; lines too long for the picture are wrapped."""
    label = Image.new("RGBA", size)
    draw, top = ImageDraw.Draw(label), 4
    room = [max(6, int(len(x) * (size[0] - 12) / draw.textlength(x, font=font))) for x in lines]
    for line in chain.from_iterable(map(textwrap.wrap, lines, room)):
        box = draw.textbbox((6, top), line, font=font)
        draw.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill="black")
        draw.text((6, top), line, fill="white", font=font)
        top = int(box[3]) + 4
    box = label.getbbox()
    return label.crop((0, 0, *box[2:])) if box else label


@dataclass(frozen=True)
class Predictions:
    """The result of each video; refused: one sentence per video without a result."""

    known: KnownModel
    results: tuple[Prediction, ...]
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.known), *map(str, self.results)])


def predict_videos(
    videos: tuple[Path, ...], /, *, checkpoint: Path | None = None,
    out: Path = Path("predictions"), labels: str | None = None, face: str = "largest",
    framing: Framing | None = None, stride: int | None = None, hop: int | None = None,
    annotate: bool = True, drawn_model: bool = False,
) -> Predictions:  # fmt: skip
    """Predict the expression in videos over time with a classifier.

    For each video: NAME.csv (scores per window), NAME.png (a timeline under the face's
    crops) and NAME.mp4 (the video with the face's square and the predictions).

    Every result names the model, its labels and how it was trained. Without a checkpoint it is
    `demo-expressions`: seven expressions (happiness, sadness, neutral, anger, surprise, disgust,
    fear), learned from drawn faces. It is not for real use: its predictions for real people mean
    nothing, so it is refused without --drawn-model.

    videos: video files, folders of images, or images.
    checkpoint: a fine-tuned model, official or ours; demo-expressions by default.
    out: folder for the results.
    labels: dfew, ferv39k, mafw, cremad, ravdess or enterface: names for a model without names.
    face: largest, longest, left, right, or the number of a face track.
    framing: wide, voxceleb2, official, or whole for videos that are face crops already; by default
        the one that the model was trained with.
    stride: frames of the video per frame of a clip; by default as in the model's training.
    hop: frames from one window to the next; by default half a window.
    annotate: write the MP4, too.
    drawn_model: allow a model that was trained only on drawn faces, on drawn faces.
    """
    if not videos:
        raise ValueError("name at least one video, such as: maedfer predict face.mp4")
    check_writable(out / "predictions.csv")
    known = known_model(checkpoint, default=DEFAULT, labels=labels)

    def one(path: Path, name: str) -> Prediction:
        result = predict(path, known, face=face, framing=framing, stride=stride, hop=hop,
                         drawn_model=drawn_model)  # fmt: skip
        return save_prediction(result, out, name, annotate)

    results, refused = of_faces.over_videos(videos, out, one)
    return Predictions(known, tuple(results), refused)
