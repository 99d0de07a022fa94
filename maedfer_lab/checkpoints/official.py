"""Names and layout of official checkpoints, mapped to ours and back.

Official names: `encoder.` in front of encoder parameters when pre-training, nothing when
fine-tuning; `q.weight` and `kv.weight` apart in LGI-Former's attention, one `qkv.weight` in joint
attention. Ours hold one `qkv.weight` everywhere; keys have no bias in either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig
from maedfer_lab.method.models import Classifier, MaskedAutoencoder

Kind = Literal["pretrain", "finetune"]
State = Mapping[str, Tensor]

# Parts of names, ours -> official, of a block of LGI-Former.
LGI_PARTS = {
    "local_norm": "first_attn_norm0",
    "local_context_norm": "first_attn_norm1",
    "local_attn": "first_attn",
    "inter_norm": "second_attn_norm0",
    "inter_attn": "second_attn",
    "interact_norm": "third_attn_norm0",
    "interact_context_norm": "third_attn_norm1",
    "interact_attn": "third_attn",
}
# Parameters of a block with as many rows as the model is wide, and as its FFN is.
OF_WIDTH, OF_HIDDEN = r"(norm2\.weight|norm2\.bias|mlp\.fc2\.bias)", r"mlp\.fc1\.(weight|bias)"
OFFICIAL_PARTS = {official: ours for ours, official in LGI_PARTS.items()}


def kind_of(state: State) -> Kind:
    """Whether a state dict with official names is of pre-training or of a classifier."""
    return "pretrain" if any(name.startswith(("decoder.", "encoder.")) for name in state) else (
        "finetune"
    )  # fmt: skip


def our_name(official: str, kind: Kind) -> str:
    """Our name of an official parameter; `q` and `kv` are both named `qkv`."""
    name = official
    if kind == "pretrain":
        if name == "mask_token":
            return "decoder.mask_token"
        if name == "encoder_to_decoder.weight":
            return "decoder.embed.weight"
        if name.startswith("decoder."):
            return name
        if name.startswith("encoder.norm."):
            return name.removeprefix("encoder.")
        name = name.removeprefix("encoder.")
    elif name.startswith(("fc_norm.", "head.")):
        return name
    elif name.startswith("norm."):
        return f"fc_{name}"  # pooling of the first token: a LayerNorm called norm
    if name == "lg_region_tokens":
        return "encoder.rep_tokens"
    if name.startswith("patch_embed."):
        return "encoder.embed." + name.removeprefix("patch_embed.")
    parts = [OFFICIAL_PARTS.get(part, part) for part in name.split(".")]
    return "encoder." + re.sub(r"\.(q|kv)\.weight$", ".qkv.weight", ".".join(parts))


def from_official(state: State, kind: Kind) -> dict[str, Tensor]:
    """Parameters under our names; query and key-value matrices joined."""
    ours: dict[str, Tensor] = {}
    for official, value in state.items():
        name = our_name(official, kind)
        if official.endswith(".kv.weight") and official.replace(".kv.", ".q.") in state:
            continue
        if official.endswith(".q.weight") and official.replace(".q.", ".kv.") in state:
            value = torch.cat([value, state[official.replace(".q.", ".kv.")]])
        ours[name] = value
    return ours


def to_official(model: MaskedAutoencoder | Classifier) -> dict[str, Tensor]:
    """State dict in the official names, shapes and order; values bit for bit ours."""
    kind: Kind = "pretrain" if isinstance(model, MaskedAutoencoder) else "finetune"
    state = {name: x.detach() for name, x in model.state_dict().items()}
    official: dict[str, Tensor] = {}
    for name in _official_order(model):
        for part, value in _official_entries(name, state[name], kind, model):
            official[part] = value
    return official


def _official_entries(
    name: str, value: Tensor, kind: Kind, model: nn.Module
) -> list[tuple[str, Tensor]]:
    prefix = "encoder." if kind == "pretrain" else ""
    if name == "decoder.mask_token":
        return [("mask_token", value)]
    if name == "decoder.embed.weight":
        return [("encoder_to_decoder.weight", value)]
    if name.startswith("norm."):
        return [(f"encoder.{name}", value)]
    if name.startswith("fc_norm.") and getattr(model, "pooling", "mean") == "first":
        return [(name.removeprefix("fc_"), value)]
    if name.startswith(("decoder.", "fc_norm.", "head.")):
        return [(name, value)]
    name = name.removeprefix("encoder.")
    if name == "rep_tokens":
        return [(f"{prefix}lg_region_tokens", value)]
    if name.startswith("embed."):
        return [(f"{prefix}patch_embed." + name.removeprefix("embed."), value)]
    parts = name.split(".")
    official = prefix + ".".join(LGI_PARTS.get(part, part) for part in parts)
    if name.endswith(".qkv.weight") and parts[2] != "attn":
        width = value.shape[1]
        stem = official.removesuffix("qkv.weight")
        return [(f"{stem}q.weight", value[:width]), (f"{stem}kv.weight", value[width:])]
    return [(official, value)]


def _official_order(model: MaskedAutoencoder | Classifier) -> list[str]:
    """Our names in the order in which the official code lists the same parameters."""
    groups = {"decoder.mask_token": 0, "encoder.rep_tokens": 1, "encoder.embed": 2,
              "encoder.blocks": 3, "norm": 4, "decoder": 5, "fc_norm": 6, "head": 7,
              "decoder.embed": 9}  # fmt: skip
    # Within an attention the official code lists q_bias and v_bias before the matrices.
    parts = {"q_bias": 0, "v_bias": 1, "qkv": 2, "proj": 3}
    starts: dict[str, int] = {}
    keys: dict[str, tuple[int, int, int, int]] = {}
    for index, name in enumerate(model.state_dict()):
        module, _, rest = name.partition(".")
        group = groups.get(f"{module}.{rest.partition('.')[0]}", groups.get(module, 8))
        attention, found, part = name.rpartition("attn.")
        start = starts.setdefault(attention, index) if found else index
        keys[name] = (group, start, parts[part.partition(".")[0]] if found else 0, index)
    return sorted(keys, key=keys.__getitem__)


def infer_model(
    state: State,
    *,
    frames: int = 16,
    size_px: int = 160,
    region: tuple[int, int, int] = (2, 5, 10),
    num_heads: int | None = None,
    decoder_heads: int | None = None,
) -> ModelConfig:
    """The model whose parameters these are, as far as names and shapes tell.

    What they do not tell is given: clip size, region shape, numbers of heads (by default heads
    of 64 channels, as in all published models). Decoder fields keep their defaults for classifiers.
    Sizes are those of most blocks, so that a single entry that is missing or has a wrong shape is
    found by comparing with the model, not taken for another model. ValueError without blocks or
    tubelet embedding.
    """
    kind = kind_of(state)
    prefix = "encoder." if kind == "pretrain" else ""
    width, hidden = _usual_rows(state, prefix, OF_WIDTH), _usual_rows(state, prefix, OF_HIDDEN)
    if not width or not hidden:
        raise ValueError(
            f"{len(state)} parameters, such as {sorted(state)[:3]}, are none of these models: a "
            f"checkpoint names {prefix}blocks.0.norm2.weight and {prefix}patch_embed.proj.weight"
        )
    embed = state.get(f"{prefix}patch_embed.proj.weight")
    if embed is None or embed.ndim != 5:
        has = "not in the file" if embed is None else f"{tuple(embed.shape)} in the file"
        raise ValueError(
            f"{prefix}patch_embed.proj.weight: {has}; a model has ({width}, 3, t, h, w), and its "
            "cubes cannot be known otherwise"
        )
    tubelet = embed.shape[2:]
    names = {n.split(".", 2 + bool(prefix))[-1] for n in state if n.startswith(f"{prefix}blocks.")}
    is_lgi = "first_attn.proj.weight" in names
    has_third = "third_attn_norm0.weight" in names
    third = "cross" if "third_attn_norm1.weight" in names else "self"
    decoder: dict[str, Any] = {}
    if kind == "pretrain":
        decoder_width = _usual_rows(state, "decoder.", OF_WIDTH) or ModelConfig().decoder_width
        decoder = {
            "decoder_width": decoder_width,
            "decoder_depth": _count_blocks(state, "decoder."),
            "decoder_heads": decoder_heads or max(1, decoder_width // 64),
        }
    depth = _count_blocks(state, prefix)
    return ModelConfig(
        frames=frames,
        size_px=size_px,
        tubelet=(tubelet[0], tubelet[1], tubelet[2]),
        encoder="lgi" if is_lgi else "vit",
        region=region,
        width=width,
        depth=depth,
        num_heads=num_heads or max(1, width // 64),
        mlp_ratio=hidden / width,
        qkv_bias=("first_attn.q_bias" if is_lgi else "attn.q_bias") in names,
        local="cross" if "first_attn_norm1.weight" in names else "self",
        inter=not is_lgi or "second_attn_norm0.weight" in names,
        interact="cross" if not is_lgi else third if has_third else "none",
        shared=_shared(state, prefix, depth) if is_lgi else "none",
        legacy_visible_order=kind == "pretrain" and is_lgi,
        **decoder,
    )


def _usual_rows(state: State, prefix: str, pattern: str) -> int:
    """The most frequent number of rows among the blocks' parameters whose names match, or 0."""
    whole = re.compile(re.escape(f"{prefix}blocks.") + r"\d+\." + pattern)
    rows = Counter(x.shape[0] for name, x in state.items() if x.ndim and whole.fullmatch(name))
    return rows.most_common(1)[0][0] if rows else 0


def _count_blocks(state: State, prefix: str) -> int:
    pattern = re.compile(re.escape(f"{prefix}blocks.") + r"(\d+)\.")
    return len({m[1] for name in state if (m := pattern.match(name))})


def _shared(state: State, prefix: str, depth: int) -> Literal["none", "local_interact", "all"]:
    """Which stages hold the same attention parameters: aliases are stored under every name."""

    def same(stage: str) -> bool:
        pairs = [
            (state.get(f"{prefix}blocks.{i}.first_attn.{part}"),
             state.get(f"{prefix}blocks.{i}.{stage}_attn.{part}"))
            for i in range(depth)
            for part in ("q.weight", "kv.weight", "proj.weight")
        ]  # fmt: skip
        return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)

    has_second = f"{prefix}blocks.0.second_attn.q.weight" in state
    if same("third"):
        return "all" if same("second") or not has_second else "local_interact"
    return "all" if has_second and same("second") else "none"
