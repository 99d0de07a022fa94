"""Constructor arguments of the official classes, mapped to our configuration and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from maedfer_lab.checkpoints.official import Kind, State, infer_model
from maedfer_lab.config import ModelConfig, Shape3, TargetConfig, choose
from maedfer_lab.method.attention import LAYER_NORM_EPS
from maedfer_lab.method.models import (
    Classifier,
    MaskedAutoencoder,
    Pooling,
    Tokens,
    build_autoencoder,
    build_classifier,
)

CLASSES: dict[str, Kind] = {
    "VisionTransformer": "finetune",
    "PretrainVisionTransformer": "pretrain",
}

_SHARED: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "mlp_ratio": 4.0,
    "qkv_bias": False,
    "tubelet_size": 2,
    "all_frames": 16,
    "attn_type": "joint",
    "lg_region_size": (2, 2, 10),
    "lg_first_attn_type": "self",
    "lg_third_attn_type": "cross",
    "lg_attn_param_sharing_first_third": False,
    "lg_attn_param_sharing_all": False,
    "lg_no_second": False,
    "lg_no_third": False,
}

# What the official classes take when an argument is left out.
DEFAULTS: dict[Kind, dict[str, Any]] = {
    "finetune": {
        **_SHARED,
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "num_classes": 1000,
        "use_mean_pooling": True,
        "lg_classify_token_type": "org",
    },
    "pretrain": {
        **_SHARED,
        "encoder_embed_dim": 768,
        "encoder_depth": 12,
        "encoder_num_heads": 12,
        "decoder_embed_dim": 512,
        "decoder_depth": 8,
        "decoder_num_heads": 8,
        "decoder_num_classes": 1536,
    },
}

# Arguments that change nothing in what a loaded model computes in eval mode.
INERT: dict[Kind, tuple[str, ...]] = {
    "finetune": ("init_scale", "drop_rate", "attn_drop_rate", "drop_path_rate", "pretrained",
                 "pretrained_cfg", "pretrained_cfg_overlay"),
    "pretrain": ("drop_rate", "attn_drop_rate", "drop_path_rate", "num_classes", "in_chans",
                 "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "init_ckpt"),
}  # fmt: skip

# Arguments that are honoured at these values alone.
FIXED: dict[Kind, dict[str, tuple[Any, ...]]] = {
    "finetune": {"in_chans": (3,), "init_values": (0, None), "use_learnable_pos_emb": (False,),
                 "keep_temporal_dim": (False,), "head_activation_func": (None,)},
    "pretrain": {"encoder_in_chans": (3,), "encoder_num_classes": (0,), "init_values": (0, None),
                 "use_learnable_pos_emb": (False,)},
}  # fmt: skip

# Arguments that neither names nor shapes of parameters tell.
UNTOLD = frozenset({"img_size", "all_frames", "num_heads", "encoder_num_heads",
                    "decoder_num_heads", "lg_region_size", "lg_classify_token_type"})  # fmt: skip

CLASSIFIED: dict[str, Tokens] = {"region": "rep", "org": "tokens", "all": "all"}


@dataclass(frozen=True)
class OfficialModel:
    """A model of the official code in our terms.

    ln_eps: epsilon of every LayerNorm. inferred: arguments that were not given and were read from
    the parameters or the clip, as "name=value". ignored: given arguments without effect in eval
    mode.
    """

    kind: Kind
    config: ModelConfig
    num_classes: int = 0
    tokens: Tokens = "rep"
    pooling: Pooling = "mean"
    ln_eps: float = LAYER_NORM_EPS
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def build(self, target: TargetConfig | None = None) -> MaskedAutoencoder | Classifier:
        """Our model, freshly initialised, in eval mode."""
        model = (
            build_autoencoder(self.config, target)
            if self.kind == "pretrain"
            else build_classifier(self.config, self.num_classes, self.tokens, self.pooling)
        )
        self.set_epsilon(model)
        return model.eval()

    def set_epsilon(self, model: nn.Module) -> None:
        """Give every LayerNorm this model's epsilon."""
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.ln_eps


def official_model(
    spec: Mapping[str, Any], state: State | None = None, clip_shape: tuple[int, ...] | None = None
) -> OfficialModel:
    """Our terms for an official class and its constructor arguments.

    spec: {"class": name, "kwargs": {argument: value}, "ln_eps": epsilon}, as golden archives say.
    state: official parameters; they tell arguments that were not given, before the official
        defaults do.
    clip_shape: (b, c, T, H, W) of the clip that the model takes; tells frames and size likewise.

    Raises ValueError for an unknown class or argument and for a value that our models lack.
    """
    name = str(spec.get("class")).rpartition(".")[2]
    kind = CLASSES[choose("class", name, tuple(CLASSES))]
    given = dict(spec.get("kwargs") or {})
    if "num_frames" in given:  # the name that some versions of the class use
        given.setdefault("all_frames", given.pop("num_frames"))
    _check_arguments(given, kind)
    told = _told(state, kind) if state is not None else {}
    if clip_shape is not None:
        told |= {"all_frames": clip_shape[2], "img_size": clip_shape[3]}
    values = {**DEFAULTS[kind], **told, **given}
    inferred = [
        f"{key}={value}"
        for key, value in told.items()
        if key not in given and not _same(value, DEFAULTS[kind][key])
    ]
    eps = spec.get("ln_eps")
    if eps is None:
        inferred.append(f"ln_eps={LAYER_NORM_EPS:g}")
    pooling: Pooling = "mean" if values.get("use_mean_pooling", True) else "first"
    tokens: Tokens = "rep"
    if kind == "finetune":
        asked = values["lg_classify_token_type"]
        choose("lg_classify_token_type", asked, tuple(CLASSIFIED))
        tokens = CLASSIFIED[asked] if values["attn_type"] != "joint" else "tokens"
    return OfficialModel(
        kind,
        our_config(values, kind),
        int(values["num_classes"]) if kind == "finetune" else 0,
        tokens,
        pooling,
        float(eps if eps is not None else LAYER_NORM_EPS),
        tuple(inferred),
        tuple(f"{key}={given[key]}" for key in INERT[kind] if given.get(key)),
    )


def _check_arguments(given: Mapping[str, Any], kind: Kind) -> None:
    known = {*DEFAULTS[kind], *INERT[kind], *FIXED[kind], "qk_scale"}
    for name, value in given.items():
        choose("constructor argument", name, tuple(sorted(known)))
        if value not in FIXED[kind].get(name, (value,)):
            raise ValueError(
                f"constructor argument {name}={value!r} is not something that our models do; "
                f"only {name}={FIXED[kind][name][0]!r} can be built"
            )


def _same(a: Any, b: Any) -> bool:
    def plain(x: Any) -> Any:
        return tuple(x) if isinstance(x, list | tuple) else (x, x)

    return plain(a) == plain(b)


def _told(state: State, kind: Kind) -> dict[str, Any]:
    """Arguments that names and shapes of the parameters tell."""
    embed = ("encoder." if kind == "pretrain" else "") + "patch_embed.proj.weight"
    if embed not in state:
        raise ValueError(f"{embed} is missing, whose shape tells width, tubelet and patch")
    config = infer_model(state, num_heads=1, decoder_heads=1)
    told = {k: v for k, v in official_arguments(config, kind).items() if k not in UNTOLD}
    if config.interact == "none":
        del told["lg_third_attn_type"]
    if kind == "pretrain":
        del told["decoder_num_classes"]  # follows from the tubelet
    else:
        told["use_mean_pooling"] = "fc_norm.weight" in state
        if "head.weight" in state:
            told["num_classes"] = len(state["head.weight"])
    return told


def our_config(values: Mapping[str, Any], kind: Kind) -> ModelConfig:
    """Our configuration for a complete set of official arguments."""
    prefix = "encoder_" if kind == "pretrain" else ""
    size, patch = _pair("img_size", values), _pair("patch_size", values)
    if size[0] != size[1]:
        raise ValueError(f"img_size={size} is not square; our clips are, as in img_size={size[0]}")
    tubelet = (int(values["tubelet_size"]), *patch)
    choose("attn_type", values["attn_type"], ("joint", "local_global"))
    is_lgi = values["attn_type"] == "local_global"
    choose("lg_third_attn_type", values["lg_third_attn_type"], ("cross", "self"))
    region = tuple(int(side) for side in values["lg_region_size"])
    if len(region) != 3:
        raise ValueError(f"lg_region_size={region} must be (t, h, w) in tokens, as in (2, 5, 10)")
    width, heads = int(values[f"{prefix}embed_dim"]), int(values[f"{prefix}num_heads"])
    scale = values.get("qk_scale")
    if scale and not math.isclose(scale, (width // heads) ** -0.5, rel_tol=1e-9):
        raise ValueError(
            f"qk_scale={scale} is not something that our models do; only None, or its value "
            f"{(width // heads) ** -0.5:.6g}, can be built"
        )
    shared = "none"
    if values["lg_attn_param_sharing_all"]:
        shared = "all"
    elif values["lg_attn_param_sharing_first_third"]:
        shared = "local_interact"
    decoder: dict[str, Any] = {}
    if kind == "pretrain":
        if values["decoder_num_classes"] != 3 * math.prod(tubelet):
            raise ValueError(
                f"decoder_num_classes={values['decoder_num_classes']} must be 3 x tubelet_size x "
                f"patch_size^2 = {3 * math.prod(tubelet)}"
            )
        decoder = {
            "decoder_width": int(values["decoder_embed_dim"]),
            "decoder_depth": int(values["decoder_depth"]),
            "decoder_heads": int(values["decoder_num_heads"]),
            "legacy_visible_order": is_lgi,
        }
    return ModelConfig(
        frames=int(values["all_frames"]),
        size_px=size[0],
        tubelet=tubelet,
        encoder="lgi" if is_lgi else "vit",
        region=cast(Shape3, region),
        width=width,
        depth=int(values[f"{prefix}depth"]),
        num_heads=heads,
        mlp_ratio=float(values["mlp_ratio"]),
        qkv_bias=bool(values["qkv_bias"]),
        local=values["lg_first_attn_type"],
        inter=not values["lg_no_second"],
        interact="none" if values["lg_no_third"] else values["lg_third_attn_type"],
        shared=shared,
        **decoder,
    )


def _pair(name: str, values: Mapping[str, Any]) -> tuple[int, int]:
    value = values[name]
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name}={value} must be one number or (height, width), such as 16")
    return int(pair[0]), int(pair[1])


def official_arguments(config: ModelConfig, kind: Kind) -> dict[str, Any]:
    """Official constructor arguments of our configuration: the inverse of `our_config`.

    Drop path is left out; a classifier's `num_classes`, `use_mean_pooling` and
    `lg_classify_token_type` are not part of the configuration.
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
