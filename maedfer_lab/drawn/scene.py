"""Everything around the face: background, light, head movement and camera, as one random scene."""

from types import SimpleNamespace

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from .drawing import moving_layers, paint
from .expressions import CONTROLS, face_controls
from .identity import CENTRE_X, COLOURS, EYE_Y, HEAD_Y, Identity
from .portrait import GAIN_ONE, WARM, Light, draw_portrait

POSES = ("right", "down", "roll", "yaw", "pitch", "closer")
_POSE_REACH = np.array([0.030, 0.022, 0.24, 1.3, 1.0, 0.06])
_ZOOM = 1.07  # how much closer than drawn the camera stands


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

    The head is drawn at twice the size (four times below 48 pixels), moved and averaged down in one
    step, and laid over the blurred background; noise comes last.
    """
    generator = np.random.default_rng(scene.seed)
    num_frames, supersampling = len(action_units), 2 if size_px >= 48 else 4
    canvas_px = supersampling * size_px
    controls = face_controls(action_units)
    times = np.linspace(0.0, 1.0, num_frames)
    gaze = scene.gaze_rest + np.sin(2.0 * np.pi * 0.7 * times)[:, None] * scene.gaze_swing
    layers = moving_layers(identity, controls, gaze, scene.asymmetry, canvas_px)
    picture, light_map = draw_portrait(identity, scene.light, canvas_px, generator)
    background = _background(size_px, scene.light, generator)
    sources = _source_maps(identity, controls, scene, times, size_px, supersampling)
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
    identity: Identity,
    controls: np.ndarray,
    scene: Scene,
    times: np.ndarray,
    size_px: int,
    over: int,
) -> Float32[np.ndarray, "T 2 H W"]:
    """Where on the canvas each pixel of each frame comes from (x and y in canvas pixels).

    The whole head turns in the picture about the neck; yaw and pitch move what stands out (the
    nose most) against the outline; jaw and cheeks stretch the skin. Each is a fixed field times a
    number per frame.
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

    phase = 2.0 * np.pi * scene.pose_rate * times[:, None] + scene.pose_phase
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
