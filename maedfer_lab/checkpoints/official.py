"""Names and arguments of official checkpoints for our models; VideoMAE's of transformers.

In pre-training names start with `encoder.`; LGI-Former's attention has separate `q.weight` and
`kv.weight`. Ours have one `qkv.weight` everywhere; keys have no bias in either.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from maedfer_lab.config import ModelConfig, TargetConfig
from maedfer_lab.method.models import Classifier, MaskedAutoencoder, Tokens

State = Mapping[str, Tensor]
Model = MaskedAutoencoder | Classifier

# Parts of encoder names, ours -> official; whole names of the decoder.
PARTS = {
    "embed": "patch_embed", "rep_tokens": "lg_region_tokens",
    "local_norm": "first_attn_norm0", "local_context_norm": "first_attn_norm1",
    "local_attn": "first_attn", "inter_norm": "second_attn_norm0", "inter_attn": "second_attn",
    "interact_norm": "third_attn_norm0", "interact_context_norm": "third_attn_norm1",
    "interact_attn": "third_attn",
}  # fmt: skip
DECODER = {"decoder.mask_token": "mask_token", "decoder.embed.weight": "encoder_to_decoder.weight"}
# The order in which the official code lists modules, and an attention's parameters.
ORDER = {"decoder.mask_token": 0, "encoder.rep_tokens": 1, "encoder.embed": 2, "encoder.blocks": 3,
         "norm": 4, "decoder": 5, "fc_norm": 6, "head": 7, "decoder.embed": 9}  # fmt: skip
ATTENTION_ORDER = {"q_bias": 0, "v_bias": 1, "qkv": 2, "proj": 3}
# A block's parameters with as many rows as the model's width, and as the FFN's.
OF_WIDTH, OF_HIDDEN = r"(norm2\.weight|norm2\.bias|mlp\.fc2\.bias)", r"mlp\.fc1\.(weight|bias)"


def _official_name(name: str, model: Model) -> str:
    if name in DECODER:
        return DECODER[name]
    if name.startswith("fc_norm.") and getattr(model, "pooling", "") == "first":
        return name.removeprefix("fc_")
    if name.startswith(("decoder.", "fc_norm.", "head.")):
        return name
    name = ".".join(PARTS.get(part, part) for part in name.removeprefix("encoder.").split("."))
    return f"encoder.{name}" if isinstance(model, MaskedAutoencoder) else name


def to_official(model: Model) -> dict[str, Tensor]:
    """State dict in the official names, shapes and order: views of the model's own parameters."""
    state = {name: x.detach() for name, x in model.state_dict().items()}
    starts: dict[str, int] = {}
    places: dict[str, tuple[int, int, int, int]] = {}
    for index, name in enumerate(state):
        module, _, rest = name.partition(".")
        group = ORDER.get(f"{module}.{rest.partition('.')[0]}", ORDER.get(module, 8))
        attention, found, part = name.rpartition("attn.")
        start = starts.setdefault(attention, index) if found else index
        part = ATTENTION_ORDER[part.partition(".")[0]] if found else 0
        places[name] = (group, start, part, index)
    official: dict[str, Tensor] = {}
    for name in sorted(places, key=places.__getitem__):
        theirs, value = _official_name(name, model), state[name]
        stem = theirs.removesuffix("qkv.weight")
        if stem != theirs and re.search(r"(first|second|third)_attn\.$", stem):
            width = value.shape[1]
            official[f"{stem}q.weight"] = value[:width]
            official[f"{stem}kv.weight"] = value[width:]
        else:
            official[theirs] = value
    return official


def infer_model(state: State, is_pretraining: bool, **given: Any) -> ModelConfig:
    """The model with these parameters, as far as names and shapes imply it.

    given: the rest: clip, region, heads (by default those of the published models).

    Sizes are those of most blocks, so that a single wrong entry is found by comparing with the
    model, not taken for another model. ValueError without blocks or tubelet embedding.
    """
    prefix = "encoder." if is_pretraining else ""
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
    names = {n.split(".", 2 + bool(prefix))[-1] for n in state if n.startswith(f"{prefix}blocks.")}
    found: dict[str, Any] = {"encoder": "vit", "qkv_bias": "attn.q_bias" in names}
    depth = _count_blocks(state, prefix)
    if "first_attn.proj.weight" in names:
        third = "cross" if "third_attn_norm1.weight" in names else "self"
        found = {
            "encoder": "lgi",
            "qkv_bias": "first_attn.q_bias" in names,
            "local": "cross" if "first_attn_norm1.weight" in names else "self",
            "inter": "second_attn_norm0.weight" in names,
            "interact": third if "third_attn_norm0.weight" in names else "none",
            "shared": _shared(state, prefix, depth),
            "legacy_visible_order": is_pretraining,
        }
    if is_pretraining:
        decoder = _usual_rows(state, "decoder.", OF_WIDTH) or ModelConfig().decoder_width
        found |= {"decoder_width": decoder, "decoder_heads": _heads(decoder),
                  "decoder_depth": _count_blocks(state, "decoder.")}  # fmt: skip
    found |= {"width": width, "depth": depth, "num_heads": _heads(width),
              "mlp_ratio": hidden / width, "tubelet": tuple(embed.shape[2:])}  # fmt: skip
    return ModelConfig(**{**found, **given})


def _heads(width: int) -> int:
    """Of VideoMAE's huge and giant models 16; all others have 64 channels each."""
    return {1280: 16, 1408: 16}.get(width, max(1, width // 64))


def _usual_rows(state: State, prefix: str, pattern: str) -> int:
    """The most frequent number of rows among the blocks' parameters whose names match, or 0."""
    whole = re.compile(re.escape(f"{prefix}blocks.") + r"\d+\." + pattern)
    rows = Counter(x.shape[0] for name, x in state.items() if x.ndim and whole.fullmatch(name))
    return rows.most_common(1)[0][0] if rows else 0


def _count_blocks(state: State, prefix: str) -> int:
    pattern = re.compile(re.escape(f"{prefix}blocks.") + r"(\d+)\.")
    return len({m[1] for name in state if (m := pattern.match(name))})


def _shared(state: State, prefix: str, depth: int) -> Literal["none", "local_interact", "all"]:
    """Which stages have the same attention parameters: aliases are stored under every name."""

    def same(stage: str) -> bool:
        pairs = ([state.get(f"{prefix}blocks.{i}.{one}_attn.{part}.weight")
                  for one in ("first", stage)] for i in range(depth)
                 for part in ("q", "kv", "proj"))  # fmt: skip
        return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)

    has_second = f"{prefix}blocks.0.second_attn.q.weight" in state
    if same("third"):
        return "all" if same("second") or not has_second else "local_interact"
    return "all" if has_second and same("second") else "none"


# --- transformers' VideoMAE: the same architecture under other names --------------------------

# VideoMAEForPreTraining and VideoMAEForVideoClassification (src/transformers/models/videomae):
# separate queries, keys and values, and two spellings of biases.
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
# Defaults of VideoMAEConfig for values missing in its config.json, and their names.
VIDEOMAE = {"frames": ("num_frames", 16), "size_px": ("image_size", 224),
            "num_heads": ("num_attention_heads", 12),
            "decoder_heads": ("decoder_num_attention_heads", 6)}  # fmt: skip


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
        is_encoder = is_pretraining and name.startswith(("patch_embed.", "blocks.", "norm."))
        found[f"encoder.{name}" if is_encoder else name] = value
    return found


def read_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a config.json of transformers' VideoMAE, under our names."""
    if config.get("model_type") != "videomae":
        raise ValueError(f"model_type={short(config.get('model_type'))} must be 'videomae'")
    if (act := config.get("hidden_act", "gelu")) != "gelu":
        raise ValueError(f"hidden_act={short(act)} must be 'gelu', the only one that is built here")
    settings: dict[str, Any] = {
        ours: integer(config.get(name, default)) for ours, (name, default) in VIDEOMAE.items()
    }
    units = "cube" if config.get("norm_pix_loss", True) else "pixel"
    return settings | {"target": TargetConfig(units=units, motion=False)}


# --- arguments --------------------------------------------------------------------------------

CLASSIFIED: dict[str, Tokens] = {"region": "rep", "org": "tokens", "all": "all"}
# Where the official scripts (first) and constructors store settings that parameters do not imply.
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
    """A foreign value for a message: as `repr`, but always short."""
    return _Short().repr(value)


def integer(value: object) -> int:
    """A whole number from a file; ValueError if it is none, or unreasonable."""
    value = value[0] if isinstance(value, list | tuple) and value else value
    try:
        number = int(value) if isinstance(value, int | float | str) else None
    except OverflowError:
        number = None
    if number is None or abs(number) > 2**31:
        raise ValueError(f"{short(value)} is not a size")
    return number


def read_arguments(arguments: Mapping[str, Any], name: str = "args") -> dict[str, Any]:
    """Settings in official arguments, under our names; missing ones are left out.

    arguments: of the official scripts (input_size, num_frames, ...) or constructors.
    """
    settings: dict[str, Any] = {}
    try:
        for ours, names in ARGUMENTS.items():
            value = next((arguments[n] for n in names if arguments.get(n) is not None), None)
            if value is not None:
                settings[ours] = integer(value)
        if (region := arguments.get("lg_region_size")) is not None:
            if len(region) != 3:
                raise ValueError(f"lg_region_size={short(region)} must be three numbers, as 2 5 10")
            settings["region"] = tuple(map(integer, region))
        tokens = arguments.get("lg_classify_token_type")
        if isinstance(tokens, str) and tokens in CLASSIFIED:
            settings["tokens"] = CLASSIFIED[tokens]
        if "use_frame_diff_as_target" in arguments:
            group = integer(arguments.get("frame_diff_group_size") or 2)
            weight = arguments.get("target_diff_weight")
            settings["target"] = TargetConfig(
                units="cube" if arguments.get("normlize_target", True) else "pixel",
                motion=bool(arguments["use_frame_diff_as_target"]),
                motion_group=group,  # without a weight all frames of a group count equally
                motion_weight=(group - 1) / group if weight is None else float(weight),
            )
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ValueError(f"{name}: its args do not read as official ones: {error}") from error
    return settings


def arguments_of(model: Model) -> dict[str, Any]:
    """Official constructor arguments of a model, except drop path."""
    c, is_pretraining = model.config, isinstance(model, MaskedAutoencoder)
    prefix, (cube, *patch) = "encoder_" if is_pretraining else "", c.tubelet
    values: dict[str, Any] = {
        "img_size": c.size_px, "patch_size": patch[0] if patch[0] == patch[1] else patch,
        "tubelet_size": cube, "all_frames": c.frames, f"{prefix}embed_dim": c.width,
        f"{prefix}depth": c.depth, f"{prefix}num_heads": c.num_heads, "mlp_ratio": c.mlp_ratio,
        "qkv_bias": c.qkv_bias, "attn_type": "local_global" if c.encoder == "lgi" else "joint",
        "lg_region_size": list(c.region), "lg_first_attn_type": c.local,
        "lg_third_attn_type": "self" if c.interact == "self" else "cross",
        "lg_attn_param_sharing_first_third": c.shared == "local_interact",
        "lg_attn_param_sharing_all": c.shared == "all",
        "lg_no_second": not c.inter, "lg_no_third": c.interact == "none",
    }  # fmt: skip
    if isinstance(model, MaskedAutoencoder):
        return values | {
            "decoder_embed_dim": c.decoder_width, "decoder_depth": c.decoder_depth,
            "decoder_num_heads": c.decoder_heads, "decoder_num_classes": 3 * math.prod(c.tubelet),
        }  # fmt: skip
    return values | {
        "num_classes": model.head.out_features, "use_mean_pooling": model.pooling == "mean",
        "lg_classify_token_type": {ours: o for o, ours in CLASSIFIED.items()}[model.tokens],
    }  # fmt: skip
