"""Small models that were trained for this package; each folder holds a model card."""

from __future__ import annotations

from pathlib import Path

NAMES = ("demo", "demo-expressions", "study")
PARITY = Path(__file__).parent / "parity"  # our own numbers, for `maedfer parity`


def shipped(name: str = "demo") -> Path:
    """The folder of shipped weights: "demo" reconstructs faces, "demo-expressions" classifies,
    "study" is where the fine-tunings of notebook 08 start.

    Any function that takes a checkpoint takes this folder.
    """
    if name not in NAMES:
        raise ValueError(f"no weights called {name!r} are shipped; use {', '.join(NAMES)}")
    return Path(__file__).parent / name
