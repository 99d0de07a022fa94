"""The moving features of a face: brows, lids, eyes, nose and mouth as layers of filled curves.

A layer is computed for all frames of a clip at once, then painted frame by frame with OpenCV's
antialiased drawing. Colours are unlit: light and shade are multiplied in afterwards
(`face_portrait`), so a lid painted in the colour of the skin melts into it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from .expressions import CONTROLS
from .identity import CENTRE_X, EYE_Y, Identity

Colours = Float[np.ndarray, "T 3"]
Curves = Float[np.ndarray, "T contours points 2"]

SIDES = np.array([-1.0, 1.0])
"""Left and right in the picture."""

_SUBPIXEL_BITS = 4


def curve(x: np.ndarray, y: np.ndarray) -> Curves:
    """Points (T, sides, n, 2) from coordinates of any shapes that broadcast to (T, sides, n)."""
    x = x[:, None] if x.ndim == 2 else x
    y = y[:, None] if y.ndim == 2 else y
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def curve_through(*ends: tuple[np.ndarray | float, np.ndarray | float]) -> Curves:
    """Parabolas (T, sides, 13, 2) that start, pass half-way and end at the three given places."""
    s = np.linspace(0.0, 1.0, 13)
    weights = [(1 - s) * (1 - 2 * s), 4 * s * (1 - s), s * (2 * s - 1)]
    x, y = (
        sum(
            (np.asarray(end[axis])[..., None] * w for end, w in zip(ends, weights, strict=True)),
            start=np.zeros(13),
        )
        for axis in range(2)
    )
    return curve(x, y)


def mirror(points: Curves) -> Curves:
    """Offsets from the mid-line, equal for both sides, to places in the frame."""
    return points * np.stack([SIDES, np.ones(2)], axis=1)[:, None] + [CENTRE_X, 0.0]


def band(
    x: Float[np.ndarray, "T n"], top: Float[np.ndarray, "T n"], bottom: Float[np.ndarray, "T n"]
) -> Curves:
    """The closed area between two curves (T, n) over the same x: (T, 1, 2n, 2)."""
    there, back = curve(x, top)[:, :1], curve(x, bottom)[:, :1]
    return np.concatenate([there, back[:, :, ::-1]], axis=2)


@dataclass(frozen=True)
class Layer:
    """Curves of one colour per frame, filled or drawn as lines."""

    points: Curves
    colours: Colours
    width: float = 0.0  # of the line, in fractions of the frame; 0 fills the curve
    is_closed: bool = False


@dataclass(frozen=True)
class Painter:
    """Layers made ready for a canvas: fixed-point coordinates and plain colours."""

    layers: list[tuple[np.ndarray, list[tuple[float, ...]], int, bool]]

    @classmethod
    def for_canvas(cls, layers: list[Layer], canvas_px: int) -> "Painter":
        """Round all points to 1/16 of a pixel of a square canvas of `canvas_px`."""
        scale = 2**_SUBPIXEL_BITS
        return cls(
            [
                (
                    np.rint((layer.points * canvas_px - 0.5) * scale).astype(np.int32),
                    [(*colour, 255.0) for colour in layer.colours.tolist()],
                    max(1, round(layer.width * canvas_px)) if layer.width else 0,
                    layer.is_closed,
                )
                for layer in layers
            ]
        )

    def paint(self, canvas: UInt8[np.ndarray, "S S 4"], frame: int) -> None:
        """Paint one frame's layers, first to last, into `canvas` (premultiplied RGBA)."""
        for points, colours, width, is_closed in self.layers:
            curves, colour = list(points[frame]), colours[frame]
            if width:
                cv2.polylines(canvas, curves, is_closed, colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)
            else:
                cv2.fillPoly(canvas, curves, colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def moving_layers(
    identity: Identity,
    controls: Float[np.ndarray, "T controls"],
    gaze: Float[np.ndarray, "T 2"],
    asymmetry: float,
) -> list[Layer]:
    """All moving features of a clip, back to front.

    `controls` are movements of `expressions.CONTROLS`, `gaze` shifts the irises (fractions of the
    frame), `asymmetry` (around -0.1 to 0.1) makes one side of the face move more than the other.
    """
    features = _Features(identity, controls, gaze, asymmetry)
    return [
        *features.creases(),
        *features.eyes(),
        *features.brows(),
        *features.nose(),
        *features.mouth(),
        *features.glasses(),
    ]


class _Features:
    """Turns controls into layers; each method draws one feature."""

    def __init__(
        self,
        identity: Identity,
        controls: Float[np.ndarray, "T controls"],
        gaze: Float[np.ndarray, "T 2"],
        asymmetry: float,
    ) -> None:
        self.identity = identity
        self.num_frames = len(controls)
        self.gaze = gaze
        self._still = np.zeros((self.num_frames, 2, 1))
        sided = controls[:, None, :] * (1.0 + asymmetry * SIDES)[None, :, None]
        self._sided = {name: sided[..., i] for i, name in enumerate(CONTROLS)}
        self._central = {name: controls[:, i] for i, name in enumerate(CONTROLS)}

    def brows(self) -> Iterator[Layer]:
        who, move = self.identity, self._sided
        base = EYE_Y - who.brow_height
        half = who.brow_half_length
        centre = who.eye_distance + 0.002
        ends = [
            (centre - half - move["brow_in"], base - move["brow_inner_up"] + who.brow_tilt),
            (centre - 0.5 * move["brow_in"], base - who.brow_arch - move["brow_mid_up"]),
            (
                centre + half,
                base + 0.4 * who.brow_arch - who.brow_tilt - move["brow_outer_up"],
            ),
        ]
        spine = curve_through(*ends)
        along = np.linspace(0.0, 1.0, spine.shape[2])
        thickness = who.brow_thickness * np.interp(along, [0, 0.3, 0.7, 1], [0.75, 1.0, 0.8, 0.2])
        shift = np.stack([np.zeros_like(thickness), 0.5 * thickness], axis=1)
        shape = np.concatenate([spine - shift, (spine + shift)[:, :, ::-1]], axis=2)
        yield self._layer(
            mirror(shape), 0.55 * who.brows + 0.45 * who.skin, width=0.006, closed=True
        )
        yield self._layer(mirror(shape), who.brows)

    def eyes(self) -> Iterator[Layer]:
        who, move = self.identity, self._sided
        s = np.linspace(-1.0, 1.0, 13)
        bump = 1.0 - np.abs(s) ** 2.2
        x = who.eye_distance + s * who.eye_half_width
        slant = self._still + EYE_Y - s * who.eye_tilt
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

        opening = np.concatenate([upper, lower[:, :, ::-1]], axis=2)
        yield self._layer(mirror(opening), np.array([236.0, 231, 226]))
        for radius, colour in (
            (1.0, who.iris * 0.55),
            (0.84, who.iris),
            (0.45, np.array([16.0, 14, 14])),
        ):
            yield self._layer(self._discs(radius * who.iris_radius), colour)
        highlight = self._discs(0.26 * who.iris_radius, shift=(-0.007, -0.008))
        yield self._layer(highlight, np.array([255.0, 255, 255]))
        lid = np.concatenate([upper, socket[:, :, ::-1]], axis=2)
        yield self._layer(mirror(lid), who.skin)
        lid = np.concatenate([upper, crease[:, :, ::-1]], axis=2)
        yield self._layer(mirror(lid), who.skin * np.array([0.93, 0.89, 0.88]))
        cheek = np.concatenate([lower, below[:, :, ::-1]], axis=2)
        yield self._layer(mirror(cheek), who.skin)
        yield self._layer(mirror(crease), who.skin * 0.74, width=0.006)
        yield self._layer(mirror(bag), self._crease_colour("crow_feet", 0.16, at_rest=0.08), 0.008)
        yield self._layer(mirror(lower), who.skin * np.array([0.72, 0.62, 0.60]), width=0.006)
        lash = 0.25 * who.skin * 0.5 + np.array([18.0, 13, 12])
        yield self._layer(mirror(upper), lash, width=0.011)

    def nose(self) -> Iterator[Layer]:
        who, lift = self.identity, self._sided["nose_up"][..., None]
        half = who.nose_half_width * (1.0 + 3.0 * lift)
        turn = np.linspace(-0.55 * np.pi, 0.5 * np.pi, 9)
        y = who.nose_y - lift
        wing = curve(half - 0.011 + 0.014 * np.cos(turn), y + 0.020 * np.sin(turn) - 0.004)
        s = np.linspace(-1.0, 1.0, 11)
        tip = curve(half * 0.85 * s, y.mean(axis=1, keepdims=True) + 0.012 + 0.010 * (1 - s**2))
        angle = np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False)
        nostril = curve(0.44 * half + 0.0095 * np.cos(angle), y + 0.011 + 0.0052 * np.sin(angle))
        yield self._layer(tip[:, :1] + [CENTRE_X, 0.0], who.skin * 0.80, width=0.012)
        yield self._layer(mirror(wing), who.skin * 0.74, width=0.007)
        yield self._layer(mirror(nostril), who.skin * np.array([0.38, 0.30, 0.28]))

    def mouth(self) -> Iterator[Layer]:
        who, move = self.identity, self._central
        s = np.linspace(-1.0, 1.0, 21)
        bump = 1.0 - s**2
        corner_y = who.mouth_y - who.mouth_curve - self._sided["corner_up"]
        corner_x = CENTRE_X + SIDES * (who.mouth_half_width + self._sided["corner_out"])
        left, right = corner_x[:, :1], corner_x[:, 1:]
        x = 0.5 * (left + right) + 0.5 * (right - left) * s
        corners = np.where(s < 0, corner_y[:, :1], corner_y[:, 1:])
        # A pulled corner takes some of the middle with it.
        middle = who.mouth_y + 0.25 * (corner_y.mean(axis=1, keepdims=True) - who.mouth_y)
        rest = middle + (corners - middle) * np.abs(s) ** 1.7
        jaw = move["jaw_down"][:, None]
        inner_up = rest - move["upper_lip_up"][:, None] * bump**0.9
        inner_low = rest + (move["lower_lip_down"][:, None] + jaw) * bump**0.55
        thin = (1.0 - move["lip_thin"]).clip(0.15, 1.0)[:, None]
        cupid = bump**0.75 * (1.0 - 0.28 * np.exp(-((s / 0.16) ** 2)))
        outer_up = inner_up - who.upper_lip * thin * cupid
        outer_low = inner_low + who.lower_lip * thin * bump**0.7

        gap = (inner_low - inner_up)[:, 10]
        is_open = (gap / 0.014).clip(0.0, 1.0)[:, None]
        dark = np.array([58.0, 22, 22])
        yield self._layer(band(x, inner_up, inner_low), dark)
        tongue_top = inner_low - 0.45 * (inner_low - inner_up) * bump
        tongue = np.array([160.0, 78, 78])
        is_wide = ((gap - 0.025) / 0.03).clip(0.0, 1.0)[:, None]
        yield self._layer(band(x, tongue_top, inner_low), is_wide * tongue + (1 - is_wide) * dark)
        teeth = is_open * np.array([238.0, 232, 222]) + (1.0 - is_open) * dark
        teeth_low = np.minimum(inner_up + 0.021 * bump**0.5, inner_low)
        yield self._layer(band(x, inner_up, teeth_low), teeth)
        bared = (move["lower_lip_down"] / 0.02).clip(0.0, 1.0)[:, None] * bump**0.5
        lower_teeth = np.maximum(inner_low - 0.014 * bared, inner_up)
        yield self._layer(band(x, lower_teeth, inner_low), teeth * 0.92)
        yield self._layer(band(x, outer_up, inner_up), who.lips * np.array([0.86, 0.80, 0.80]))
        yield self._layer(band(x, inner_low, outer_low), who.lips)
        part = slice(5, 16)
        shine = curve(x[:, part], (0.6 * inner_low + 0.4 * outer_low)[:, part])[:, :1]
        yield self._layer(shine, 0.80 * who.lips + 0.20 * 255.0, width=0.4 * who.lower_lip)
        yield self._layer(curve(x, inner_up)[:, :1], 0.45 * who.lips, width=0.006)
        yield self._layer(curve(x, inner_low)[:, :1], 0.55 * who.lips, width=0.005)

    def creases(self) -> Iterator[Layer]:
        """Lines in the skin that come with the movement; invisible at rest."""
        who, move = self.identity, self._sided
        forehead = EYE_Y - who.brow_height - 0.035 - 0.4 * move["brow_inner_up"][..., None]
        s = np.linspace(0.0, 1.0, 7)
        for row in range(2 if who.has_bare_forehead else 0):
            line = curve(0.115 * s, forehead - 0.028 * row - 0.01 * np.sin(np.pi * s))
            yield self._layer(mirror(line), self._crease_colour("forehead_lines", 0.2), 0.007)
        brow_y = EYE_Y - who.brow_height - move["brow_inner_up"][..., None]
        line = curve(0.017 + 0.004 * np.sin(np.pi * s), brow_y - 0.018 + 0.05 * s)
        yield self._layer(mirror(line), self._crease_colour("frown", 0.34), 0.009)
        for row in range(2):
            top = EYE_Y + 0.012 + 0.024 * row
            line = curve(0.034 * s, self._still + top + 0.016 * s**2)
            yield self._layer(mirror(line), self._crease_colour("nose_wrinkles", 0.34), 0.008)
        nose_y = who.nose_y - move["nose_up"] - 0.006
        corner_x = who.mouth_half_width + move["corner_out"] + 0.024
        corner_y = who.mouth_y - 0.7 * move["corner_up"] + 0.012
        fold = curve_through(
            (who.nose_half_width + 0.014, nose_y),
            (0.5 * corner_x + 0.5 * who.nose_half_width + 0.018, 0.55 * nose_y + 0.45 * corner_y),
            (corner_x, corner_y),
        )
        if who.beard < 0.5:
            soft = self._crease_colour("cheek_fold", 0.16, at_rest=0.06)
            yield self._layer(mirror(fold), soft, 0.018)
            yield self._layer(mirror(fold), self._crease_colour("cheek_fold", 0.3, 0.08), 0.007)

    def glasses(self) -> Iterator[Layer]:
        who = self.identity
        if not who.glasses:
            return
        angle = np.linspace(0.0, 2.0 * np.pi, 28, endpoint=False)
        cos, sin = np.cos(angle), np.sin(angle)
        lens = curve(
            who.eye_distance + 0.006 + who.glasses * np.sign(cos) * np.abs(cos) ** 0.7,
            self._still + EYE_Y + 0.008 + 0.78 * who.glasses * np.sign(sin) * np.abs(sin) ** 0.7,
        )
        temple_end = who.head_half_width * (0.88 if who.has_covered_ears else 1.01)
        s = np.linspace(-1.0, 1.0, 7)
        reach = who.eye_distance + 0.006 - who.glasses
        bridge = curve(CENTRE_X + reach * s, self._still + EYE_Y - 0.004 - 0.008 * (1 - s**2))[
            :, :1
        ]
        side = np.linspace(who.eye_distance + 0.006 + who.glasses, temple_end, 4)
        temple = curve(side, self._still + EYE_Y - 0.004)
        for points, closed in ((mirror(lens), True), (bridge, False), (mirror(temple), False)):
            yield self._layer(points, who.glasses_colour, width=0.009, closed=closed)

    def _layer(
        self,
        points: Curves,
        colour: Float[np.ndarray, "*T 3"],
        width: float = 0.0,
        closed: bool = False,
    ) -> Layer:
        return Layer(points, np.broadcast_to(colour, (self.num_frames, 3)) + 0.0, width, closed)

    def _crease_colour(self, control: str, depth: float, at_rest: float = 0.0) -> Colours:
        strength = at_rest + depth * self._central[control].clip(0.0, 1.0)[:, None]
        return self.identity.skin * (1.0 - strength * np.array([0.85, 1.0, 1.05]))

    def _discs(self, radius: float, shift: tuple[float, float] = (0.0, 0.0)) -> Curves:
        angle = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
        ring = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        centres = np.stack([CENTRE_X + SIDES * self.identity.eye_distance, [EYE_Y, EYE_Y]], axis=1)
        place = centres[None] + self.gaze[:, None] + np.array(shift)
        return place[:, :, None] + ring
