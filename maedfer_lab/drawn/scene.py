"""A person filmed in a random scene: background, light, portrait, head movement and camera.

Body, head and hair are drawn once per clip, as an unlit picture and a light map. Moving features
are painted into a copy of the picture, which is then multiplied by the map.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from .drawing import SUBPIXEL_BITS, ellipse, moving_layers, paint, rounded
from .people import (
    CENTRE_X,
    COLOURS,
    CONTROLS,
    EYE_Y,
    HEAD_Y,
    Colour,
    Identity,
    face_controls,
    head_outline,
)

POSES = ("right", "down", "roll", "yaw", "pitch", "closer")
_POSE_REACH = np.array([0.030, 0.022, 0.24, 1.3, 1.0, 0.06])
_ZOOM = 1.07  # how much closer than drawn the camera stands
GAIN_ONE = 144.0  # value of the light map that leaves a colour as it is; 255 brightens by 77 %
WARM = np.array([0.06, 0.005, -0.07], dtype=np.float32)  # that a warm light adds to R, G, B
_FULL_BACK = {"bob": 0.80, "long": 1.1}
_MIDDLE = np.array([CENTRE_X, 0.0])
Shape = Float[np.ndarray, "n 2"]


class Light(NamedTuple):
    """A soft key light from (`x`, `y`) beside and above the camera, and ambient light.

    x: -1 from the left, 1 from the right. y: -1 from above. contrast: 0 flat, 1 only the key light.
    warmth: -1 cool, 1 warm; both within what a white balance leaves.
    """

    x: float
    y: float
    contrast: float
    exposure: float
    warmth: float


class Scene(SimpleNamespace):
    """What a clip has beside person and expression.

    light; pose_rest and pose_swing about it, per POSES, with pose_phase and pose_rate (periods per
    clip); gaze_rest, gaze_swing; asymmetry; noise: standard deviation in grey levels; seed: of
    background, texture and noise.
    """


def sample_scene(difficulty: float, generator: np.random.Generator) -> Scene:
    """Draw light, head pose and camera; `difficulty` from 0 (studio) to 1 (hard to read)."""
    uniform = generator.uniform
    side = uniform(-1.0, 1.0) * (0.5 + 0.3 * difficulty)
    reach = _POSE_REACH * (0.1 + 0.9 * difficulty)
    swing = _POSE_REACH * (0.2 + 0.3 * difficulty)
    return Scene(
        light=Light(
            x=side,
            y=-uniform(0.15, 0.5),
            contrast=uniform(0.35, 0.6) + 0.25 * difficulty * uniform(),
            exposure=1.08 + uniform(-0.08, 0.08) + difficulty * uniform(-0.4, 0.2),
            warmth=uniform(-1.0, 1.0) * (0.4 + 0.6 * difficulty),
        ),
        pose_rest=reach * uniform(-1.0, 1.0, size=len(POSES)),
        pose_swing=swing * uniform(0.3, 1.0, size=len(POSES)),
        pose_rate=uniform(0.3, 0.9, size=len(POSES)),
        pose_phase=uniform(0.0, 2.0 * np.pi, size=len(POSES)),
        gaze_rest=uniform(-1.0, 1.0, size=2) * [0.008, 0.003],
        gaze_swing=uniform(-1.0, 1.0, size=2) * [0.004, 0.002],
        asymmetry=uniform(-0.12, 0.12),
        noise=1.0 + 13.0 * difficulty**1.6 * uniform(0.8, 1.2),
        seed=int(generator.integers(2**32)),
    )


def render_face(
    identity: Identity, action_units: Float[np.ndarray, "T units"], scene: Scene, size_px: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Film a person: RGB frames for action-unit intensities (0 to 1) over time.

    Drawn at twice the size (four times below 48 pixels), moved and averaged down in one step.
    """
    generator = np.random.default_rng(scene.seed)
    num_frames, supersampling = len(action_units), 2 if size_px >= 48 else 4
    canvas_px = supersampling * size_px
    controls = face_controls(action_units)
    times = np.linspace(0.0, 1.0, num_frames)[:, None]
    gaze = scene.gaze_rest + np.sin(2.0 * np.pi * 0.7 * times) * scene.gaze_swing
    layers = moving_layers(identity, controls, gaze, scene.asymmetry, canvas_px)
    picture, light_map = draw_portrait(identity, scene.light, canvas_px, generator)
    background = _background(size_px, scene.light, generator)
    sources = _source_maps(identity, controls, scene, size_px, supersampling)
    people = np.empty((num_frames, size_px, size_px, 4), dtype=np.uint8)
    canvas = np.empty_like(picture)
    for frame, (x, y) in enumerate(sources):
        np.copyto(canvas, picture)
        paint(canvas, layers, frame)
        cv2.multiply(canvas, light_map, dst=canvas, scale=1.0 / GAIN_ONE)
        averaged, out = cv2.blur(canvas, (supersampling, supersampling)), people[frame]
        cv2.remap(averaged, x, y, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE)
    noise = generator.standard_normal((num_frames, size_px, size_px, 1), dtype=np.float32)
    frames = people[..., :3] + (1.0 - people[..., 3:] * np.float32(1.0 / 255.0)) * background
    frames += noise * np.float32(scene.noise)
    np.rint(frames, out=frames)
    return np.clip(frames, 0.0, 255.0, out=frames).astype(np.uint8)


def _background(
    size_px: int, light: Light, generator: np.random.Generator
) -> Float32[np.ndarray, "H W 3"]:
    """A wall, a window, some leaves or furniture far out of focus."""
    first, second, *others = generator.choice(COLOURS["background"], size=6, replace=False)
    ramp = np.linspace(0.0, 1.0, 32)
    ramp = ramp[:, None, None] if generator.random() < 0.5 else ramp[None, :, None]
    small = np.ascontiguousarray(
        np.broadcast_to(first + (second - first) * ramp * 0.6, (32, 32, 3)), dtype=np.float32
    )
    for colour in others[: generator.integers(0, 5)]:
        left, top = generator.integers(-6, 30, size=2).tolist()
        wide, high = generator.integers(4, 22, size=2).tolist()
        shape = small.copy()
        at, paint_it = (left, top), colour.tolist()
        if generator.random() < 0.6:
            cv2.rectangle(shape, at, (left + wide, top + 2 * high), paint_it, -1)
        else:
            cv2.circle(shape, at, wide // 2, paint_it, -1)
        small += 0.7 * (shape - small)
    small = cv2.GaussianBlur(small, (0, 0), generator.uniform(1.2, 3.0))
    small *= np.float32(light.exposure * generator.uniform(0.7, 1.0))
    small *= 1.0 + light.warmth * WARM
    return cv2.resize(small, (size_px, size_px), interpolation=cv2.INTER_CUBIC).clip(0, 255)


def _source_maps(
    identity: Identity, controls: np.ndarray, scene: Scene, size_px: int, over: int
) -> Float32[np.ndarray, "T 2 H W"]:
    """Where on the canvas each pixel of each frame comes from (x and y in canvas pixels): turns,
    shifts and stretches, each a fixed field times a number per frame.
    """
    axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    x, y = axis[None, :], axis[:, None]
    head = 0.15 + 0.85 * _fall(axis, identity.chin_y - 0.02, identity.chin_y + 0.14)[:, None]
    pivot_y = 0.78
    wide = (x - CENTRE_X) / (1.05 * identity.head_half_width)
    high = (y - HEAD_Y) / (1.05 * identity.head_half_height)
    relief = np.maximum(1.0 - wide**2 - high**2, 0.0)
    relief = relief + 0.35 * np.exp(-((wide / 0.22) ** 2) - ((high - 0.3) / 0.22) ** 2)
    ahead = 0.042 * relief - 0.012
    below = 1.0 - _fall(axis, identity.mouth_y, identity.chin_y)[:, None]
    jaw = 0.72 * below * _fall(np.abs(axis - CENTRE_X), 0.20, 0.36)[None, :] * head
    side = np.exp(-(((np.abs(axis - CENTRE_X) - 0.13) / 0.07) ** 2))[None, :]
    cheek = side * np.exp(-(((axis - EYE_Y - 0.12) / 0.07) ** 2))[:, None]

    times = np.linspace(0.0, 1.0, len(controls))[:, None]
    phase = 2.0 * np.pi * scene.pose_rate * times + scene.pose_phase
    pose = scene.pose_rest + scene.pose_swing * np.sin(phase)
    right, down, roll, yaw, pitch, closer = pose.T
    scale = (1.0 - closer) / _ZOOM
    turn, tilt = scale * np.cos(roll) - 1.0, scale * np.sin(roll)
    jaw_down, cheek_up = (controls[:, CONTROLS.index(c)] for c in ("jaw_down", "cheek_up"))
    move_x, move_y = (x - CENTRE_X) * head, (y - pivot_y) * head
    across = ((turn, move_x), (tilt, move_y), (-right, head), (-yaw, ahead))
    along = ((turn, move_y), (-tilt, move_x), (-down, head), (-pitch, ahead), (-jaw_down, jaw),
             (cheek_up, cheek))  # fmt: skip
    maps = np.empty((len(pose), 2, size_px, size_px), dtype=np.float32)
    for axis_number, (start, terms) in enumerate(((x, across), (y, along))):
        maps[:, axis_number] = start
        for amount, field in terms:
            maps[:, axis_number] += amount.astype(np.float32)[:, None, None] * field
    maps *= np.float32(size_px * over)
    maps -= np.float32(0.5)
    maps += np.float32(0.5)  # an even box filter lies half a pixel to the left
    return maps


def _fall(axis: np.ndarray, begin: float, end: float) -> Float32[np.ndarray, " n"]:
    """1 up to `begin`, smoothly down to 0 at `end`."""
    progress = ((axis - begin) / (end - begin)).clip(0.0, 1.0)
    return (1.0 - progress**2 * (3.0 - 2.0 * progress)).astype(np.float32)


# --- the portrait ---


def draw_portrait(
    who: Identity, light: Light, canvas_px: int, generator: np.random.Generator
) -> tuple[UInt8[np.ndarray, "S S 4"], UInt8[np.ndarray, "S S 4"]]:
    """Body, head and hair of a person: unlit picture (premultiplied RGBA) and its light map."""
    picture = np.zeros((canvas_px, canvas_px, 4), dtype=np.uint8)
    head, hair = (np.zeros((canvas_px, canvas_px), dtype=np.uint8) for _ in range(2))
    outline = head_outline(who)
    for shape in _back_hair(who):
        _fill(picture, shape, who.hair * 0.8)
        _fill(hair, shape, 255)
    for shape, colour, is_whole in (*_body(who), (outline, who.skin, True)):
        _fill(picture, shape, colour)
        if is_whole:
            _fill(hair, shape, 0)
    _fill(head, outline, 255)
    if who.beard:
        _draw_beard(picture, who, head)
    for shape in _front_hair(who, generator):
        _fill(picture, shape, who.hair)
        _fill(hair, shape, 255)
    return picture, _light_map(who, light, head, hair, generator)


def _fill(canvas: np.ndarray, shape: Shape, colour: Colour | int) -> None:
    value = colour if isinstance(colour, int) else (*colour.tolist(), 255.0)
    cv2.fillPoly(canvas, [rounded(shape, len(canvas))], value, cv2.LINE_AA, SUBPIXEL_BITS)


def _body(who: Identity) -> Iterator[tuple[Shape, Colour, bool]]:
    """Shoulders, throat, ears and what is inside them: shape, colour, whether it hides hair."""
    neck = 0.60 * who.head_half_width
    shoulders = [(-0.62, 1.1), (-0.42, 0.955), (-neck - 0.05, 0.895),
                 (neck + 0.05, 0.895), (0.42, 0.955), (0.62, 1.1)]  # fmt: skip
    throat = [(-neck, 0.6), (-neck, 0.86), (-neck - 0.03, 0.90), (0.0, 0.985),
              (neck + 0.03, 0.90), (neck, 0.86), (neck, 0.6)]  # fmt: skip
    yield np.array(shoulders) + _MIDDLE, who.clothes, True
    yield np.array(throat) + _MIDDLE, who.skin * 0.94, True
    cos, sin = ellipse(24)
    for side in (-1.0, 1.0):
        for size, tint in ((1.0, [0.92, 0.86, 0.84]), (0.6, [0.76, 0.68, 0.65])):
            x = side * (0.985 * who.head_half_width + 0.024 * (size * who.ear_size) * cos)
            y = EYE_Y + 0.045 + 0.058 * (size * who.ear_size) * sin
            yield np.stack([CENTRE_X + x, y], axis=1), who.skin * np.array(tint), size == 1.0


def _draw_beard(picture: np.ndarray, who: Identity, head: np.ndarray) -> None:
    """A soft-edged area from the sideburns over jaw and moustache, leaving out the mouth."""
    half = who.head_half_width
    right = np.array([(1.05 * half, EYE_Y + 0.05), (0.93 * half, EYE_Y + 0.06),
                      (0.78 * half, who.mouth_y - 0.048), (0.105, who.mouth_y - 0.030),
                      (0.055, who.nose_y + 0.034), (0.0, who.nose_y + 0.038)])  # fmt: skip
    left = right[-2::-1] * [-1.0, 1.0]
    chin = np.array([[-1.05 * half, 1.0], [1.05 * half, 1.0]])
    mask = np.zeros_like(head)
    _fill(mask, np.vstack([right, left, chin]) + _MIDDLE, 255)
    blur = 0.028 if who.beard < 0.5 else 0.014
    mask = cv2.GaussianBlur(mask, (0, 0), blur * len(picture))
    weight = who.beard * (np.minimum(mask, head) / np.float32(255.0))[..., None]
    colour = np.float32(0.9 * who.hair + 0.1 * who.skin)
    mixed = picture[..., :3] * (1.0 - weight) + colour * weight
    picture[..., :3] = np.rint(mixed).astype(np.uint8)


def _back_hair(who: Identity) -> list[Shape]:
    """Hair behind head and neck."""
    if who.has_covered_ears:
        x, y = head_outline(who).T
        x = (x - CENTRE_X) * (1.12 + 0.10 * who.hair_volume)
        below = y > HEAD_Y
        fall = np.minimum(HEAD_Y + 3.0 * (y - HEAD_Y), _FULL_BACK[who.hair_style])
        wide = np.sign(x) * np.maximum(np.abs(x), who.head_half_width * 1.1)
        return [np.stack([CENTRE_X + np.where(below, wide, x), np.where(below, fall, y)], axis=1)]
    if who.hair_style == "afro":
        outline = head_outline(who, wider=1.18 + 0.10 * who.hair_volume)
        return [np.minimum(outline, [2.0, HEAD_Y + 0.16])]
    if who.hair_style == "bun":
        cos, sin = ellipse(24)
        top, radius = HEAD_Y - who.head_half_height - 0.035, 0.075 * who.hair_volume
        return [np.stack([CENTRE_X + radius * cos, top + 0.8 * radius * sin], 1)]
    return []


def _front_hair(who: Identity, generator: np.random.Generator) -> list[Shape]:
    """Hair that lies over the head: a cap between the crown and the hairline, and side locks."""
    half, style = who.head_half_width, who.hair_style
    jitter = generator.uniform(-0.005, 0.005, size=25)
    if style == "bald":
        return []
    lift = {"short": 0.022, "afro": 0.07, "bun": 0.015}.get(style, 0.035) * who.hair_volume
    temple = EYE_Y + {"bob": 0.10, "long": 0.10, "bun": -0.035}.get(style, 0.0)
    angle = np.linspace(np.pi, 2.0 * np.pi, 40)
    cos, sin, exponent = np.cos(angle), np.sin(angle), 2.0 / 2.25
    outer_x = np.sign(cos) * np.abs(cos) ** exponent * (half + 0.35 * lift)
    outer_y = HEAD_Y - np.abs(sin) ** exponent * (who.head_half_height + lift)
    outer_y = np.where(np.abs(cos) > 0.999, temple, outer_y)
    s = np.linspace(1.0, -1.0, 25)
    front = EYE_Y - who.hairline
    if style == "fringe":
        front = EYE_Y - who.brow_height - 0.040
        line = front + 0.5 * np.abs(jitter) + (temple - front) * np.abs(s) ** 7
    elif style in ("parted", "long", "bob"):
        towards = s - who.parting * 0.6
        line = front + (temple - front) * (np.abs(towards) / 1.42) ** 1.6 + 0.4 * jitter
        line = np.where(np.abs(s) > 0.99, temple, line)
    else:
        line = front + (temple - front) * np.abs(s) ** 3.2 + 0.5 * jitter
    inner_x = s * half * (0.93 if style != "bun" else 0.97)
    cap = np.vstack([np.stack([outer_x, outer_y], axis=1), np.stack([inner_x, line], axis=1)])
    bottom = _FULL_BACK.get(style, 0.0) - 0.01
    lock = np.array([(0.86, EYE_Y - 0.10), (1.10, EYE_Y - 0.10), (1.20, EYE_Y + 0.15),
                     (1.22, bottom), (0.98, bottom), (0.96, EYE_Y + 0.22),
                     (0.93, EYE_Y + 0.06)])  # fmt: skip
    sides = (-1.0, 1.0) if who.has_covered_ears else ()
    return [shape + _MIDDLE for shape in (cap, *(lock * [side * half, 1.0] for side in sides))]


def _light_map(
    who: Identity, light: Light, head: np.ndarray, hair: np.ndarray, generator: np.random.Generator
) -> UInt8[np.ndarray, "S S 4"]:
    size = len(head)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = ((axis - CENTRE_X) / (1.12 * who.head_half_width))[None, :]
    y = ((axis - HEAD_Y) / (1.12 * who.head_half_height))[:, None]
    depth = np.sqrt(np.maximum(1.0 - x**2 - y**2, 0.02))
    facing = light.x * x + light.y * y + np.float32((1.0 - light.x**2 - light.y**2) ** 0.5) * depth
    key = np.maximum(facing, 0.0)
    skin = (1.0 - light.contrast) * (0.84 + 0.20 * depth) + light.contrast * 1.12 * key
    skin = skin + _relief(who, light, axis)

    grain = generator.standard_normal((size // 2, size // 2), dtype=np.float32)
    soft = cv2.resize(cv2.GaussianBlur(grain, (0, 0), 1.5), (size, size))
    # Strands of hair that run down from the parting: brightness about 0, +-0.3.
    noise = generator.standard_normal(256, dtype=np.float32)
    noise = 0.07 * noise + 0.09 * (noise + np.roll(noise, 1) + np.roll(noise, 2))
    parting = CENTRE_X + 0.6 * who.parting * who.head_half_width
    down = np.maximum(axis - (HEAD_Y - who.head_half_height - 0.05), 0.0)[:, None]
    slope = (axis - parting)[None, :] / (down**0.7 + 0.12)
    wave = 0.012 * np.sin(14.0 * down + 3.0 * who.parting)
    strands = noise[np.floor((slope + wave) * 90.0).astype(np.int64) % len(noise)]

    skin = skin * (1.0 + 0.03 * soft)
    body = 1.0 - 0.38 * _bump(axis, who.chin_y + 0.005, 0.075)[:, None]
    body = body * ((1.0 - light.contrast) + light.contrast * (1.0 + 0.35 * light.x * x)) * 0.97
    sheen = 0.30 * _bump(axis, HEAD_Y - 0.27, 0.05)[:, None] * (1.0 + light.x * x)
    locks = (0.42 + 0.34 * depth + 0.26 * key + sheen) * (1.0 + strands)
    on_head, on_hair = head * np.float32(1 / 255), hair * np.float32(1 / 255)
    total = body + (skin - body) * on_head
    total = (total + (locks - total) * on_hair) * np.float32(light.exposure)

    # How much green and blue the blood under cheeks and nose takes away.
    cheeks = _bump(axis, CENTRE_X - 0.14, 0.06) + _bump(axis, CENTRE_X + 0.14, 0.06)
    blood = (cheeks + 0.7 * _bump(axis, CENTRE_X, 0.03))[None, :]
    blush = 0.07 * _bump(axis, who.nose_y - 0.005, 0.05)[:, None] * blood
    blush = blush * (on_head * (1.0 - on_hair))
    tint = light.warmth * WARM  # shadows are filled by light that is cooler than the key light
    gains = np.empty((size, size, 4), dtype=np.float32)
    for channel, colour in enumerate((0.0, 1.0, 0.8)):
        gains[..., channel] = total * (1.0 + tint[channel]) * (1.0 - colour * blush)
    gains[..., 3] = 1.0
    return np.rint((gains * GAIN_ONE).clip(0, 255)).astype(np.uint8)


def _bump(axis: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-(((axis - centre) / width) ** 2))


def _relief(who: Identity, light: Light, axis: np.ndarray) -> Float32[np.ndarray, "S S"]:
    """Soft shadows and highlights of the face's own relief, lit a little more from one side."""
    away, eyes, nose, mouth = 0.018 * np.sign(light.x), who.eye_distance, who.nose_y, who.mouth_y
    shade = abs(light.x)
    spots = [  # x, y, width, height, gain
        *[(side * eyes, EYE_Y - 0.022, 0.062, 0.034, -0.13) for side in (-1, 1)],
        *[(side * 0.042, EYE_Y - 0.005, 0.022, 0.035, -0.12) for side in (-1, 1)],
        (0.0, nose - 0.055, 0.015, 0.085, 0.10),
        (0.0, nose - 0.010, 0.016, 0.014, 0.12),
        (-2.2 * away, nose - 0.045, 0.020, 0.065, -0.13 * shade - 0.03),
        (2.2 * away, nose - 0.045, 0.020, 0.065, -0.05),
        (0.0, nose + 0.034, 0.030, 0.016, -0.13),
        (0.0, mouth + 0.048, 0.050, 0.015, -0.11),
        (0.0, who.chin_y - 0.055, 0.040, 0.022, 0.07),
        (0.0, EYE_Y - 0.155, 0.110, 0.050, 0.08),
        *[(side * 0.135, nose - 0.03, 0.045, 0.032, 0.09 + side * 0.06 * light.x)
          for side in (-1, 1)],
        *[(side * 0.165, mouth - 0.01, 0.055, 0.055, -0.07) for side in (-1, 1)],
    ]  # fmt: skip
    relief = np.zeros((len(axis), len(axis)), dtype=np.float32)
    for x, y, wide, high, gain in spots:  # no BLAS: the same bits everywhere
        relief += (gain * _bump(axis, y, high))[:, None] * _bump(axis, CENTRE_X + x, wide)
    return relief
