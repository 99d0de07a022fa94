"""Who is drawn: the shape, colours and hair of one invented person.

Lengths are fractions of the frame's side; x runs right, y down, colours are RGB from 0 to 255.
Palettes, ranges and action units lie in tables.json.
"""

import json
from pathlib import Path
from types import SimpleNamespace

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
    """One person: all that "face" of tables.json names, drawn from the range that stands there.

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


def head_outline(
    identity: Identity, wider: float = 1.0, num_points: int = 64
) -> Float[np.ndarray, "n 2"]:
    """Outline of the head from the right ear over the chin, the left ear and the crown."""
    angles = np.linspace(0.0, 2.0 * np.pi, num_points, endpoint=False)
    cos, sin = np.cos(angles), np.sin(angles)
    exponent = 2.0 / np.where(sin > 0, identity.jaw_roundness, 2.25)
    x = np.sign(cos) * np.abs(cos) ** exponent * identity.head_half_width
    y = np.sign(sin) * np.abs(sin) ** exponent * identity.head_half_height
    return np.stack([CENTRE_X + wider * x, HEAD_Y + wider * y], axis=1)


def _between(anchors: Float[np.ndarray, "n 3"], position: float) -> Colour:
    steps = np.linspace(0.0, 1.0, len(anchors))
    return np.array([np.interp(position, steps, anchors[:, c]) for c in range(3)])
