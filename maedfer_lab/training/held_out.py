"""Validation of a masked autoencoder on clips of unseen people, with model-free baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from maedfer_lab.checkpoints.reading import facts_of
from maedfer_lab.config import Precision
from maedfer_lab.data.readers import open_video
from maedfer_lab.data.table import split_people
from maedfer_lab.files import update_by_ends
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import MaskedAutoencoder, model_mask
from maedfer_lab.method.reconstruction import interpolation_baseline
from maedfer_lab.method.targets import Losses, make_target, reconstruction_loss, target_width
from maedfer_lab.runs import Run
from maedfer_lab.training.optim import mixed_precision

HELD_OUT_SEED = 20_230_707  # of the masks: the same for every model, so that losses compare
CHUNK = 8  # clips at a time


class HeldOut:
    """Held-out clips with fixed masks; losses over hidden tokens, in the model's target units."""

    def __init__(
        self,
        model: MaskedAutoencoder,
        clips: Float[Tensor, "b 3 T H W"],
        ratio: float,
        seed: int = HELD_OUT_SEED,
    ) -> None:
        mask = model_mask(model, ratio, len(clips), torch.Generator().manual_seed(seed))
        self.model, self.ratio = model, ratio
        self.parts = [
            (clip, model.split(part))
            for clip, part in zip(clips.split(CHUNK), mask.split(CHUNK), strict=True)
        ]

    def losses(self, precision: Precision = "float32") -> Losses:
        """The model's held-out losses."""
        device = next(self.model.parameters()).device
        self.model.eval()
        with mixed_precision(precision, device):
            return self._mean(self.model.predict, device)

    def baselines(self) -> dict[str, Losses]:
        """Losses of predicting zero and of interpolating the visible cubes.

        Zero is ImageNet's mean colour without motion for raw targets; for targets normalised per
        cube, each cube's own mean.
        """
        config, cpu = self.model.config, torch.device("cpu")
        values = target_width(config, self.model.target)

        def zero(clip: Tensor, split: TokenSplit) -> Tensor:
            return clip.new_zeros(len(clip), split.masked.shape[1], values)

        def interpolation(clip: Tensor, split: TokenSplit) -> Tensor:
            return interpolation_baseline(clip, split, config.tubelet, self.model.target)

        return {"zero": self._mean(zero, cpu), "interpolation": self._mean(interpolation, cpu)}

    @torch.no_grad()
    def _mean(
        self, predict: Callable[[Tensor, TokenSplit], Tensor], device: torch.device
    ) -> Losses:
        grid, tubelet, goal = self.model.grid, self.model.config.tubelet, self.model.target
        total: Losses = {"appearance": 0.0, "motion": 0.0}
        for clip, split in self.parts:
            clip, split = clip.to(device), split.to(device)
            target = make_target(clip, tubelet, goal, index=split.masked)
            guess = predict(clip, split)
            loss = reconstruction_loss(guess, target, split.masked, grid, tubelet, goal)
            for kind in total:
                total[kind] += float(getattr(loss, kind)) * len(clip)
        count = sum(len(clip) for clip, _ in self.parts)
        return {kind: value / count for kind, value in total.items()}


def content_of(path: Path) -> bytes:
    """A digest of a video's file (size, both ends) or images; in a shard of its first frame."""
    digest = hashlib.sha256()
    if path.exists():
        update_by_ends(digest, sorted(path.iterdir()) if path.is_dir() else [path])
    else:
        digest.update(open_video(path).read([0]).tobytes())
    return digest.digest()


def trained_on(
    source: Path | str, videos: Sequence[Path], people: Sequence[str], root: Path
) -> set[Path]:
    """The training videos that a model lists; in the same folder, all videos of their people.

    A card lists digests of files (`trained_files`), a run's data.json the clips of its table.
    """
    facts = facts_of(source)
    digests = set(facts.get("trained_files", ()))
    there = [path for path in videos if path.exists()]  # and not in shards
    found = {path for path in there if digests and content_of(path).hex()[:16] in digests}
    config = facts.get("config", {"data": None})
    if config["data"] is None or not (facts["folder"] / "data.json").exists():
        return found
    run = Run(facts["folder"])
    with run.reading("data.json"):
        rows = run.read("data.json")["each"]
        shown, share = [row[3] or row[0] for row in rows], config["held_out"]
        kept = split_people(shown, share, config["seed"])[0] if rows and share else range(len(rows))
        files = {(Path(rows[i][0]).name, rows[i][4]) for i in kept}
        is_same = Path(config["data"]).resolve() == root.resolve()
        seen = {shown[i] for i in kept if is_same}
    found |= {path for path in there if (path.name, path.stat().st_size) in files}
    return found | {path for path, name in zip(videos, people, strict=True) if name in seen}
