"""`maedfer embed`: an encoder's features of the faces in videos, as arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maedfer_lab.checkpoints.official import Model
from maedfer_lab.config import Framing, choose
from maedfer_lab.data.faces import Detector, detect_faces
from maedfer_lab.files import provenance, write_aside
from maedfer_lab.inference.faces import open_faces, over_videos, result_path, steps_for
from maedfer_lab.inference.known_model import KnownModel, known_model
from maedfer_lab.method.models import Classifier

SHOWN = 5  # remarks on videos
Level = Literal["clip", "rep", "regions", "token"]
HOLD = (
    "A pre-trained model's features encode identity more than expression. What they encode of "
    "expression depends on position: use the level regions, standardised. `maedfer probe` tests "
    "whether features predict your labels."
)


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of windows of videos, float32, one row per window.

    arrays: those requested of "clip" (w d), "rep" (w r d; LGI-Former's representative tokens),
        "regions" (w r*d; the same, concatenated), "token" (w n d; by frames, rows, columns).
    video, start_s, end_s: of each window. refused: one sentence per video without a result.
    """

    known: KnownModel
    arrays: dict[str, np.ndarray]
    video: list[str]
    start_s: list[float]
    end_s: list[float]
    path: Path | None = None
    refused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = ", ".join(
            f"{name} {' x '.join(map(str, x.shape))}" for name, x in self.arrays.items()
        )
        where = f"{self.path}: " if self.path else ""
        return f"{where}{shapes} of {len(set(self.video))} video(s)\n{self.about}"

    @property
    def about(self) -> str:
        """The model, and what its features encode."""
        hold = "" if isinstance(self.known.model, Classifier) else f"\n{HOLD}"
        more = [f"and {len(self.remarks) - SHOWN} more remarks"] * (len(self.remarks) > SHOWN)
        return "\n".join([f"{self.known}{hold}", *self.remarks[:SHOWN], *more])


def embed(
    videos: Sequence[Path | str], /, checkpoint: Path | str | None = None, *,
    out: Path | str | None = None, levels: Sequence[Level] = ("clip", "rep"),
    face: str | int = "largest", framing: Framing = "wide", stride: int | None = None,
    hop: int | None = None, detect: Detector = detect_faces, progress: bool = True,
) -> Embeddings:  # fmt: skip
    """Turn the faces in videos into feature vectors, one row per window of the video.

    The result and its file name the model and how it was trained. Without a checkpoint it is
    `demo`, a small model pre-trained on faces (no labels); not for real use, and not
    for identifying or assessing people.

    A pre-trained model's features encode identity more than expression, especially averages over
    tokens such as clip. For expressions use regions, standardise each column, crop tightly, and
    test with `maedfer probe` whether the features predict your labels.

    videos: video files, folders of images, or images.
    checkpoint: pre-trained or fine-tuned, official or ours; `demo` by default.
    out: .npz (NumPy); embeddings.npz on the command line.
    levels: clip (one vector: a classifier's pooled feature, else the mean of the representative
        tokens, or of all tokens for a ViT), rep (one per representative token), regions (all
        representative tokens concatenated), token (one per cube).
    face: largest, longest, left, right, or the number of a face track.
    framing: wide, voxceleb2, official, or whole for videos that are face crops already.
    stride: frames of the video per frame of a clip; by default as in the model's training.
    hop: frames from one window to the next; by default half a window.
    """
    out = result_path(out, ".npz")
    for level in levels:
        choose("levels", level, get_args(Level))
    if not videos or not levels:
        raise ValueError("videos and levels must each name at least one; give a video's path")
    known = known_model(checkpoint)
    if {"rep", "regions"} & set(levels) and known.model.encoder.num_regions == 0:
        raise ValueError(
            f"{known.name} is a ViT without representative tokens; leave out 'rep' and 'regions'"
        )
    given = {str(Path(video).expanduser()): str(video) for video in videos}
    rows: dict[str, list[np.ndarray]] = {level: [] for level in levels}
    found: list[tuple[str, float, float]] = []
    remarks: list[str] = []

    def one(path: Path, name: str) -> None:
        config = known.model.config
        faces = open_faces(path, config.size_px, face=face, framing=framing, detect=detect,
                           progress=progress)  # fmt: skip
        windows = faces.windows(config, steps_for(known.stride, faces.fps, stride), hop)
        done = [(part, encode(known.model, clips, levels))
                for part, clips in faces.clips(windows, progress=progress)]  # fmt: skip
        remarks.extend(f"{path.name}: {remark}" for remark in faces.remarks(windows))
        for part, values in done:  # all of a video, or nothing
            found.extend((given[str(path)], round(w.start_s, 4), round(w.end_s, 4)) for w in part)
            for level, value in values.items():
                rows[level].extend(value.numpy())

    refused = over_videos(videos, out and out.parent, one)[1]
    if refused and out is None:
        raise ValueError("; ".join(refused))
    arrays: dict[str, Any] = {level: np.stack(values) for level, values in rows.items()}
    video, start_s, end_s = map(list, zip(*found, strict=True))
    result = Embeddings(known, arrays, video, start_s, end_s, out, refused, tuple(remarks))  # type: ignore
    if out is not None:
        source = provenance(profile="none", seed=0, device="cpu", data=sorted(set(video)))
        about, file = json.dumps({"model": result.about, **source}), io.BytesIO()
        stored = arrays | {"video": video, "start_s": start_s, "end_s": end_s, "about": about}
        np.savez_compressed(file, **stored)
        write_aside(out, file.getvalue())
    return result


@torch.no_grad()
def encode(
    model: Model, clips: Float[Tensor, "b 3 T H W"], levels: Sequence[Level], batch: int = 8
) -> dict[str, Tensor]:
    """The levels of whole clips (pixels in [0, 1]), float32 on the CPU; shapes: `Embeddings`."""
    encoder, was_training = model.encoder, model.training
    if {"rep", "regions"} & set(levels) and encoder.rep_tokens is None:
        raise ValueError("a ViT has no representative tokens; use an encoder='lgi'")
    weight = encoder.embed.proj.weight
    model.eval()
    found: dict[str, list[Tensor]] = {level: [] for level in levels}
    for part in clips.split(batch):
        part = part.to(weight.device, weight.dtype)
        encoded = encoder(part, rep_only=set(levels) <= {"rep", "regions"})
        tokens = encoded.tokens
        rep = tokens if encoded.rep_tokens is None else encoded.rep_tokens
        for level in levels:
            if level == "token":
                value = tokens[:, encoded.index[0].argsort()]
            elif level == "clip":
                value = model.features(part) if isinstance(model, Classifier) else rep.mean(1)
            else:
                value = rep if level == "rep" else rep.flatten(1)
            found[level].append(value.float().cpu())
    model.train(was_training)
    return {level: torch.cat(values) for level, values in found.items()}
