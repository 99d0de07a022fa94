"""Facial action units, the seven prototypes built from them, and how they unfold in time.

Action units are numbered as in the Facial Action Coding System (FACS, Ekman & Friesen 1978).
Each moves named *controls* of a drawn face; the drawing itself is in `face_drawing`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

EXPRESSIONS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
"""The seven classes in DFEW's order."""

Region = Literal["brows", "eyes", "cheeks", "nose", "mouth"]

CONTROLS = (
    "brow_inner_up",
    "brow_mid_up",
    "brow_outer_up",
    "brow_in",  # towards the mid-line
    "upper_lid_up",
    "lower_lid_up",
    "lid_closed",  # fraction: 1 is shut
    "cheek_up",
    "nose_up",
    "upper_lip_up",
    "lower_lip_down",
    "lip_thin",  # fraction of the lips' thickness taken away
    "corner_out",  # away from the mid-line
    "corner_up",
    "jaw_down",
    "frown",  # strength of a crease, 0 to 1, as are all below
    "forehead_lines",
    "crow_feet",
    "nose_wrinkles",
    "cheek_fold",
)
"""What the drawing understands: movements in fractions of the frame's side, then creases."""


@dataclass(frozen=True)
class ActionUnit:
    """One action unit: its FACS name, where it shows, and what it moves at full intensity."""

    name: str
    region: Region
    moves: dict[str, float]


ACTION_UNITS: dict[int, ActionUnit] = {
    1: ActionUnit(
        "inner brow raiser",
        "brows",
        {"brow_inner_up": 0.052, "brow_mid_up": 0.018, "forehead_lines": 0.6},
    ),
    2: ActionUnit(
        "outer brow raiser",
        "brows",
        {"brow_outer_up": 0.048, "brow_mid_up": 0.034, "forehead_lines": 0.4},
    ),
    4: ActionUnit(
        "brow lowerer",
        "brows",
        {
            "brow_inner_up": -0.034,
            "brow_mid_up": -0.026,
            "brow_outer_up": -0.008,
            "brow_in": 0.022,
            "frown": 1.0,
        },
    ),
    5: ActionUnit("upper lid raiser", "eyes", {"upper_lid_up": 0.018}),
    6: ActionUnit(
        "cheek raiser",
        "cheeks",
        {"cheek_up": 0.026, "lower_lid_up": 0.011, "upper_lid_up": -0.004, "crow_feet": 1.0},
    ),
    7: ActionUnit("lid tightener", "eyes", {"upper_lid_up": -0.009, "lower_lid_up": 0.009}),
    9: ActionUnit(
        "nose wrinkler",
        "nose",
        {
            "nose_up": 0.024,
            "upper_lip_up": 0.026,
            "brow_inner_up": -0.018,
            "brow_mid_up": -0.010,
            "lower_lid_up": 0.006,
            "nose_wrinkles": 1.0,
            "cheek_fold": 0.8,
        },
    ),
    12: ActionUnit(
        "lip corner puller",
        "mouth",
        {
            "corner_out": 0.034,
            "corner_up": 0.042,
            "upper_lip_up": 0.014,
            "lower_lip_down": 0.010,
            "cheek_up": 0.012,
            "cheek_fold": 0.5,
        },
    ),
    15: ActionUnit("lip corner depressor", "mouth", {"corner_up": -0.040, "corner_out": 0.004}),
    16: ActionUnit("lower lip depressor", "mouth", {"lower_lip_down": 0.030}),
    18: ActionUnit("lip pucker", "mouth", {"corner_out": -0.030}),
    20: ActionUnit(
        "lip stretcher",
        "mouth",
        {"corner_out": 0.040, "corner_up": -0.010, "lip_thin": 0.25, "lower_lip_down": 0.006},
    ),
    23: ActionUnit("lip tightener", "mouth", {"lip_thin": 0.75, "corner_out": -0.014}),
    25: ActionUnit("lips part", "mouth", {"lower_lip_down": 0.014, "upper_lip_up": 0.004}),
    26: ActionUnit(
        "jaw drop", "mouth", {"jaw_down": 0.066, "corner_out": -0.016, "corner_up": -0.010}
    ),
    45: ActionUnit("blink", "eyes", {"lid_closed": 1.0}),
}

AU_NUMBERS = tuple(ACTION_UNITS)
"""The columns of every array of action-unit intensities."""

PROTOTYPES: dict[str, dict[int, float]] = {
    "happiness": {6: 1.0, 12: 1.0},
    "sadness": {1: 1.0, 4: 0.6, 15: 1.0},
    "neutral": {},
    "anger": {4: 1.0, 5: 0.5, 7: 1.0, 23: 1.0},
    "surprise": {1: 1.0, 2: 1.0, 5: 0.9, 26: 1.0},
    "disgust": {9: 1.0, 15: 0.7, 16: 0.8},
    "fear": {1: 1.0, 2: 0.5, 4: 0.7, 5: 1.0, 20: 1.0, 26: 0.35},
}
"""Action units of each expression with their relative strength (1 is the full movement)."""

_SMALL_MOVEMENTS = (1, 2, 4, 12, 15, 23, 25)
_EFFECTS = np.array(
    [[unit.moves.get(name, 0.0) for name in CONTROLS] for unit in ACTION_UNITS.values()]
)


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
    curve = _smooth_step(times, *onset)
    return curve if offset is None else curve * (1.0 - _smooth_step(times, *offset))


def onset_timeline(
    label: int,
    num_frames: int,
    intensity: float,
    talking: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, "T units"]:
    """Intensities of all action units from a neutral face to the apex of expression `label`.

    The prototype's units never fall (as long as nobody talks); read backwards the timeline is the
    offset. `intensity` (0 to 1) scales the apex, `talking` (0 to 1) the distracting movements of
    lips and jaw. About half of the clips hold a blink, whatever the class. A neutral face makes one
    or two small movements of strength `intensity`.
    """
    times = np.linspace(0.0, 1.0, num_frames)
    timeline = np.zeros((num_frames, len(AU_NUMBERS)))
    units = PROTOTYPES[EXPRESSIONS[label]] or dict.fromkeys(
        generator.choice(_SMALL_MOVEMENTS, size=2, replace=False).tolist(), 1.0
    )
    begin, end = generator.uniform(0.02, 0.2), generator.uniform(0.7, 0.95)
    for number, strength in units.items():
        lag = generator.uniform(-0.05, 0.05)
        curve = event_curve(times, (max(begin + lag, 0.0), end + lag))
        timeline[:, AU_NUMBERS.index(number)] = (
            intensity * strength * generator.uniform(0.85, 1.1) * curve
        )
    _add_blink(timeline, times, generator)
    _add_talking(timeline, times, talking, generator)
    return timeline.clip(0.0, 1.0)


def _smooth_step(
    times: Float[np.ndarray, " T"], begin: float, end: float
) -> Float[np.ndarray, " T"]:
    progress = ((times - begin) / (end - begin)).clip(0.0, 1.0)
    return progress**2 * (3.0 - 2.0 * progress)


def _add_blink(
    timeline: Float[np.ndarray, "T units"],
    times: Float[np.ndarray, " T"],
    generator: np.random.Generator,
) -> None:
    happens, middle = generator.random() < 0.5, generator.uniform(0.1, 0.9)
    if happens:
        blink = event_curve(times, (middle - 0.13, middle - 0.02), (middle + 0.02, middle + 0.13))
        timeline[:, AU_NUMBERS.index(45)] = blink


def _add_talking(
    timeline: Float[np.ndarray, "T units"],
    times: Float[np.ndarray, " T"],
    talking: float,
    generator: np.random.Generator,
) -> None:
    for number, strength in ((18, 0.6), (25, 1.0), (26, 0.5)):
        syllables, phase = generator.uniform(1.5, 3.5), generator.uniform(0.0, 2.0 * np.pi)
        movement = 0.5 - 0.5 * np.cos(2.0 * np.pi * syllables * times + phase)
        timeline[:, AU_NUMBERS.index(number)] += talking * strength * movement
