"""Configuration of a model and of its prediction targets."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from maedfer_lab.config.own import extension_of, find_own

Shape3 = tuple[int, int, int]


def choose(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of `known`; else raise an error that lists them."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    return value


MOST = 10**9  # of a count without a bound of its own
LARGEST, DEEPEST, MOST_WORKERS = 2**14, 1024, 256  # a side or width; blocks; processes
MOST_PARAMETERS, MOST_VALUES = 10**10, 2**28  # of all blocks; of a clip and of its tokens


def check_counts(most: int = MOST, /, **counts: int) -> None:
    """Raise, with its name, for a count that is not a whole number in [1, most]."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value} must be at least 1, and a whole number")
        if value > most:
            raise ValueError(f"{name}={value} must be at most {most:,}")


def check_fields(config: object, **rules: int | str) -> None:
    """Check a configuration by the types of its fields: choices, counts, shapes; others by a rule.

    rules: an interval and a hint, "(0, 1]; published is 0.75", or the largest allowed count.
    """
    for name, kind in types_of(type(config)).items():
        if getattr(config, name) is None and type(None) in get_args(kind):
            continue
        value, rule = getattr(config, name), rules.get(name, MOST)
        if isinstance(rule, str):
            interval, _, hint = rule.partition("; ")
            low, high = map(float, interval[1:-1].split(", "))
            inside = isinstance(value, int | float) and low <= value <= high
            inside &= value not in [low] * (interval[0] == "(") + [high] * (interval[-1] == ")")
            if not inside:
                raise ValueError(f"{name}={value} must lie in {interval}{hint and f'; {hint}'}")
        elif kind in (int, int | None):
            check_counts(rule, **{name: value})
        elif kind == Shape3:
            check_triple(name, value)
        elif get_origin(kind) is Literal and kind != Framing:
            choose(name, value, get_args(kind))


@functools.cache
def types_of(cls: type) -> dict[str, Any]:
    """The types of a configuration's fields."""
    return get_type_hints(cls)


def check_workers(workers: int) -> None:
    """Raise for an unreasonable number of worker processes."""
    if not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers={workers} must lie in [0, {MOST_WORKERS}]; 0 is this process")


def check_triple(name: str, value: object) -> None:
    """Raise unless `value` is a shape (t, h, w)."""
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(f"{name}={value} must be three numbers (t, h, w), such as (2, 5, 10)")
    check_counts(LARGEST, **{f"{name}[{i}]": side for i, side in enumerate(value)})


# What part of a picture a clip shows.
# whole: all of it, stretched to a square (for single videos, its central square).
# face, also called wide: a square around the face, from chin to hair with some background.
# voxceleb2: that data set's frames; for other videos a square that is as tight around the face.
# official: the part of such a frame that the official code pre-trains on, just the face.
Framing = Literal["whole", "face", "wide", "voxceleb2", "official"]


def choose_framing(framing: str, *known: Framing) -> Framing:
    """Return `framing` as `known` calls it ("face" and "wide" are one); else raise, as `choose`."""
    twin = {"face": "wide", "wide": "face"}.get(framing)
    return choose("framing", twin if twin in known and framing not in known else framing, known)  # type: ignore


PositionKind = Literal["sequence", "grid"]
EncoderKind = Literal["lgi", "vit"]
LocalKind = Literal["self", "cross"]
InteractKind = Literal["cross", "self", "none"]
SharedKind = Literal["none", "local_interact", "all"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. The defaults are the paper's LGI-Former (85M parameters, 50 GMACs).

    frames, size_px, tubelet: the clip, `frames` x `size_px` x `size_px`, and its cubes (t, h, w).
    encoder: "lgi" (LGI-Former), "vit" (joint attention over all tokens: VideoMAE), or the name of
        your own (`register_encoder`).
    region: local region in tokens (t, h, w); any shape that divides the token grid.
    local, inter, interact: the three stages of an LGI-Former block. `local="cross"` updates only
        the representative token; `inter=False` omits stage 2; `interact="self"` repeats the
        local self-attention instead of stage 3, "none" omits it.
    shared: attention parameters used by several stages of a block.
    positions: fixed sinusoids over the token index ("sequence", as in the official code), or over
        its position in t, h and w ("grid").
    drop_path: of the last block; grows linearly from 0 at the first.
    extension: where your own encoder is defined and a digest of its source; set automatically.
    """

    frames: int = 16
    size_px: int = 160
    tubelet: Shape3 = (2, 16, 16)
    encoder: str = "lgi"
    region: Shape3 = (2, 5, 10)
    width: int = 512
    depth: int = 16
    num_heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    local: LocalKind = "self"
    inter: bool = True
    interact: InteractKind = "cross"
    shared: SharedKind = "none"
    positions: PositionKind = "sequence"
    drop_path: float = 0.0
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    legacy_visible_order: bool = False
    extension: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extension", extension_of("encoder", self.encoder, self.extension))
        sides = ("frames", "size_px", "width", "decoder_width", "num_heads", "decoder_heads")
        deep = f"[0, {DEEPEST}]; the paper has 16 and 4"
        check_fields(self, **dict.fromkeys(sides, LARGEST), mlp_ratio="[0.01, 64]", depth=deep,
                     decoder_depth=deep, drop_path="[0, 1); the paper uses 0.1")  # fmt: skip
        for width, heads in (("width", "num_heads"), ("decoder_width", "decoder_heads")):
            w, h = getattr(self, width), getattr(self, heads)
            if w % h:
                good = h * max(1, w // h)
                raise ValueError(f"{width}={w} must be a multiple of {heads}={h}, such as {good}")
        # Sizes that no machine could handle are refused before anything is allocated.
        pixels = self.frames * self.size_px**2
        tokens = pixels // math.prod(self.tubelet)
        wide = max(self.width, self.decoder_width)
        if max(3 * pixels, tokens * wide) > MOST_VALUES:
            raise ValueError(
                f"a clip of {self.frames} x {self.size_px} x {self.size_px} in tokens of width "
                f"{wide} holds more than {MOST_VALUES:,} values; use fewer frames or a smaller size"
            )
        blocks = self.depth * self.width**2 + self.decoder_depth * self.decoder_width**2
        if (count := blocks * (4 + 2 * self.mlp_ratio)) > MOST_PARAMETERS:
            raise ValueError(
                f"depth={self.depth} and width={self.width} make {count:,.0f} parameters, more "
                f"than {MOST_PARAMETERS:,}; the paper's model has 85 million"
            )

    @property
    def has_regions(self) -> bool:
        """Whether the encoder has local regions with representative tokens."""
        own = find_own("encoder", self.encoder)
        return self.encoder == "lgi" if own is None else own.has_regions


TargetUnits = Literal["cube", "pixel", "imagenet"]


@dataclass(frozen=True)
class TargetConfig:
    """What the decoder predicts for hidden cubes, and how the loss weighs it.

    units: "cube", every cube first normalised by its own mean and standard deviation (the official
        code and weights); "pixel", raw pixels in [0, 1] (the formula as the paper writes it);
        "imagenet", raw pixels in units of ImageNet's deviation, a scale that suits small runs.
    motion: predict the motion of the later frames of a group instead of their pixels; False is
        VideoMAE, which predicts the pixels of every frame.
    motion_group: frames that share one appearance frame: 2 in the paper (even frames are
        appearance, odd minus even is motion).
    motion_weight: 1 - lambda of the paper: loss = lambda appearance + (1 - lambda) motion.
    motion_scale: factor of the motion targets (paper: 1); a larger one helps short runs.
    function: name of your own target (`register_target`), instead of pixels and motion; the loss is
        then its plain mean squared error (reported as "appearance"), and `motion` is False.
    extension: where that is defined and a digest of its source; set automatically.
    """

    units: TargetUnits = "cube"
    motion: bool = True
    motion_group: int = 2
    motion_weight: float = 0.5
    motion_scale: float = 1.0
    function: str = ""
    extension: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extension", extension_of("target", self.function, self.extension))
        if self.function:  # it has no motion frames
            object.__setattr__(self, "motion", False)
        check_fields(self, motion_group=f"[2, {LARGEST}]; the paper's is 2",
                     motion_weight="[0, 1]; try 0.5",
                     motion_scale="[1e-06, 1e6]; the paper's is 1")  # fmt: skip
