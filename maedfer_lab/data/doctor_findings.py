"""A finding of `maedfer doctor`: how bad, what, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """level: "error" spoils a result, "warning" may, "note" is good to know.

    check: a few words that name what was looked at. where: the clips or lines concerned, all.
    """

    level: Level
    check: str
    message: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The message and the first few places."""
        lines = [f"{self.level.upper():<8}{self.check}: {self.message}"]
        lines += [f"          {place}" for place in self.where[:SHOWN]]
        if len(self.where) > SHOWN:
            lines.append(f"          and {len(self.where) - SHOWN:,} more")
        return "\n".join(lines)


def in_words(number: int, thing: str) -> str:
    """Number and noun: "1 clip", "2,000 clips"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names with commas, and how many more."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
