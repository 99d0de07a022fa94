"""Who is drawn: the shape, colours and hair of one invented person.

Lengths are fractions of the frame's side; x runs right, y down, colours are RGB from 0 to 255.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Colour = Float[np.ndarray, " 3"]
HairStyle = Literal["bald", "short", "parted", "fringe", "afro", "bun", "bob", "long"]

CENTRE_X = 0.5
HEAD_Y = 0.50
EYE_Y = 0.485

# From the lightest to the darkest natural skin, evenly readable steps.
_SKIN_TONES = np.array(
    [
        [250, 223, 205],
        [240, 203, 178],
        [226, 184, 152],
        [205, 158, 122],
        [178, 128, 94],
        [146, 99, 71],
        [112, 74, 54],
        [82, 54, 42],
    ],
    dtype=np.float64,
)
_DARK_HAIR = np.array([[26, 22, 22], [40, 29, 24], [58, 40, 30]], dtype=np.float64)
_LIGHT_HAIR = np.array(
    [[92, 62, 42], [120, 82, 52], [128, 66, 40], [176, 134, 84], [206, 172, 118]], dtype=np.float64
)
_GREY_HAIR = np.array([[120, 118, 116], [176, 174, 170]], dtype=np.float64)
_DARK_EYES = np.array([[52, 34, 24], [72, 46, 28], [92, 62, 36]], dtype=np.float64)
_LIGHT_EYES = np.array([[84, 110, 130], [96, 112, 88], [112, 92, 58]], dtype=np.float64)
_CLOTHES = np.array(
    [
        [52, 60, 78],
        [128, 132, 138],
        [200, 196, 188],
        [96, 44, 48],
        [60, 84, 74],
        [150, 128, 100],
        [34, 34, 38],
        [104, 124, 152],
        [176, 140, 132],
    ],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Identity:
    """One person. Widths named `half_` are measured from the mid-line of the thing named."""

    head_half_width: float
    head_half_height: float
    jaw_roundness: float  # exponent of the lower outline: 1.8 pointed, 2.5 square
    eye_distance: float  # from the face's mid-line
    eye_half_width: float
    eye_tilt: float
    lid_height: float
    iris_radius: float
    brow_height: float  # above the eye
    brow_half_length: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    nose_y: float
    nose_half_width: float
    mouth_y: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float
    mouth_curve: float  # the corners' height at rest
    ear_size: float
    skin: Colour
    lips: Colour
    hair: Colour
    brows: Colour
    iris: Colour
    clothes: Colour
    hair_style: HairStyle
    hair_volume: float
    hairline: float  # above the eyes, at the mid-line
    parting: float  # -1 left, 1 right
    beard: float  # density: 0 none, 0.25 stubble, 0.9 full
    glasses: float  # 0 none, else the half-width of a lens
    glasses_colour: Colour

    @property
    def chin_y(self) -> float:
        """Where the chin ends at rest."""
        return HEAD_Y + self.head_half_height

    @property
    def has_covered_ears(self) -> bool:
        """Whether hair falls in front of the ears."""
        return self.hair_style in ("bob", "long")

    @property
    def has_bare_forehead(self) -> bool:
        """Whether no hair falls over the lines of the forehead."""
        return self.hair_style in ("bald", "short", "bun", "afro")


def sample_identity(generator: np.random.Generator) -> Identity:
    """Invent a person: any natural skin tone equally often, hair and eyes that go with it."""
    uniform = generator.uniform
    tone = uniform(0.0, 1.0)
    skin = _between(_SKIN_TONES, tone) * (1.0 + uniform(-0.025, 0.025, size=3))
    hair = _sample_hair_colour(tone, generator)
    light_eyes = generator.random() < 0.6 * max(0.0, 1.0 - 2.2 * tone)
    with_make_up = generator.random() < 0.3
    feminine = generator.random() < 0.5
    styles = (
        ("fringe", "bun", "bob", "long", "parted")
        if feminine
        else ("short", "short", "parted", "parted", "bald")
    )
    style = str(generator.choice((*styles, "afro") if tone > 0.5 else styles))
    beard = float(generator.choice((0.0, 0.22, 0.85), p=(0.6, 0.2, 0.2)))
    lens = uniform(0.068, 0.08)
    with_glasses = generator.random() < 0.22
    hairline = uniform(0.155, 0.195)
    return Identity(
        head_half_width=uniform(0.236, 0.270),
        head_half_height=uniform(0.325, 0.355),
        jaw_roundness=uniform(1.75, 2.05) if feminine else uniform(1.95, 2.45),
        eye_distance=uniform(0.102, 0.116),
        eye_half_width=uniform(0.051, 0.060),
        eye_tilt=uniform(-0.006, 0.009),
        lid_height=uniform(0.022, 0.028),
        iris_radius=uniform(0.0235, 0.0265),
        brow_height=uniform(0.070, 0.082),
        brow_half_length=uniform(0.058, 0.070),
        brow_thickness=uniform(0.009, 0.014) if feminine else uniform(0.013, 0.020),
        brow_arch=uniform(0.005, 0.016),
        brow_tilt=uniform(-0.006, 0.008),
        nose_y=uniform(0.612, 0.638),
        nose_half_width=uniform(0.036, 0.044) + 0.012 * tone,
        mouth_y=uniform(0.708, 0.728),
        mouth_half_width=uniform(0.078, 0.094),
        upper_lip=uniform(0.013, 0.020) + 0.004 * tone,
        lower_lip=uniform(0.019, 0.028) + 0.004 * tone,
        mouth_curve=uniform(-0.004, 0.006),
        ear_size=uniform(0.85, 1.15),
        skin=skin,
        lips=_lip_colour(skin, uniform(0.35, 0.5) + 0.25 * with_make_up),
        hair=hair,
        brows=(0.75 * hair + 0.25 * skin * 0.5) * 0.85,
        iris=generator.choice(_LIGHT_EYES if light_eyes else _DARK_EYES) * uniform(0.9, 1.1),
        clothes=generator.choice(_CLOTHES) * uniform(0.8, 1.15),
        hair_style=style,  # pyright: ignore[reportArgumentType]
        hair_volume=uniform(0.8, 1.25),
        hairline=hairline,
        parting=uniform(-0.7, 0.7),
        beard=0.0 if feminine else beard,
        glasses=lens if with_glasses else 0.0,
        glasses_colour=generator.choice(np.array([[30.0, 28, 30], [88, 58, 38], [128, 128, 134]])),
    )


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


def _sample_hair_colour(tone: float, generator: np.random.Generator) -> Colour:
    light, grey = 0.75 * max(0.0, 1.0 - 1.8 * tone), 0.1
    draw = generator.random()
    if draw < grey:
        palette = _GREY_HAIR
    else:
        palette = _LIGHT_HAIR if draw < grey + light else _DARK_HAIR
    return _between(palette, generator.uniform(0.0, 1.0))


def _lip_colour(skin: Colour, redness: float) -> Colour:
    brightness = 0.42 + 0.58 * skin.mean() / 226.0
    rose = np.array([190.0, 84.0, 84.0]) * brightness
    return (1.0 - redness) * skin * np.array([0.92, 0.80, 0.80]) + redness * rose
