"""Drawn people and their facial movement: action units, seven prototypes over time.

Lengths are fractions of the frame's side; x runs right, y down, colours are RGB from 0 to 255.
Action units are numbered as in the Facial Action Coding System (FACS, Ekman & Friesen 1978); each
moves named *controls* of a face. Palettes, ranges and action units are in tables.json.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Colour = Float[np.ndarray, " 3"]

CENTRE_X = 0.5
HEAD_Y = 0.50
EYE_Y = 0.485
TABLES = json.loads(Path(__file__).with_name("tables.json").read_text(encoding="utf-8"))
COLOURS = {name: np.array(rows, np.float64) for name, rows in TABLES["colours"].items()}

_DARKER = {"nose_half_width": 0.012, "upper_lip": 0.004, "lower_lip": 0.004}  # added at tone 1
_FEMININE = ("fringe", "bun", "bob", "long", "parted")
_MASCULINE = ("short", "short", "parted", "parted", "bald")


class Identity(SimpleNamespace):
    """One person: all that "face" of tables.json names, drawn from the range given there.

    Widths named `half_` are measured from the mid-line of the thing named; `eye_distance` from the
    face's. brow_height, hairline: above the eyes. jaw_roundness: exponent of the lower outline, 1.8
    pointed, 2.5 square (the first range of two is for feminine faces). mouth_curve: the corners'
    height at rest. Besides: chin_y; colours skin, lips, hair, brows, iris, clothes, glasses_colour;
    hair_style, hair_volume, parting (-1 left, 1 right); beard (density: 0 none, 0.22 stubble);
    glasses (0 none, else the half-width of a lens); has_covered_ears, has_bare_forehead.
    """


def sample_identity(generator: np.random.Generator) -> Identity:
    """Invent a person: any natural skin tone equally often, hair and eyes that go with it."""
    uniform, choice = generator.uniform, generator.choice
    tone = uniform(0.0, 1.0)
    skin = _between(COLOURS["skin"], tone) * (1.0 + uniform(-0.025, 0.025, size=3))
    light, grey, draw = 0.75 * max(0.0, 1.0 - 1.8 * tone), 0.1, generator.random()
    palette = "grey_hair" if draw < grey else "light_hair" if draw < grey + light else "dark_hair"
    hair = _between(COLOURS[palette], uniform(0.0, 1.0))
    eyes = "light_eyes" if generator.random() < 0.6 * max(0.0, 1.0 - 2.2 * tone) else "dark_eyes"
    with_make_up, feminine = generator.random() < 0.3, generator.random() < 0.5
    styles = _FEMININE if feminine else _MASCULINE
    style = str(choice((*styles, "afro") if tone > 0.5 else styles))
    beard = float(choice((0.0, 0.22, 0.85), p=(0.6, 0.2, 0.2)))
    lens, with_glasses = uniform(0.068, 0.08), generator.random() < 0.22
    who = Identity(hair_style=style, hairline=uniform(0.155, 0.195), skin=skin, hair=hair)
    for name, limits in TABLES["face"].items():
        drawn = uniform(*(limits[:2] if feminine else limits[-2:]))
        setattr(who, name, drawn + _DARKER.get(name, 0.0) * tone)
    redness = uniform(0.35, 0.5) + 0.25 * with_make_up
    rose = np.array([190.0, 84.0, 84.0]) * (0.42 + 0.58 * skin.mean() / 226.0)
    who.lips = (1.0 - redness) * skin * np.array([0.92, 0.80, 0.80]) + redness * rose
    who.brows = (0.75 * hair + 0.25 * skin * 0.5) * 0.85
    who.iris = choice(COLOURS[eyes]) * uniform(0.9, 1.1)
    who.clothes = choice(COLOURS["clothes"]) * uniform(0.8, 1.15)
    who.hair_volume, who.parting = uniform(0.8, 1.25), uniform(-0.7, 0.7)
    who.beard, who.glasses = 0.0 if feminine else beard, lens if with_glasses else 0.0
    who.glasses_colour = choice(COLOURS["glasses"])
    who.chin_y = HEAD_Y + who.head_half_height
    who.has_covered_ears = style in ("bob", "long")
    who.has_bare_forehead = style in ("bald", "short", "bun", "afro")
    return who


def head_outline(identity: Identity, wider: float = 1.0) -> Float[np.ndarray, "64 2"]:
    """Outline of the head from the right ear over the chin, the left ear and the crown."""
    angles = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    cos, sin = np.cos(angles), np.sin(angles)
    exponent = 2.0 / np.where(sin > 0, identity.jaw_roundness, 2.25)
    x = np.sign(cos) * np.abs(cos) ** exponent * identity.head_half_width
    y = np.sign(sin) * np.abs(sin) ** exponent * identity.head_half_height
    return np.stack([CENTRE_X + wider * x, HEAD_Y + wider * y], axis=1)


def _between(anchors: Float[np.ndarray, "n 3"], position: float) -> Colour:
    steps = np.linspace(0.0, 1.0, len(anchors))
    return np.array([np.interp(position, steps, anchors[:, c]) for c in range(3)])


# --- how a face moves ---

# The seven classes, in DFEW's order.
EXPRESSIONS = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
# What the drawing understands: movements in fractions of the frame's side (brow_in: towards the
# mid-line, corner_out: away from it; lid_closed and lip_thin: shares), then creases from 0 to 1.
CONTROLS = tuple(TABLES["controls"])


class ActionUnit(NamedTuple):
    """One action unit: its FACS name, where it shows, and what it moves at full intensity."""

    name: str
    region: str
    moves: dict[str, float]


ACTION_UNITS = {int(number): ActionUnit(**au) for number, au in TABLES["action_units"].items()}
AU_NUMBERS = tuple(ACTION_UNITS)  # the columns of every array of action-unit intensities
# Action units of each expression with their relative strength (1 is the full movement).
PROTOTYPES: dict[str, dict[int, float]] = {
    name: {int(number): strength for number, strength in units.items()}
    for name, units in TABLES["prototypes"].items()
}
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

    `intensity` (0 to 1) scales the apex, `talking` (0 to 1) distracting movements of lips and jaw.
    About half of the clips hold a blink; a neutral face makes two movements of `intensity`.
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
