"""Your own encoders and targets, registered by name, so that a configuration can name them.

A configuration records where a name is defined and a digest of its source (`extension`), so that
changed code gives another run, and a run folder says what to import before it is loaded.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Kind = Literal["encoder", "target"]
Made = TypeVar("Made", bound=Callable[..., Any])
BUILT_IN: dict[Kind, tuple[str, ...]] = {"encoder": ("lgi", "vit"), "target": ("",)}


@dataclass(frozen=True)
class Own:
    """What is registered: `make`, whether an encoder has representative tokens, and `_digest`."""

    make: Callable[..., Any]
    has_regions: bool = False
    digest: str = ""


_KNOWN: dict[tuple[Kind, str], Own] = {}


def register_encoder(name: str, *, has_regions: bool = False) -> Callable[[Made], Made]:
    """Decorate a class or function (ModelConfig) -> nn.Module with the interface of `Encoder`.

    has_regions: it has representative tokens and works region by region, as LGI-Former; masks are
    then region-balanced, and `ModelConfig.region` is used. ValueError for a built-in name.
    """
    return _register("encoder", name, has_regions)


def register_target(name: str) -> Callable[[Made], Made]:
    """Decorate a function: clip (b 3 T H W) in [0, 1], tubelet -> targets (b n p) of all tokens."""
    return _register("target", name, False)


def _register(kind: Kind, name: str, has_regions: bool) -> Callable[[Made], Made]:
    if name in BUILT_IN[kind] or not isinstance(name, str) or not name.isprintable():
        raise ValueError(f"{kind}={name!r} is taken or no name; choose another, such as 'mine'")

    def keep(made: Made) -> Made:
        # Replaced by a cell that runs again; of the code as it is loaded, which a file may outrun.
        _KNOWN[kind, name] = Own(made, has_regions, _digest(made))
        return made

    return keep


def find_own(kind: Kind, name: str) -> Own | None:
    """What is registered under a name; None for built-in ones; ValueError if unknown."""
    if name in BUILT_IN[kind]:
        return None
    if (kind, name) not in _KNOWN:
        known = ", ".join(filter(None, [*BUILT_IN[kind], *(n for k, n in _KNOWN if k == kind)]))
        raise ValueError(
            f"{kind}={name!r} is not known; choose one of {known or 'none yet'}, or import the "
            f"module that registers it (@register_{kind}({name!r}))"
        )
    return _KNOWN[kind, name]


def extension_of(kind: Kind, name: str, kept: str = "") -> str:
    """Where a name comes from and the digest of its source, "module:object@digest"; "" if built in.

    kept: what a configuration recorded before. A name that is not registered raises ValueError with
    the module to import; source that has changed since gives a warning.
    """
    home = kept.partition("@")[0]
    try:
        own = find_own(kind, name)
    except ValueError as error:
        module = home.partition(":")[0]
        if not module:
            raise
        first = "run its cell or script" if module == "__main__" else f"`import {module}` first"
        raise ValueError(f"{kind}={name!r} was registered by {home}: {first}") from error
    if own is None:
        return ""
    found = f"{own.make.__module__}:{own.make.__qualname__}"
    if not own.digest:
        what = "has no readable source, which tells runs apart; put it into a file and import it"
        raise ValueError(f"{own.make.__qualname__} {what}")
    extension = f"{found}@{own.digest}"
    if found == home and kept != extension:
        warnings.warn(
            f"{kind}={name!r} ({found}) has changed since this configuration was written; "
            "results from here on belong to new runs",
            stacklevel=2,
        )
    return extension


def _digest(made: Callable[..., Any]) -> str:
    """Ten hexadecimal digits of the source of the module, or of the object in a script or cell."""
    source = _source(sys.modules.get(made.__module__) if made.__module__ != "__main__" else None)
    source = source or _source(made)
    if source is None and inspect.isclass(made):  # a cell's classes hide their own source
        source = "".join(filter(None, (_source(part) for part in vars(made).values())))
    return hashlib.sha256(source.encode()).hexdigest()[:10] if source else ""


def _source(thing: Any) -> str | None:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return None
