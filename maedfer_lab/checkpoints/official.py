"""Names and arguments of official checkpoints, mapped to ours and back; VideoMAE's of transformers.

Official names: `encoder.` in front of encoder parameters when pre-training, nothing when
fine-tuning; `q.weight` and `kv.weight` apart in LGI-Former's attention, one `qkv.weight` in joint
attention. Ours hold one `qkv.weight` everywhere; keys have no bias in either.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, TargetConfig
from maedfer_lab.method.models import Classifier, MaskedAutoencoder, Tokens

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


# --- names of transformers' VideoMAE ----------------------------------------------------------

# VideoMAEForPreTraining and VideoMAEForVideoClassification (src/transformers/models/videomae):
# the same architecture, with queries, keys and values apart and biases of either of two spellings.
HUGGING_FACE = re.compile(r"(videomae\.)?(encoder\.layer\.\d|embeddings\.patch_embeddings\.)")
HUGGING_PARTS = (
    (r"^videomae\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^decoder\.decoder_layers\.", "decoder.blocks."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.attention\.attention\.(query\.bias|q_bias)$", ".attn.q_bias"),
    (r"\.attention\.attention\.(value\.bias|v_bias)$", ".attn.v_bias"),
    (r"\.attention\.attention\.", ".attn."),
)
OF_ENCODER = ("patch_embed.", "blocks.", "norm.")


def from_hugging_face(state: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of transformers' VideoMAE under official names; q, k and v matrices joined."""
    named: dict[str, Any] = {}
    for name, value in state.items():
        for pattern, plain in HUGGING_PARTS:
            name = re.sub(pattern, plain, name)
        named[name] = value
    is_pretraining = any(name.startswith("decoder.") for name in named)
    found: dict[str, Any] = {}
    for name, value in named.items():
        stem, _, part = name.rpartition("attn.")
        parts = [named.get(f"{stem}attn.{one}.weight") for one in ("query", "key", "value")]
        matrices = [x for x in parts if isinstance(x, Tensor)]
        is_whole = len(matrices) == 3 and len({x.shape for x in matrices}) == 1
        if is_whole and part in ("query.weight", "key.weight", "value.weight"):
            if part != "query.weight":
                continue
            name, value = f"{stem}attn.qkv.weight", torch.cat(matrices)
        is_encoder = is_pretraining and name.startswith(OF_ENCODER)
        found[f"encoder.{name}" if is_encoder else name] = value
    return found


def read_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json of transformers' VideoMAE tells, in our names."""
    if config.get("model_type") != "videomae":
        raise ValueError(f"model_type={short(config.get('model_type'))} must be 'videomae'")
    told: dict[str, Any] = {}
    names = {"frames": "num_frames", "size_px": "image_size", "num_heads": "num_attention_heads",
             "decoder_heads": "decoder_num_attention_heads"}  # fmt: skip
    for ours, name in names.items():
        told[ours] = integer(config.get(name, VIDEOMAE[ours]))
    units = "cube" if config.get("norm_pix_loss", True) else "pixel"
    return told | {"target": TargetConfig(units=units, motion=False)}


# What VideoMAEConfig takes where its config.json does not say.
VIDEOMAE = {"frames": 16, "size_px": 224, "num_heads": 12, "decoder_heads": 6}


# --- arguments --------------------------------------------------------------------------------

CLASSIFIED: dict[str, Tokens] = {"region": "rep", "org": "tokens", "all": "all"}

# Where the official scripts (first) and constructors keep what parameters do not tell.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "frames": ("num_frames", "all_frames"),
    "size_px": ("input_size", "img_size"),
    "num_heads": ("encoder_num_heads", "num_heads"),
    "decoder_heads": ("decoder_num_heads",),
}


class _Short(reprlib.Repr):
    def repr_instance(self, x: object, level: int) -> str:
        return f"<{type(x).__name__}>"


def short(value: object) -> str:
    """A foreign value for a message: as `repr`, never long and never without end."""
    return _Short().repr(value)


def integer(value: object) -> int:
    """A whole number that a file names; ValueError where it is none, or out of all reason."""
    value = value[0] if isinstance(value, list | tuple) and value else value
    try:
        number = int(value) if isinstance(value, int | float | str) else None
    except OverflowError:
        number = None
    if number is None or abs(number) > 2**31:
        raise ValueError(f"{short(value)} is not a size")
    return number


def read_arguments(arguments: Mapping[str, Any], name: str = "args") -> dict[str, Any]:
    """What official arguments tell, in our names; what is not among them is left out.

    arguments: of the official scripts (input_size, num_frames, ...) or constructors.
    """
    told: dict[str, Any] = {}
    try:
        for ours, names in ARGUMENTS.items():
            value = next((arguments[n] for n in names if arguments.get(n) is not None), None)
            if value is not None:
                told[ours] = integer(value)
        if (region := arguments.get("lg_region_size")) is not None:
            if len(region) != 3:
                raise ValueError(
                    f"lg_region_size={short(region)} must be three numbers, as (2, 5, 10)"
                )
            told["region"] = tuple(map(integer, region))
        tokens = arguments.get("lg_classify_token_type")
        if isinstance(tokens, str) and tokens in CLASSIFIED:
            told["tokens"] = CLASSIFIED[tokens]
        if "use_frame_diff_as_target" in arguments:
            told["target"] = _target(arguments)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ValueError(f"{name}: its args do not read as official ones: {error}") from error
    return told


def _target(arguments: Mapping[str, Any]) -> TargetConfig:
    """The official target; without a weight all frames of a group count alike."""
    group = integer(arguments.get("frame_diff_group_size") or 2)
    weight = arguments.get("target_diff_weight")
    return TargetConfig(
        units="cube" if arguments.get("normlize_target", True) else "pixel",
        motion=bool(arguments["use_frame_diff_as_target"]),
        motion_group=group,
        motion_weight=(group - 1) / group if weight is None else float(weight),
    )


def official_arguments(config: ModelConfig, kind: Kind) -> dict[str, Any]:
    """Official constructor arguments of our configuration, but drop path.

    A classifier's `num_classes`, `use_mean_pooling` and `lg_classify_token_type` are not part of
    the configuration.
    """
    prefix = "encoder_" if kind == "pretrain" else ""
    _, *patch = config.tubelet
    values: dict[str, Any] = {
        "img_size": config.size_px,
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        f"{prefix}embed_dim": config.width,
        f"{prefix}depth": config.depth,
        f"{prefix}num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "tubelet_size": config.tubelet[0],
        "all_frames": config.frames,
        "attn_type": "local_global" if config.encoder == "lgi" else "joint",
        "lg_region_size": list(config.region),
        "lg_first_attn_type": config.local,
        "lg_third_attn_type": "self" if config.interact == "self" else "cross",
        "lg_attn_param_sharing_first_third": config.shared == "local_interact",
        "lg_attn_param_sharing_all": config.shared == "all",
        "lg_no_second": not config.inter,
        "lg_no_third": config.interact == "none",
    }
    if kind == "pretrain":
        values |= {
            "decoder_embed_dim": config.decoder_width,
            "decoder_depth": config.decoder_depth,
            "decoder_num_heads": config.decoder_heads,
            "decoder_num_classes": 3 * math.prod(config.tubelet),
        }
    return values


def arguments_of(model: MaskedAutoencoder | Classifier) -> dict[str, Any]:
    """Official constructor arguments of a model."""
    if isinstance(model, MaskedAutoencoder):
        return official_arguments(model.config, "pretrain")
    official_tokens = {ours: official for official, ours in CLASSIFIED.items()}
    return {
        **official_arguments(model.config, "finetune"),
        "num_classes": model.head.out_features,
        "use_mean_pooling": model.pooling == "mean",
        "lg_classify_token_type": official_tokens[model.tokens],
    }
