"""Which places of a frame are hidden at all times, and how a click changes them."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from maedfer_lab.config import Shape3
from maedfer_lab.method.grid import Grid

Places = tuple[int, ...]


def nearest_ratio(ratio: Any, known: list[float]) -> tuple[float, str]:
    """The nearest ratio that leaves equally many visible in every region; what to say if moved."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ValueError(
            f"ratio={ratio} must lie between 0 and 1 (exclusive): some cubes must be hidden and "
            "some visible; try 0.9"
        )
    found = min(known, key=lambda r: abs(r - ratio))
    if math.isclose(found, ratio, abs_tol=1e-6):
        return found, ""
    return found, (
        f"A mask ratio of {ratio:g} would leave unequal numbers of visible cubes; "
        f"{found:.4g} is the nearest that does not."
    )


def toggle_tube(
    hidden: Bool[Tensor, " hw"], place: Any, grid: Grid, region: Shape3 | None
) -> tuple[Bool[Tensor, " hw"], str]:
    """Hide a visible place, or show a hidden one; with regions, one in each of their windows.

    In other windows it is the same place within the window, or the nearest that can change.
    Returns the new places and a sentence. ValueError if nothing would stay visible, or hidden.
    """
    if isinstance(place, bool) or place != int(place) or not 0 <= place < len(hidden):
        raise ValueError(f"tube={place} must be a place of the frame, 0 ... {len(hidden) - 1}")
    rh, rw = (grid.h, grid.w) if region is None else region[1:]
    y, x = divmod(int(place), grid.w)
    was = bool(hidden[place])
    frame = hidden.view(grid.h, grid.w).clone()
    windows = [(a, b) for a in range(0, grid.h, rh) for b in range(0, grid.w, rw)]
    inside = frame[windows[0][0] :, windows[0][1] :][:rh, :rw]
    if int((inside == was).sum()) == 1:
        rule = "in each region" if region is not None else "in the frame"
        raise ValueError(
            f"one cube {rule} must stay {'hidden' if was else 'visible'}; "
            f"{'hide' if was else 'show'} another one first"
        )
    rows, columns = torch.meshgrid(torch.arange(rh), torch.arange(rw), indexing="ij")
    away = (rows - y % rh).square() + (columns - x % rw).square()
    for a, b in windows:
        window = frame[a : a + rh, b : b + rw]
        nearest = int(torch.where(window == was, away, away.max() + 1).argmin())
        window[nearest // rw, nearest % rw] = not was
    done = "Shown" if was else "Hidden"
    others = len(windows) - 1
    also = (
        f", and one cube in {'the other region' if others == 1 else f'each of the {others} other'}"
        f"{'' if others == 1 else ' windows'}: LGI-Former needs equally many in each"
        if others
        else ""
    )
    return frame.flatten(), f"{done} at all times: row {y + 1}, column {x + 1}{also}."
