"""Curves a face is drawn with: points (T, contours, n, 2) in fractions of the frame's side."""

import numpy as np
from jaxtyping import Float

from .identity import CENTRE_X

Curves = Float[np.ndarray, "T contours points 2"]

SIDES = np.array([-1.0, 1.0])
"""Left and right in the picture."""


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
