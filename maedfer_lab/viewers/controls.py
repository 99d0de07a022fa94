"""Controls as player.js draws them, and checks of what they send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maedfer_lab.viewers.scene import plain

MAX_SEED = 2**31 - 1


def select(
    name: str,
    label: str,
    value: str,
    options: Mapping[str, str],
    note: str = "",
    disabled: bool = False,
) -> dict[str, Any]:
    """A control that picks one of `options` (value -> what is read)."""
    return {
        "name": name,
        "label": label,
        "kind": "select",
        "value": value,
        "shown": options[value],
        "options": [{"value": v, "label": text} for v, text in options.items()],
        "note": note,
        "disabled": disabled,
    }


def ratio_steps(value: float, ratios: Sequence[float]) -> dict[str, Any]:
    """A control that goes through the mask ratios."""
    return {
        "name": "ratio",
        "label": "mask ratio",
        "kind": "steps",
        "value": value,
        "options": [{"value": r, "label": f"{r:.4g} hidden"} for r in ratios],
        "shown": f"{value:.4g} hidden",
    }


def seed_number(value: int, shown: str = "", note: str = "") -> dict[str, Any]:
    """A control that takes the seed of a mask."""
    return {
        "name": "seed",
        "label": "mask seed",
        "kind": "number",
        "value": value,
        "low": 0,
        "high": MAX_SEED,
        "shown": shown or str(value),
        "note": note,
    }


def check_seed(value: Any) -> int:
    """A seed that a generator takes."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_SEED or value != int(value):
        raise ValueError(f"seed={value} must be a whole number from 0 to {MAX_SEED}; try 0")
    return int(value)


def pick(name: str, value: Any, known: Mapping[str, Any] | Sequence[str]) -> Any:
    """`value` if it is one of `known`; an error that names the first of them otherwise."""
    if not isinstance(value, str) or value not in known:
        some = ", ".join(plain(k) for k in list(known)[:10])
        raise ValueError(f"{name}={plain(value)!r} is not known; choose one of {some}")
    return value


def number_below(name: str, value: Any, count: int) -> int:
    """`value` as a whole number from 0 to `count` - 1; an error that names it otherwise."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not count:
        raise ValueError(f"{name}={value}: only their mean was kept, to save memory; use None")
    if not 0 <= number < count:
        raise ValueError(f"{name}={value} must lie in 0 ... {count - 1}; try 0")
    return number
