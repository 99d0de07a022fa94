"""Names and layout of official checkpoints, mapped to ours and back.

Official names: `encoder.` in front of encoder parameters when pre-training, nothing when
fine-tuning; `q.weight` and `kv.weight` apart in LGI-Former's attention, one `qkv.weight` in joint
attention. Ours hold one `qkv.weight` everywhere; keys have no bias in either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig
from maedfer_lab.method.autoencoder import MaskedAutoencoder
from maedfer_lab.method.classifier import Classifier

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
    names = list(model.state_dict())

    def rank(name: str) -> tuple[int, int]:
        parts = name.split(".")
        place = {"rep_tokens": 1, "embed": 2, "blocks": 3}
        if parts[0] == "encoder":
            return place[parts[1]], 0
        if name == "decoder.mask_token":
            return 0, 0
        if name == "decoder.embed.weight":
            return 9, 0
        return {"norm": 4, "decoder": 5, "fc_norm": 6, "head": 7}[parts[0]], 0

    # Within an attention the official code lists q_bias and v_bias before the matrices.
    first = {"q_bias": 0, "v_bias": 1, "qkv": 2, "proj": 3}

    def key(item: tuple[int, str]) -> tuple[object, ...]:
        index, name = item
        parts = name.split(".")
        group = rank(name)
        if "attn" not in name:
            return (*group, index, 0)
        start = names.index(next(n for n in names if n.startswith(_attention_of(name))))
        return (*group, start, first[parts[len(_attention_of(name).split(".")) - 1]], index)

    return [name for _, name in sorted(enumerate(names), key=key)]


def _attention_of(name: str) -> str:
    return re.sub(r"(.*?\.\w*attn\.).*", r"\1", name)


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
    """
    kind = kind_of(state)
    prefix = "encoder." if kind == "pretrain" else ""
    embed = state[f"{prefix}patch_embed.proj.weight"]
    width, tubelet = embed.shape[0], tuple(embed.shape[2:])
    depth = _count_blocks(state, prefix)
    block = f"{prefix}blocks.0."
    names = {n.removeprefix(block) for n in state if n.startswith(block)}
    is_lgi = f"{prefix}lg_region_tokens" in state
    attention = "first_attn" if is_lgi else "attn"
    has_third = "third_attn_norm0.weight" in names
    third = "cross" if "third_attn_norm1.weight" in names else "self"
    decoder = {}
    if kind == "pretrain":
        decoder_width = state["decoder.norm.weight"].shape[0]
        decoder = {
            "decoder_width": decoder_width,
            "decoder_depth": _count_blocks(state, "decoder."),
            "decoder_heads": decoder_heads or max(1, decoder_width // 64),
        }
    fc1 = state[f"{block}mlp.fc1.weight"]
    return ModelConfig(
        frames=frames,
        size_px=size_px,
        tubelet=(tubelet[0], tubelet[1], tubelet[2]),
        encoder="lgi" if is_lgi else "vit",
        region=region,
        width=width,
        depth=depth,
        num_heads=num_heads or max(1, width // 64),
        mlp_ratio=fc1.shape[0] / fc1.shape[1],
        qkv_bias=f"{attention}.q_bias" in names,
        local="cross" if "first_attn_norm1.weight" in names else "self",
        inter=not is_lgi or "second_attn_norm0.weight" in names,
        interact="cross" if not is_lgi else third if has_third else "none",
        shared=_shared(state, prefix, depth) if is_lgi else "none",
        legacy_visible_order=kind == "pretrain" and is_lgi,
        **decoder,
    )


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
