"""A model together with what users must know of it: name, labels, training, limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.official import Model
from maedfer_lab.checkpoints.reading import OFFICIAL_STRIDE, facts_of, locate
from maedfer_lab.config import Framing, check_counts, check_fields, choose_framing
from maedfer_lab.data.labels import DATASETS, published_labels
from maedfer_lab.fast import speed_up
from maedfer_lab.figures import footer
from maedfer_lab.files import reading
from maedfer_lab.method.models import Classifier, MaskedAutoencoder
from maedfer_lab.weights import shipped

NOT_FOR_REAL_USE = (
    "This model was trained on drawn (synthetic) faces and is not for real use: its predictions "
    "for real people mean nothing."
)


@dataclass(frozen=True)
class Calibration:
    """What the probabilities of a classifier mean, measured on held-out people.

    of: the data it was measured on. temperature: logits are divided by it; then a share p of the
    answers with probability p is right. sure: no answer is given below this probability.
    """

    of: str
    temperature: float
    sure: float

    def __post_init__(self) -> None:
        check_fields(self, temperature="(0, inf]", sure="[0, 1]")


@dataclass(frozen=True)
class KnownModel:
    """A model on the CPU in evaluation mode, loaded from `source`.

    stride: frames of a video of about 25 frames a second per frame of the clip.
    classes: labels in the order of the logits; empty for an autoencoder.
    training: how it was trained, a sentence. synthetic: whether on drawn faces.
    framing: how faces are cropped for it.
    """

    model: Model
    source: Path
    name: str
    stride: int
    classes: tuple[str, ...]
    training: str
    synthetic: bool
    framing: Framing = "wide"
    calibration: Calibration | None = None

    def answer(self, probabilities: Float[np.ndarray, " k"]) -> str:
        """The answer for a face: the three likeliest classes, a calibrated answer, or none."""
        order = np.argsort(-probabilities)
        if self.calibration is None:
            best = ", ".join(f"{self.classes[k]} {probabilities[k]:.2f}" for k in order[:3])
            return f"{best} (scores are not calibrated)"
        likeliest = float(probabilities[order[0]])
        if likeliest < self.calibration.sure:
            return "not sure"
        return f"{self.classes[order[0]]}? (right {likeliest * 10:.0f} times in 10)"

    @property
    def sure(self) -> float:
        """Probability below which no answer is given."""
        return 0.0 if self.calibration is None else self.calibration.sure

    @property
    def footer(self) -> str:
        """The line under every picture that is made with it."""
        return footer({self.name: sum(p.numel() for p in self.model.parameters())})

    def __str__(self) -> str:
        lines = [f"model: {self.name}; {self.training}"]
        if self.classes:
            lines.append(f"labels: {', '.join(self.classes)}")
        if self.synthetic:
            lines.append(NOT_FOR_REAL_USE)
        if self.calibration is not None:
            lines.append(f"Calibrated on {self.calibration.of}; other data may be less accurate.")
        return "\n".join(lines)


def known_model(
    checkpoint: Path | str | KnownModel | None = None, *, default: str = "demo",
    labels: str | None = None,
) -> KnownModel:  # fmt: skip
    """Load a checkpoint with its metadata.

    checkpoint: whatever `load_checkpoint` takes; without one, the shipped weights `default`; a
        `KnownModel` is returned unchanged.
    labels: data set whose class names fit the model, for files without names (official ones).
    """
    if isinstance(checkpoint, KnownModel):
        return checkpoint
    source = locate(checkpoint) if checkpoint is not None else shipped(default)
    loaded = load_checkpoint(source)
    model = speed_up(loaded.model).eval()
    facts = facts_of(source)
    num = model.head.out_features if isinstance(model, Classifier) else 0
    classes = facts.get("classes") or [f"class {i}" for i in range(num)]
    if num and labels is not None:
        table = published_labels(labels)
        classes = table.classes if table is not None else ()
        if len(classes) != num:
            raise ValueError(
                f"labels={labels!r} has {len(classes)} classes, the model {num}; use a data set of "
                f"{', '.join(DATASETS)} with as many, or leave labels out"
            )
    settings = dict(loaded.report.rows)["settings"].split("; ")
    assumed = "".join(f"; {one}" for one in settings if ": as " in one)  # by default, not told
    card = source / "card.json"
    with reading(card if card.exists() else source):
        known = KnownModel(
            model, source, str(facts.get("name", source.name)),
            int(facts.get("stride", OFFICIAL_STRIDE)), tuple(map(str, classes)) if num else (),
            str(facts.get("training") or f"the file does not say how it was trained{assumed}"),
            bool(facts.get("synthetic", False)),
            choose_framing(facts.get("framing", "wide"), *get_args(Framing)),
            Calibration(**facts["calibration"]) if "calibration" in facts else None,
        )  # fmt: skip
        check_counts(stride=known.stride)
        if len(known.classes) != num:
            raise ValueError(f"it names {len(known.classes)} classes, the model has {num}")
    return known


def need_autoencoder(known: KnownModel, use: str) -> MaskedAutoencoder:
    """The model, if it can reconstruct."""
    if not isinstance(known.model, MaskedAutoencoder):
        raise ValueError(
            f"{known.name} is a classifier without decoder, which cannot {use}; give a "
            "pre-training checkpoint, or none for the shipped small model"
        )
    return known.model
