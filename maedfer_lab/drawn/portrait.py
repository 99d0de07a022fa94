"""The parts of a face that are drawn once per clip: body, head and hair, and how light falls.

A portrait is an unlit picture and a light map of the same size. Moving features are painted into
a copy of the picture, which is then multiplied by the map.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from .identity import CENTRE_X, EYE_Y, HEAD_Y, Colour, Identity, head_outline

GAIN_ONE = 144.0
"""Value of the light map that leaves a colour as it is; 255 brightens by 77 %."""

_FULL_BACK = {"bob": 0.80, "long": 1.1}
_SUBPIXEL_BITS = 4
_MIDDLE = np.array([CENTRE_X, 0.0])


@dataclass(frozen=True)
class Light:
    """A soft key light from (`x`, `y`) beside and above the camera, and ambient light."""

    x: float  # -1 from the left, 1 from the right
    y: float  # -1 from above
    contrast: float  # 0 flat, 1 only the key light
    exposure: float
    warmth: float  # -1 cool, 1 warm; both within what a white balance leaves


@dataclass(frozen=True)
class Portrait:
    """Unlit picture (premultiplied RGBA) and the light map that multiplies it."""

    picture: UInt8[np.ndarray, "S S 4"]
    light: UInt8[np.ndarray, "S S 4"]


def draw_portrait(
    identity: Identity, light: Light, canvas_px: int, generator: np.random.Generator
) -> Portrait:
    """Body, head and hair of a person on a transparent square canvas, with their light map."""
    picture = np.zeros((canvas_px, canvas_px, 4), dtype=np.uint8)
    head, hair = (np.zeros((canvas_px, canvas_px), dtype=np.uint8) for _ in range(2))
    outline = head_outline(identity)
    for shape in _back_hair(identity):
        _fill(picture, shape, identity.hair * 0.8)
        _fill(hair, shape, 255)
    _draw_body(picture, hair, identity)
    for side in (-1.0, 1.0):
        _fill(picture, _ear(identity, side), identity.skin * np.array([0.92, 0.86, 0.84]))
        _fill(picture, _ear(identity, side, 0.6), identity.skin * np.array([0.76, 0.68, 0.65]))
        _fill(hair, _ear(identity, side), 0)
    _fill(picture, outline, identity.skin)
    _fill(head, outline, 255)
    _fill(hair, outline, 0)
    if identity.beard:
        _draw_beard(picture, identity, head)
    for shape in _front_hair(identity, generator):
        _fill(picture, shape, identity.hair)
        _fill(hair, shape, 255)
    return Portrait(picture, _light_map(identity, light, head, hair, generator))


def _fill(canvas: np.ndarray, shape: Float[np.ndarray, "n 2"], colour: Colour | int) -> None:
    scale = 2**_SUBPIXEL_BITS
    points = np.rint((shape * len(canvas) - 0.5) * scale).astype(np.int32)
    value = colour if isinstance(colour, int) else (*colour.tolist(), 255.0)
    cv2.fillPoly(canvas, [points], value, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_body(picture: np.ndarray, hair: np.ndarray, identity: Identity) -> None:
    neck = 0.60 * identity.head_half_width
    shoulders = np.array(
        [[-0.62, 1.1], [-0.42, 0.955], [-neck - 0.05, 0.895], [neck + 0.05, 0.895], [0.42, 0.955]]
    )
    shoulders = np.vstack([shoulders, [[0.62, 1.1]]]) + _MIDDLE
    throat = np.array(
        [[-neck, 0.6], [-neck, 0.86], [-neck - 0.03, 0.90], [0.0, 0.985], [neck + 0.03, 0.90],
         [neck, 0.86], [neck, 0.6]]
    ) + _MIDDLE  # fmt: skip
    for shape, colour in ((shoulders, identity.clothes), (throat, identity.skin * 0.94)):
        _fill(picture, shape, colour)
        _fill(hair, shape, 0)


def _ear(identity: Identity, side: float, size: float = 1.0) -> Float[np.ndarray, "n 2"]:
    angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
    size = size * identity.ear_size
    x = side * (0.985 * identity.head_half_width + 0.024 * size * np.cos(angle))
    return np.stack([CENTRE_X + x, EYE_Y + 0.045 + 0.058 * size * np.sin(angle)], axis=1)


def _draw_beard(picture: np.ndarray, identity: Identity, head: np.ndarray) -> None:
    """A soft-edged area from the sideburns over jaw and moustache, leaving out the mouth."""
    half = identity.head_half_width
    right = np.array(
        [[1.05 * half, EYE_Y + 0.05], [0.93 * half, EYE_Y + 0.06],
         [0.78 * half, identity.mouth_y - 0.048], [0.105, identity.mouth_y - 0.030],
         [0.055, identity.nose_y + 0.034], [0.0, identity.nose_y + 0.038]]
    )  # fmt: skip
    left = right[-2::-1] * [-1.0, 1.0]
    chin = np.array([[-1.05 * half, 1.0], [1.05 * half, 1.0]])
    mask = np.zeros_like(head)
    _fill(mask, np.vstack([right, left, chin]) + _MIDDLE, 255)
    blur = 0.028 if identity.beard < 0.5 else 0.014
    mask = cv2.GaussianBlur(mask, (0, 0), blur * len(picture))
    weight = identity.beard * (np.minimum(mask, head) / np.float32(255.0))[..., None]
    colour = np.float32(0.9 * identity.hair + 0.1 * identity.skin)
    mixed = picture[..., :3] * (1.0 - weight) + colour * weight
    picture[..., :3] = np.rint(mixed).astype(np.uint8)


def _back_hair(identity: Identity) -> list[Float[np.ndarray, "n 2"]]:
    """Hair behind head and neck."""
    volume = identity.hair_volume
    if identity.has_covered_ears:
        outline = head_outline(identity, wider=1.0)
        bottom = _FULL_BACK[identity.hair_style]
        below = outline[:, 1] > HEAD_Y
        outline[:, 0] = CENTRE_X + (outline[:, 0] - CENTRE_X) * (1.12 + 0.10 * volume)
        outline[below, 1] = np.minimum(HEAD_Y + 3.0 * (outline[below, 1] - HEAD_Y), bottom)
        outline[below, 0] = CENTRE_X + np.sign(outline[below, 0] - CENTRE_X) * np.maximum(
            np.abs(outline[below, 0] - CENTRE_X), identity.head_half_width * 1.1
        )
        return [outline]
    if identity.hair_style == "afro":
        outline = head_outline(identity, wider=1.18 + 0.10 * volume)
        return [np.minimum(outline, [2.0, HEAD_Y + 0.16])]
    if identity.hair_style == "bun":
        angle = np.linspace(0.0, 2.0 * np.pi, 24, endpoint=False)
        top = HEAD_Y - identity.head_half_height - 0.035
        radius = 0.075 * volume
        return [
            np.stack([CENTRE_X + radius * np.cos(angle), top + 0.8 * radius * np.sin(angle)], 1)
        ]
    return []


def _front_hair(
    identity: Identity, generator: np.random.Generator
) -> list[Float[np.ndarray, "n 2"]]:
    """Hair that lies over the head: a cap between the crown and the hairline, and side locks."""
    half, style = identity.head_half_width, identity.hair_style
    jitter = generator.uniform(-0.005, 0.005, size=25)
    if style == "bald":
        return []
    lift = {"short": 0.022, "afro": 0.07, "bun": 0.015}.get(style, 0.035) * identity.hair_volume
    temple = EYE_Y + {"bob": 0.10, "long": 0.10, "bun": -0.035}.get(style, 0.0)
    angle = np.linspace(np.pi, 2.0 * np.pi, 40)
    exponent = 2.0 / 2.25
    height = identity.head_half_height + lift
    outer_x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** exponent * (half + 0.35 * lift)
    outer_y = HEAD_Y - np.abs(np.sin(angle)) ** exponent * height
    outer_y = np.where(np.abs(np.cos(angle)) > 0.999, temple, outer_y)
    s = np.linspace(1.0, -1.0, 25)
    front = EYE_Y - identity.hairline
    if style == "fringe":
        front = EYE_Y - identity.brow_height - 0.040
        line = front + 0.5 * np.abs(jitter) + (temple - front) * np.abs(s) ** 7
    elif style in ("parted", "long", "bob"):
        towards = s - identity.parting * 0.6
        line = front + (temple - front) * (np.abs(towards) / 1.42) ** 1.6 + 0.4 * jitter
        line = np.where(np.abs(s) > 0.99, temple, line)
    else:
        line = front + (temple - front) * np.abs(s) ** 3.2 + 0.5 * jitter
    inner_x = s * half * (0.93 if style != "bun" else 0.97)
    outer = np.stack([outer_x, outer_y], axis=1)
    shapes = [np.vstack([outer, np.stack([inner_x, line], axis=1)]) + _MIDDLE]
    if identity.has_covered_ears:
        bottom = _FULL_BACK[style] - 0.01
        for side in (-1.0, 1.0):
            lock = np.array(
                [[0.86, EYE_Y - 0.10], [1.10, EYE_Y - 0.10], [1.20, EYE_Y + 0.15],
                 [1.22, bottom], [0.98, bottom], [0.96, EYE_Y + 0.22], [0.93, EYE_Y + 0.06]]
            )  # fmt: skip
            shapes.append(lock * [side * half, 1.0] + _MIDDLE)
    return shapes


def _light_map(
    identity: Identity,
    light: Light,
    head: UInt8[np.ndarray, "S S"],
    hair: UInt8[np.ndarray, "S S"],
    generator: np.random.Generator,
) -> UInt8[np.ndarray, "S S 4"]:
    size = len(head)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = ((axis - CENTRE_X) / (1.12 * identity.head_half_width))[None, :]
    y = ((axis - HEAD_Y) / (1.12 * identity.head_half_height))[:, None]
    depth = np.sqrt(np.maximum(1.0 - x**2 - y**2, 0.02))
    facing = light.x * x + light.y * y + np.float32((1.0 - light.x**2 - light.y**2) ** 0.5) * depth
    key = np.maximum(facing, 0.0)
    skin = (1.0 - light.contrast) * (0.84 + 0.20 * depth) + light.contrast * 1.12 * key
    skin = skin + _relief(identity, light, axis)

    grain = generator.standard_normal((size // 2, size // 2), dtype=np.float32)
    soft = cv2.resize(cv2.GaussianBlur(grain, (0, 0), 1.5), (size, size))
    strands = _strands(identity, axis, generator)
    skin = skin * (1.0 + 0.03 * soft)
    body = 1.0 - 0.38 * _bump(axis, identity.chin_y + 0.005, 0.075)[:, None]
    body = body * ((1.0 - light.contrast) + light.contrast * (1.0 + 0.35 * light.x * x)) * 0.97
    sheen = 0.30 * _bump(axis, HEAD_Y - 0.27, 0.05)[:, None] * (1.0 + light.x * x)
    locks = (0.42 + 0.34 * depth + 0.26 * key + sheen) * (1.0 + strands)
    on_head, on_hair = head * np.float32(1 / 255), hair * np.float32(1 / 255)
    total = body + (skin - body) * on_head
    total = (total + (locks - total) * on_hair) * np.float32(light.exposure)

    # Shadows are filled by light that is cooler than the key light.
    tint = light.warmth * np.array([0.06, 0.005, -0.07], dtype=np.float32)
    blush = _blush(identity, axis) * (on_head * (1.0 - on_hair))
    gains = np.empty((size, size, 4), dtype=np.float32)
    for channel, colour in enumerate((0.0, 1.0, 0.8)):
        gains[..., channel] = total * (1.0 + tint[channel]) * (1.0 - colour * blush)
    gains[..., 3] = 1.0
    return np.rint((gains * GAIN_ONE).clip(0, 255)).astype(np.uint8)


def _strands(
    identity: Identity, axis: np.ndarray, generator: np.random.Generator
) -> Float32[np.ndarray, "S S"]:
    """Strands of hair that run down from the parting: brightness about 0, +-0.3."""
    num_strands = 256
    noise = generator.standard_normal(num_strands, dtype=np.float32)
    noise = 0.07 * noise + 0.09 * (noise + np.roll(noise, 1) + np.roll(noise, 2))
    parting = CENTRE_X + 0.6 * identity.parting * identity.head_half_width
    down = np.maximum(axis - (HEAD_Y - identity.head_half_height - 0.05), 0.0)[:, None]
    slope = (axis - parting)[None, :] / (down**0.7 + 0.12)
    wave = 0.012 * np.sin(14.0 * down + 3.0 * identity.parting)
    return noise[np.floor((slope + wave) * 90.0).astype(np.int64) % num_strands]


def _bump(axis: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-(((axis - centre) / width) ** 2))


def _relief(identity: Identity, light: Light, axis: np.ndarray) -> Float32[np.ndarray, "S S"]:
    """Soft shadows and highlights of the face's own relief, lit a little more from one side."""
    away = 0.018 * np.sign(light.x)
    spots = [  # x, y, width, height, gain
        (-identity.eye_distance, EYE_Y - 0.022, 0.062, 0.034, -0.13),
        (identity.eye_distance, EYE_Y - 0.022, 0.062, 0.034, -0.13),
        (-0.042, EYE_Y - 0.005, 0.022, 0.035, -0.12),
        (0.042, EYE_Y - 0.005, 0.022, 0.035, -0.12),
        (0.0, identity.nose_y - 0.055, 0.015, 0.085, 0.10),
        (0.0, identity.nose_y - 0.010, 0.016, 0.014, 0.12),
        (-2.2 * away, identity.nose_y - 0.045, 0.020, 0.065, -0.13 * abs(light.x) - 0.03),
        (2.2 * away, identity.nose_y - 0.045, 0.020, 0.065, -0.05),
        (0.0, identity.nose_y + 0.034, 0.030, 0.016, -0.13),
        (0.0, identity.mouth_y + 0.048, 0.050, 0.015, -0.11),
        (0.0, identity.chin_y - 0.055, 0.040, 0.022, 0.07),
        (0.0, EYE_Y - 0.155, 0.110, 0.050, 0.08),
        (-0.135, identity.nose_y - 0.030, 0.045, 0.032, 0.09 - 0.06 * light.x),
        (0.135, identity.nose_y - 0.030, 0.045, 0.032, 0.09 + 0.06 * light.x),
        (-0.165, identity.mouth_y - 0.01, 0.055, 0.055, -0.07),
        (0.165, identity.mouth_y - 0.01, 0.055, 0.055, -0.07),
    ]
    columns = np.stack([gain * _bump(axis, y, high) for _, y, _, high, gain in spots], axis=1)
    rows = np.stack([_bump(axis, CENTRE_X + x, wide) for x, _, wide, _, _ in spots])
    relief = np.zeros((len(axis), len(axis)), dtype=np.float32)
    for column, row in zip(columns.T, rows, strict=True):  # no BLAS: the same bits everywhere
        relief += column[:, None] * row
    return relief


def _blush(identity: Identity, axis: np.ndarray) -> Float32[np.ndarray, "S S"]:
    """How much green and blue the blood under cheeks and nose takes away."""
    cheeks = _bump(axis, CENTRE_X - 0.14, 0.06) + _bump(axis, CENTRE_X + 0.14, 0.06)
    height = _bump(axis, identity.nose_y - 0.005, 0.05)
    nose = _bump(axis, CENTRE_X, 0.03)
    return 0.07 * height[:, None] * (cheeks + 0.7 * nose)[None, :]
