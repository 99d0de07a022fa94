"""The readout of a reconstruction: losses beside guesses without a model, in words."""

from __future__ import annotations

from collections.abc import Mapping

from maedfer_lab.method.reconstruction import BASELINES

Losses = Mapping[str, Mapping[str, float]]


def losses_table(losses: Losses, has_motion: bool) -> tuple[tuple[str, ...], ...]:
    """A head and a row for the model and for each guess."""
    kinds = ("appearance", "motion") if has_motion else ("appearance",)
    rows = [("loss on hidden cubes", *kinds)]
    for name, label in {"model": "model", **BASELINES}.items():
        rows.append((label, *(f"{losses[name][kind]:.4f}" for kind in kinds)))
    return tuple(rows)


def say_losses(losses: Losses, has_motion: bool) -> list[str]:
    """Whether the model does better than nothing, for appearance and for motion."""
    said = [_say("Appearance", {name: loss["appearance"] for name, loss in losses.items()})]
    if has_motion:
        said.append(_say("Motion", {name: loss["motion"] for name, loss in losses.items()}))
    else:
        said.append("This model predicts the pixels of all frames; motion is no target of its own.")
    return said


def _say(kind: str, losses: Mapping[str, float]) -> str:
    model = losses["model"]
    guesses = {label: losses[name] for name, label in BASELINES.items()}
    best = min(guesses, key=lambda label: guesses[label])
    beaten = [label for label, loss in guesses.items() if model < 0.99 * loss]
    if len(beaten) == len(guesses):
        less = 1 - model / guesses[best]
        return f"{kind}: better than nothing, {less:.0%} below the best guess without it ({best})."
    if model > 1.01 * guesses[best]:
        more = model / guesses[best] - 1 if guesses[best] else float("inf")
        return f"{kind}: worse than a guess without a model ({best}), by {more:.0%}" + (
            f"; better than {len(beaten)} of {len(guesses)} guesses." if beaten else "."
        )
    return f"{kind}: no better than a guess without a model ({best})."


def say_statistics(statistics: str) -> str:
    """Where hidden cubes got their mean and deviation from."""
    return {
        "none": "Statistics: none needed; the targets are raw pixels, and nothing is borrowed from "
        "hidden ones.",
        "visible": "Statistics: visible only; hidden cubes get mean and deviation interpolated "
        "from visible ones, and nothing is borrowed.",
        "true": "Statistics: true; each hidden cube is un-normalised with its own mean and "
        "deviation, which already hold much of the face.",
    }[statistics]
