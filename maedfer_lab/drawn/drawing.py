"""The moving features of a face: brows, lids, eyes, nose and mouth as layers of filled curves.

A layer is computed for all frames of a clip at once, then painted frame by frame with OpenCV's
antialiased drawing. Colours are unlit: light and shade are multiplied in afterwards (`scene`), so a
lid painted in the colour of the skin melts into it.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .people import CENTRE_X, CONTROLS, EYE_Y, Identity

Curves = Float[np.ndarray, "T contours points 2"]
Layer = tuple[Curves, Any, float, bool]  # curves, colour(s), width of a line (0 fills), is closed
Painted = tuple[np.ndarray, list[tuple[float, ...]], int, bool]
SIDES = np.array([-1.0, 1.0])  # left and right in the picture
SUBPIXEL_BITS = 4


def rounded(points: np.ndarray, canvas_px: int) -> np.ndarray:
    """Points in fractions of a square canvas, in 1/16 of its pixels."""
    return np.rint((points * canvas_px - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)


def ellipse(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of `num` angles around a circle."""
    angle = np.linspace(0.0, 2.0 * np.pi, num, endpoint=False)
    return np.cos(angle), np.sin(angle)


def curve(x: np.ndarray, y: np.ndarray) -> Curves:
    """Points (T, sides, n, 2) from coordinates of any shapes that broadcast to (T, sides, n)."""
    x, y = (c[:, None] if c.ndim == 2 else c for c in (x, y))
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def curve_through(*ends: tuple[np.ndarray | float, np.ndarray | float]) -> Curves:
    """Parabolas (T, sides, 13, 2) that start, pass half-way and end at the three given places."""
    s = np.linspace(0.0, 1.0, 13)
    weights = [(1 - s) * (1 - 2 * s), 4 * s * (1 - s), s * (2 * s - 1)]
    x, y = (
        sum((np.asarray(c)[..., None] * w for c, w in zip(cs, weights, strict=True)), np.zeros(13))
        for cs in zip(*ends, strict=True)
    )
    return curve(x, y)


def mirror(points: Curves) -> Curves:
    """Offsets from the mid-line, equal for both sides, to places in the frame."""
    return points * np.stack([SIDES, np.ones(2)], axis=1)[:, None] + [CENTRE_X, 0.0]


def between(there: Curves, back: Curves) -> Float[np.ndarray, "T contours twice 2"]:
    """The closed area between two curves."""
    return np.concatenate([there, back[:, :, ::-1]], axis=2)


def moving_layers(
    identity: Identity,
    controls: Float[np.ndarray, "T controls"],
    gaze: Float[np.ndarray, "T 2"],
    asymmetry: float,
    canvas_px: int,
) -> list[Painted]:
    """All moving features of a clip, back to front, ready for `paint` on a square canvas.

    `controls` are movements of `CONTROLS`, `gaze` shifts the irises (fractions of the
    frame), `asymmetry` (around -0.1 to 0.1) makes one side of the face move more than the other.
    """
    face, count = _Features(identity, controls, gaze, asymmetry), len(controls)
    features = (face.creases, face.eyes, face.brows, face.nose, face.mouth, face.glasses)
    return [
        (
            rounded(points, canvas_px),
            [(*one, 255.0) for one in (np.broadcast_to(colour, (count, 3)) + 0.0).tolist()],
            max(1, round(width * canvas_px)) if width else 0,
            is_closed,
        )
        for feature in features
        for points, colour, width, is_closed in feature()
    ]


def paint(canvas: UInt8[np.ndarray, "S S 4"], layers: list[Painted], frame: int) -> None:
    """Paint one frame's layers, first to last, into `canvas` (premultiplied RGBA)."""
    for points, colours, width, is_closed in layers:
        curves, colour = list(points[frame]), colours[frame]
        if width:
            cv2.polylines(canvas, curves, is_closed, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)
        else:
            cv2.fillPoly(canvas, curves, colour, cv2.LINE_AA, SUBPIXEL_BITS)


class _Features:
    """Turns controls into layers; each method draws one feature."""

    def __init__(
        self, who: Identity, controls: np.ndarray, gaze: np.ndarray, asymmetry: float
    ) -> None:
        self.who, self.gaze = who, gaze
        self.still = np.zeros((len(controls), 2, 1))
        sided = controls[:, None, :] * (1.0 + asymmetry * SIDES)[None, :, None]
        self.sided = {name: sided[..., i] for i, name in enumerate(CONTROLS)}
        self.central = {name: controls[:, i] for i, name in enumerate(CONTROLS)}

    def brows(self) -> Iterator[Layer]:
        who, move = self.who, self.sided
        base, half, centre = EYE_Y - who.brow_height, who.brow_half_length, who.eye_distance + 0.002
        outer = base + 0.4 * who.brow_arch - who.brow_tilt - move["brow_outer_up"]
        spine = curve_through(
            (centre - half - move["brow_in"], base - move["brow_inner_up"] + who.brow_tilt),
            (centre - 0.5 * move["brow_in"], base - who.brow_arch - move["brow_mid_up"]),
            (centre + half, outer),
        )
        along = np.linspace(0.0, 1.0, spine.shape[2])
        thickness = who.brow_thickness * np.interp(along, [0, 0.3, 0.7, 1], [0.75, 1.0, 0.8, 0.2])
        shift = np.stack([np.zeros_like(thickness), 0.5 * thickness], axis=1)
        shape = mirror(between(spine - shift, spine + shift))
        yield shape, 0.55 * who.brows + 0.45 * who.skin, 0.006, True
        yield shape, who.brows, 0.0, False

    def eyes(self) -> Iterator[Layer]:
        who, move = self.who, self.sided
        s = np.linspace(-1.0, 1.0, 13)
        bump = 1.0 - np.abs(s) ** 2.2
        x = who.eye_distance + s * who.eye_half_width
        slant = self.still + EYE_Y - s * who.eye_tilt
        shut = move["lid_closed"].clip(0, 1)[..., None]
        low = (0.62 * who.lid_height - move["lower_lid_up"]).clip(0.002)[..., None]
        high = (who.lid_height + move["upper_lid_up"]).clip(0.002)[..., None]
        high = (1.0 - shut) * high - shut * 0.9 * low
        upper, lower = curve(x, slant - high * bump), curve(x, slant + low * bump)
        crease_rise = np.maximum(high + 0.008, 0.65 * who.lid_height + 0.018)
        crease = curve(x, slant - crease_rise * bump**0.8)
        wide = who.eye_distance + 1.08 * s * who.eye_half_width
        socket = curve(wide, slant - np.maximum(crease_rise, 0.045) * bump**0.7)
        bag = curve(wide, slant + (low + 0.022) * bump**0.8)
        below = curve(wide, slant + 0.048 * bump**0.6)
        discs = (1.0, who.iris * 0.55), (0.84, who.iris), (0.45, np.array([16.0, 14, 14]))
        lash = 0.25 * who.skin * 0.5 + np.array([18.0, 13, 12])

        yield mirror(between(upper, lower)), np.array([236.0, 231, 226]), 0.0, False
        for radius, colour in discs:
            yield self._discs(radius * who.iris_radius), colour, 0.0, False
        highlight = self._discs(0.26 * who.iris_radius, (-0.007, -0.008))
        yield highlight, np.array([255.0, 255, 255]), 0.0, False
        yield mirror(between(upper, socket)), who.skin, 0.0, False
        lid = mirror(between(upper, crease))
        yield lid, who.skin * np.array([0.93, 0.89, 0.88]), 0.0, False
        yield mirror(between(lower, below)), who.skin, 0.0, False
        yield mirror(crease), who.skin * 0.74, 0.006, False
        yield mirror(bag), self._crease("crow_feet", 0.16, 0.08), 0.008, False
        yield mirror(lower), who.skin * np.array([0.72, 0.62, 0.60]), 0.006, False
        yield mirror(upper), lash, 0.011, False

    def nose(self) -> Iterator[Layer]:
        who, lift = self.who, self.sided["nose_up"][..., None]
        half = who.nose_half_width * (1.0 + 3.0 * lift)
        turn = np.linspace(-0.55 * np.pi, 0.5 * np.pi, 9)
        y = who.nose_y - lift
        wing = curve(half - 0.011 + 0.014 * np.cos(turn), y + 0.020 * np.sin(turn) - 0.004)
        s = np.linspace(-1.0, 1.0, 11)
        tip = curve(half * 0.85 * s, y.mean(axis=1, keepdims=True) + 0.012 + 0.010 * (1 - s**2))
        cos, sin = ellipse(12)
        nostril = curve(0.44 * half + 0.0095 * cos, y + 0.011 + 0.0052 * sin)
        yield tip[:, :1] + [CENTRE_X, 0.0], who.skin * 0.80, 0.012, False
        yield mirror(wing), who.skin * 0.74, 0.007, False
        yield mirror(nostril), who.skin * np.array([0.38, 0.30, 0.28]), 0.0, False

    def mouth(self) -> Iterator[Layer]:
        who, move = self.who, self.central
        s = np.linspace(-1.0, 1.0, 21)
        bump = 1.0 - s**2
        corner_y = who.mouth_y - who.mouth_curve - self.sided["corner_up"]
        corner_x = CENTRE_X + SIDES * (who.mouth_half_width + self.sided["corner_out"])
        left, right = corner_x[:, :1], corner_x[:, 1:]
        x = 0.5 * (left + right) + 0.5 * (right - left) * s
        corners = np.where(s < 0, corner_y[:, :1], corner_y[:, 1:])
        # A pulled corner takes some of the middle with it.
        middle = who.mouth_y + 0.25 * (corner_y.mean(axis=1, keepdims=True) - who.mouth_y)
        rest = middle + (corners - middle) * np.abs(s) ** 1.7
        inner_up = rest - move["upper_lip_up"][:, None] * bump**0.9
        inner_low = rest + (move["lower_lip_down"] + move["jaw_down"])[:, None] * bump**0.55
        thin = (1.0 - move["lip_thin"]).clip(0.15, 1.0)[:, None]
        cupid = bump**0.75 * (1.0 - 0.28 * np.exp(-((s / 0.16) ** 2)))
        outer_up = inner_up - who.upper_lip * thin * cupid
        outer_low = inner_low + who.lower_lip * thin * bump**0.7
        gap = (inner_low - inner_up)[:, 10]
        is_open = (gap / 0.014).clip(0.0, 1.0)[:, None]
        is_wide = ((gap - 0.025) / 0.03).clip(0.0, 1.0)[:, None]
        dark, tongue = np.array([58.0, 22, 22]), np.array([160.0, 78, 78])
        tongue_top = inner_low - 0.45 * (inner_low - inner_up) * bump
        teeth = is_open * np.array([238.0, 232, 222]) + (1.0 - is_open) * dark
        teeth_low = np.minimum(inner_up + 0.021 * bump**0.5, inner_low)
        bared = (move["lower_lip_down"] / 0.02).clip(0.0, 1.0)[:, None] * bump**0.5
        lower_teeth = np.maximum(inner_low - 0.014 * bared, inner_up)
        for top, bottom, colour in (
            (inner_up, inner_low, dark),
            (tongue_top, inner_low, is_wide * tongue + (1 - is_wide) * dark),
            (inner_up, teeth_low, teeth),
            (lower_teeth, inner_low, teeth * 0.92),
            (outer_up, inner_up, who.lips * np.array([0.86, 0.80, 0.80])),
            (inner_low, outer_low, who.lips),
        ):
            yield between(curve(x, top)[:, :1], curve(x, bottom)[:, :1]), colour, 0.0, False
        shine = curve(x[:, 5:16], (0.6 * inner_low + 0.4 * outer_low)[:, 5:16])[:, :1]
        yield shine, 0.80 * who.lips + 0.20 * 255.0, 0.4 * who.lower_lip, False
        yield curve(x, inner_up)[:, :1], 0.45 * who.lips, 0.006, False
        yield curve(x, inner_low)[:, :1], 0.55 * who.lips, 0.005, False

    def creases(self) -> Iterator[Layer]:
        """Lines in the skin that come with the movement; invisible at rest."""
        who, move = self.who, self.sided
        brow_y, brows_up = EYE_Y - who.brow_height, move["brow_inner_up"][..., None]
        forehead = brow_y - 0.035 - 0.4 * brows_up
        s = np.linspace(0.0, 1.0, 7)
        arch = np.sin(np.pi * s)
        for row in range(2 if who.has_bare_forehead else 0):
            line = curve(0.115 * s, forehead - 0.028 * row - 0.01 * arch)
            yield mirror(line), self._crease("forehead_lines", 0.2), 0.007, False
        line = curve(0.017 + 0.004 * arch, brow_y - brows_up - 0.018 + 0.05 * s)
        yield mirror(line), self._crease("frown", 0.34), 0.009, False
        for row in range(2):
            line = curve(0.034 * s, self.still + (EYE_Y + 0.012 + 0.024 * row) + 0.016 * s**2)
            yield mirror(line), self._crease("nose_wrinkles", 0.34), 0.008, False
        nose_y = who.nose_y - move["nose_up"] - 0.006
        corner_x = who.mouth_half_width + move["corner_out"] + 0.024
        corner_y = who.mouth_y - 0.7 * move["corner_up"] + 0.012
        fold = curve_through(
            (who.nose_half_width + 0.014, nose_y),
            (0.5 * corner_x + 0.5 * who.nose_half_width + 0.018, 0.55 * nose_y + 0.45 * corner_y),
            (corner_x, corner_y),
        )
        for depth, rest, width in ((0.16, 0.06, 0.018), (0.3, 0.08, 0.007)):
            if who.beard < 0.5:
                yield mirror(fold), self._crease("cheek_fold", depth, rest), width, False

    def glasses(self) -> Iterator[Layer]:
        who, (cos, sin), size = self.who, ellipse(28), self.who.glasses
        if not size:
            return
        centre, y = who.eye_distance + 0.006, self.still + EYE_Y
        lens = curve(
            centre + size * np.sign(cos) * np.abs(cos) ** 0.7,
            y + 0.008 + 0.78 * size * np.sign(sin) * np.abs(sin) ** 0.7,
        )
        s = np.linspace(-1.0, 1.0, 7)
        bridge = curve(CENTRE_X + (centre - size) * s, y - 0.004 - 0.008 * (1 - s**2))[:, :1]
        temple_end = who.head_half_width * (0.88 if who.has_covered_ears else 1.01)
        temple = curve(np.linspace(centre + size, temple_end, 4), y - 0.004)
        for points, closed in ((mirror(lens), True), (bridge, False), (mirror(temple), False)):
            yield points, who.glasses_colour, 0.009, closed

    def _crease(self, control: str, depth: float, at_rest: float = 0.0) -> np.ndarray:
        strength = at_rest + depth * self.central[control].clip(0.0, 1.0)[:, None]
        return self.who.skin * (1.0 - strength * np.array([0.85, 1.0, 1.05]))

    def _discs(self, radius: float, shift: tuple[float, float] = (0.0, 0.0)) -> Curves:
        centres = np.stack([CENTRE_X + SIDES * self.who.eye_distance, [EYE_Y, EYE_Y]], axis=1)
        place = centres[None] + self.gaze[:, None] + np.array(shift)
        return place[:, :, None] + radius * np.stack(ellipse(20), axis=1)
