"""`maedfer judge`: masked losses of a reconstructing model on any folder of face videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from maedfer_lab.data.clips import to_tensor
from maedfer_lab.data.folder import check_videos, find_videos, load_clips
from maedfer_lab.data.table import split_videos
from maedfer_lab.figures import draw_rows
from maedfer_lab.files import check_writable
from maedfer_lab.inference.known_model import KnownModel, known_model, need_autoencoder
from maedfer_lab.inference.reconstruct import usual_ratio
from maedfer_lab.method.models import model_mask
from maedfer_lab.method.reconstruction import reconstruct_clip, reconstruction_rows
from maedfer_lab.method.targets import Losses
from maedfer_lab.training.held_out import HELD_OUT_SEED, HeldOut

SHOWN = 8  # clips in the picture


@dataclass(frozen=True)
class Judgement:
    """Mean losses over the middle clips of videos, per mask ratio and guess."""

    known: KnownModel
    videos: list[Path]
    losses: dict[float, dict[str, Losses]]

    def __str__(self) -> str:
        lines = [str(self.known), f"{len(self.videos)} videos, the middle clip of each:"]
        for ratio, guesses in self.losses.items():
            for kind in ("appearance", "motion"):
                said = ", ".join(f"{name} {loss[kind]:.4f}" for name, loss in guesses.items())
                against = "interpolation" if kind == "appearance" else "zero"
                below = 1 - guesses["model"][kind] / guesses[against][kind]
                lines.append(
                    f"  {ratio:.0%} hidden, {kind:<10} {said} "
                    f"({abs(below):.1%} {'below' if below >= 0 else 'ABOVE'} {against})"
                )
        return "\n".join(lines)


def judge(
    folder: Path | str,
    checkpoint: Path | str | None = None,
    *,
    mask_ratios: tuple[float, ...] | None = None,
    held_out: float = 0.0,
    seed: int = 0,
    stride: int | None = None,
    picture: Path | str | None = None,
) -> Judgement:
    """Hide cubes of the middle clip of every video and measure what the model puts back.

    Clips are framed as for pre-training (`framing.face_square`). Losses are in the model's target
    units, over hidden cubes, beside predicting zero and interpolating the visible cubes; masks
    depend on the number of clips alone.

    held_out: with more than 0, only the identities that pre-training with this share and seed
        holds out. picture: a PNG of the first clips at the last of `mask_ratios`.
    """
    known = known_model(checkpoint)
    model = need_autoencoder(known, "reconstruct")
    picture = None if picture is None else Path(picture).expanduser()
    if picture is not None:
        check_writable(picture)
    ratios = mask_ratios or (usual_ratio(model),)
    root = Path(folder).expanduser()
    videos, _ = check_videos(find_videos(root))
    if held_out > 0:
        videos = split_videos(videos, root, held_out, seed)[1]
    config = model.config
    frames = load_clips(
        videos, config.frames, known.stride if stride is None else stride, config.size_px
    )
    clips = torch.stack([to_tensor(clip) for clip in frames])
    losses = {}
    for ratio in ratios:
        held = HeldOut(model, clips, ratio)
        losses[ratio] = {"model": held.losses(), **held.baselines()}
    if picture is not None:
        shown = clips[:SHOWN]
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        masks = model_mask(model, ratios[-1], len(shown), generator)
        middle = config.frames // 4 * 2
        items = [(reconstruct_clip(model, c, m), middle) for c, m in zip(shown, masks, strict=True)]
        text = f"{known.name}, {ratios[-1]:.0%} hidden, frame {middle}. {known.training}."
        names = [path.stem[:12] for path in videos[:SHOWN]]
        draw_rows(reconstruction_rows(items), names, text, picture)
    return Judgement(known, videos, losses)


def judge_command(
    folder: Path,
    /,
    *,
    checkpoint: Path | None = None,
    mask_ratios: tuple[float, ...] = (),
    held_out: float = 0.0,
    seed: int = 0,
    stride: int | None = None,
    picture: Path | None = None,
) -> Judgement:
    """Measure how well a model fills in hidden parts of faces, beside guesses without a model.

    It judges the model, not the people. Which model and how it was trained is said with the
    result. Without a checkpoint it is `demo`, a small model pre-trained on few people's faces
    for looking at the method; not for real use.

    folder: videos; faces are found and framed as in pre-training.
    checkpoint: a pre-training run or checkpoint; `demo` without one.
    mask_ratios: shares of hidden tokens; 0.9 by default.
    held_out: judge only the identities that a pre-training with this share and seed holds out.
    seed: of that split.
    stride: frames of the video per frame of a clip; by default as the model was trained.
    picture: a PNG with the first clips, at the last of mask_ratios.
    """
    return judge(
        folder,
        checkpoint,
        mask_ratios=mask_ratios or None,
        held_out=held_out,
        seed=seed,
        stride=stride,
        picture=picture,
    )
