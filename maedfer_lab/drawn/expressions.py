"""Facial action units, the seven prototypes built from them, and how they unfold in time.

Action units are numbered as in the Facial Action Coding System (FACS, Ekman & Friesen 1978).
Each moves named *controls* of a drawn face; all lie in tables.json.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .identity import TABLES

EXPRESSIONS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
"""The seven classes in DFEW's order."""

CONTROLS = tuple(TABLES["controls"])
"""What the drawing understands: movements in fractions of the frame's side (brow_in: towards the
mid-line, corner_out: away from it; lid_closed and lip_thin: shares), then creases from 0 to 1."""


class ActionUnit(NamedTuple):
    """One action unit: its FACS name, where it shows, and what it moves at full intensity."""

    name: str
    region: str
    moves: dict[str, float]


ACTION_UNITS = {int(number): ActionUnit(**au) for number, au in TABLES["action_units"].items()}

AU_NUMBERS = tuple(ACTION_UNITS)
"""The columns of every array of action-unit intensities."""

PROTOTYPES: dict[str, dict[int, float]] = {
    name: {int(number): strength for number, strength in units.items()}
    for name, units in TABLES["prototypes"].items()
}
"""Action units of each expression with their relative strength (1 is the full movement)."""

_SMALL_MOVEMENTS = (1, 2, 4, 12, 15, 23, 25)
_EFFECTS = np.array([[a.moves.get(name, 0.0) for name in CONTROLS] for a in ACTION_UNITS.values()])


def face_controls(intensities: Float[np.ndarray, "T units"]) -> Float[np.ndarray, "T controls"]:
    """Movements of the face's `CONTROLS` for intensities (0 to 1) of the `AU_NUMBERS`.

    Effects of several units add up; einsum without BLAS keeps the sum's order, hence its bits.
    """
    return np.einsum("tu,uc->tc", intensities, _EFFECTS)


def event_curve(
    times: Float[np.ndarray, " T"],
    onset: tuple[float, float],
    offset: tuple[float, float] | None = None,
) -> Float[np.ndarray, " T"]:
    """Smooth rise from 0 to the apex at 1 between the onset's two times, and back in the offset's.

    Without `offset` the apex is held.
    """
    progress = ((times - onset[0]) / (onset[1] - onset[0])).clip(0.0, 1.0)
    curve = progress**2 * (3.0 - 2.0 * progress)
    return curve if offset is None else curve * (1.0 - event_curve(times, offset))


def onset_timeline(
    label: int, num_frames: int, intensity: float, talking: float, generator: np.random.Generator
) -> Float[np.ndarray, "T units"]:
    """Intensities of all action units from a neutral face to the apex of expression `label`.

    The prototype's units never fall (as long as nobody talks); read backwards the timeline is the
    offset. `intensity` (0 to 1) scales the apex, `talking` (0 to 1) the distracting movements of
    lips and jaw. About half of the clips hold a blink, whatever the class. A neutral face makes one
    or two small movements of strength `intensity`.
    """
    times, uniform = np.linspace(0.0, 1.0, num_frames), generator.uniform
    timeline = {number: np.zeros(num_frames) for number in AU_NUMBERS}
    units = PROTOTYPES[EXPRESSIONS[label]] or dict.fromkeys(
        generator.choice(_SMALL_MOVEMENTS, size=2, replace=False).tolist(), 1.0
    )
    begin, end = uniform(0.02, 0.2), uniform(0.7, 0.95)
    for number, strength in units.items():
        lag = uniform(-0.05, 0.05)
        curve = event_curve(times, (max(begin + lag, 0.0), end + lag))
        timeline[number] = intensity * strength * uniform(0.85, 1.1) * curve
    blinks, middle = generator.random() < 0.5, uniform(0.1, 0.9)
    if blinks:
        shut, opened = (middle - 0.13, middle - 0.02), (middle + 0.02, middle + 0.13)
        timeline[45] = event_curve(times, shut, opened)
    for number, strength in ((18, 0.6), (25, 1.0), (26, 0.5)):
        syllables, phase = uniform(1.5, 3.5), uniform(0.0, 2.0 * np.pi)
        movement = 0.5 - 0.5 * np.cos(2.0 * np.pi * syllables * times + phase)
        timeline[number] = timeline[number] + talking * strength * movement
    return np.stack([*timeline.values()], axis=1).clip(0.0, 1.0)
