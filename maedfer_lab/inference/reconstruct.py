"""`maedfer reconstruct`: hide part of a face video and show a model's reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from maedfer_lab.config import Framing
from maedfer_lab.data.faces import Detector, detect_faces
from maedfer_lab.figures import draw_rows
from maedfer_lab.inference.faces import Faces, open_faces, over_videos, result_path, steps_for
from maedfer_lab.inference.known_model import KnownModel, known_model, need_autoencoder
from maedfer_lab.method.masking import mask_ratios, nearest_ratio
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import (
    LOOK_RATIO,
    ClipReconstruction,
    Statistics,
    TokenOrder,
    reconstruct_clip,
    reconstruction_rows,
)

GREY_CLIP = 0.02  # mean difference between the colours of a pixel, of 1
RATIO = 0.9  # the paper's, in training
STRIP = (0.5, 0.75, RATIO)  # shown in a picture by default
PICTURES = (".png", ".svg", ".pdf")
MOVING = (".html", ".gif", ".mp4")


@dataclass(frozen=True)
class FaceReconstruction:
    """The reconstruction of the middle (or chosen) clip of a face."""

    known: KnownModel
    faces: Faces
    clip: torch.Tensor
    result: ClipReconstruction
    out: Path | None = None
    remark: str = ""

    def __str__(self) -> str:
        where = self.out and f"written to {self.out}"
        said = (self.known, self.faces, self.remark, loss_line(self.result), where)
        return "\n".join(map(str, filter(None, said)))


def loss_line(result: ClipReconstruction) -> str:
    """The losses of the model and of the baselines, as text."""
    each = {kind: ", ".join(f"{name} {loss[kind]:.3f}" for name, loss in result.losses.items())
            for kind in ("appearance", "motion")}  # fmt: skip
    return "; ".join(f"{kind} loss: {said}" for kind, said in each.items())


def hidden_share(
    model: MaskedAutoencoder, asked: float | None = None, usual: float = RATIO
) -> tuple[float, str]:
    """The possible share of hidden tokens nearest to `asked`, else to `usual`, and a remark.

    All regions keep equally many visible tokens; the remark says so if that is not `asked`.
    """
    region = model.config.region if model.config.has_regions else None
    wanted = usual if asked is None else asked
    ratio, remark = nearest_ratio(wanted, mask_ratios(model.grid, region))
    return ratio, remark.removesuffix(".") if asked is not None else ""


def reconstruct(
    video: Path | str, /, out: Path | str | None = None, *, checkpoint: Path | str | None = None,
    mask_ratio: float | None = None, mask_seed: int = 0, statistics: Statistics = "visible",
    token_order: TokenOrder = "model", face: str | int = "largest", framing: Framing = "wide",
    at_s: float | None = None, stride: int | None = None, detect: Detector = detect_faces,
    progress: bool = True,
) -> FaceReconstruction:  # fmt: skip
    """Find a face in a video, hide part of it, and show a model's reconstruction.

    The result names the model and how it was trained. Without a checkpoint it is `demo`, a small
    model trained on faces. It is not for real use: a reconstruction is a guess, not evidence of how
    anybody looks.

    video: a video file, a folder of images, or an image.
    out: .png, .svg, .pdf; .html plays and scrubs in any browser; .gif; .mp4. On the command line
        reconstruction.png.
    checkpoint: a pre-training run or checkpoint, official or ours; `demo` by default.
    mask_ratio: share of hidden tokens, rounded so that every region hides equally many cubes;
        0.55 by default, and a picture shows 0.5, 0.75 and 0.9 (the paper's, in training).
    mask_seed: which tokens are hidden.
    statistics: visible uses no statistics of hidden pixels; true uses each hidden cube's own mean
        and standard deviation (matters only for targets normalised per cube).
    token_order: of visible tokens in the decoder: right, as published, or as in training.
    face: largest, longest, left, right, or the number of a face track.
    framing: wide, voxceleb2, official, or whole for videos that are face crops already.
    at_s: second of the video; its middle by default.
    stride: frames of the video per frame of the clip; by default as in the model's training.
    """
    out = result_path(out, *PICTURES, *MOVING)
    known = known_model(checkpoint)
    model = need_autoencoder(known, "reconstruct")
    ratio, remark = hidden_share(model, mask_ratio, LOOK_RATIO)

    def fill(share: float) -> ClipReconstruction:
        mask = model_mask(model, share, 1, torch.Generator().manual_seed(mask_seed))[0]
        return reconstruct_clip(model, clip, mask, statistics, token_order)

    (faces,), _ = over_videos([video], out and out.parent, lambda path, _: open_faces(
        path, model.config.size_px, face=face, framing=framing, detect=detect, progress=progress
    ))  # fmt: skip
    window = faces.middle(model.config, steps_for(known.stride, faces.fps, stride), at_s)
    clip = faces.clip(window)
    result = fill(ratio)
    remarks = [remark] if remark else []
    remarks += faces.remarks([window])
    if float((clip.amax(0) - clip.amin(0)).mean()) < GREY_CLIP:
        remarks.append("the clip is grey: any colour that is put back is the model's own")
    done = FaceReconstruction(known, faces, clip, result, out, "\n".join(remarks))
    if out is None:
        return done
    where = f"{faces.path.name}, {window.start_s:.1f} to {window.end_s:.1f} s"
    note = f"{where}; {known.name}, {ratio:.0%} hidden, of {model.config.frames} frames."
    if out.suffix.lower() in MOVING:
        from maedfer_lab.viewers import ReconstructionViewer

        viewer = ReconstructionViewer({known.name: model}, {where: clip}, ratio=ratio,
                                      seed=mask_seed, statistics=statistics,
                                      token_order=token_order, result=result)  # fmt: skip
        getattr(viewer, f"save_{out.suffix[1:].lower()}")(out)
        return done
    frames = range(0, model.config.frames, 2)
    last = min(5, len(frames)) - 1  # at most five even frames, spread over the clip
    chosen = [frames[round(i * (len(frames) - 1) / max(1, last))] for i in range(last + 1)]
    shown, labels = [(result, frame) for frame in chosen], [f"frame {i + 1}" for i in chosen]
    if mask_ratio is None:
        shares = dict.fromkeys(hidden_share(model, share)[0] for share in STRIP)
        middle = model.config.frames // 4 * 2
        shown, labels = [(fill(x), middle) for x in shares], [f"{x:.0%} hidden" for x in shares]
        note = f"{where}, frame {middle + 1} of {model.config.frames}; {known.name}."
        note += f" The paper trains with {RATIO:.0%}."
    text = f"{note} {known.training[:1].upper()}{known.training[1:]}. "
    text += f"At {ratio:.0%} hidden: {loss_line(result)}. "
    text += "".join(f"{one[:1].upper()}{one[1:]}. " for one in remarks)
    text += f"Motion: orange brighter, violet darker. {known.footer}."
    draw_rows(reconstruction_rows(shown), labels, text, out)
    return done
