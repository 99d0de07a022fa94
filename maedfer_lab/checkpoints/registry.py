"""The classifiers in timm's registry: importing this module registers them.

`timm.create_model("lgi_former_base_patch16_160", num_classes=7)` takes clips (b, 3, T, H, W) in
[0, 1], which the models normalise: timm is told mean 0, deviation 1. No weights are hosted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from jaxtyping import Float
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, Shape3, base, choose
from maedfer_lab.method.models import Classifier, Pooling, Tokens

POOLING: dict[str, Pooling] = {"avg": "mean", "token": "first"}

_CFG: dict[str, Any] = {
    "num_classes": 7, "input_size": (3, 160, 160), "fixed_input_size": True,
    "interpolation": "bilinear", "crop_pct": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
    "first_conv": "encoder.embed.proj", "classifier": "head",
}  # fmt: skip
default_cfgs = generate_default_cfgs(
    {"lgi_former_base_patch16_160": _CFG, "vit_base_patch16_160_video": _CFG}
)


class TimmClassifier(Classifier):
    """`Classifier` with the interface of timm's models; parameters have the same names.

    num_classes: 0 omits the head and returns pooled features.
    global_pool: "avg", the mean of the tokens read, or "token", the first of them.
    tokens: which tokens those are: "rep", "tokens" or "all" (see `Classifier`).
    num_frames, img_size, region: of other clips than the published 16 x 160 x 160.
    drop_rate: dropout before the head. drop_path_rate: of the last block.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int = 7, in_chans: int = 3,
        global_pool: str = "avg", tokens: Tokens | None = None, num_frames: int | None = None,
        img_size: int | tuple[int, int] | None = None, region: Shape3 | None = None,
        drop_rate: float = 0.0, drop_path_rate: float = 0.0,
    ) -> None:  # fmt: skip
        if in_chans != 3:
            raise ValueError(f"in_chans={in_chans} must be 3: clips have three colours")
        height, width = (img_size, img_size) if not isinstance(img_size, tuple) else img_size
        if height != width:
            raise ValueError(f"img_size={img_size} must be square, such as 160")
        config = replace(
            config, frames=num_frames or config.frames, size_px=height or config.size_px,
            region=region or config.region, drop_path=drop_path_rate,
        )  # fmt: skip
        choose("global_pool", global_pool, tuple(POOLING))
        tokens = tokens or ("rep" if config.has_regions else "tokens")
        super().__init__(config, max(1, num_classes), tokens, POOLING[global_pool])
        self.num_features = self.head_hidden_size = self.embed_dim = config.width
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head_drop = nn.Dropout(drop_rate)
        if num_classes == 0:
            self.head = nn.Identity()

    def forward_features(self, x: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b n d"]:
        """The tokens that the head reads, before pooling."""
        return self.read_tokens(x)

    def forward_head(
        self, x: Float[Tensor, "b n d"], pre_logits: bool = False
    ) -> Float[Tensor, "b k"]:
        """Logits of these tokens, or the pooled features before the last layer."""
        feature = self.head_drop(self.pool(x))
        return feature if pre_logits else self.head(feature)

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """Logits (features where num_classes is 0)."""
        return self.forward_head(self.forward_features(clip))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer for other classes (0 for none), initialised as in a new model."""
        if global_pool is not None:
            choose("global_pool", global_pool, tuple(POOLING))
            self.global_pool, self.pooling = global_pool, POOLING[global_pool]
        self.num_classes, head = num_classes, nn.Identity()
        if num_classes > 0:
            config, tokens = replace(self.config, depth=0), cast(Tokens, self.tokens)
            head = Classifier(config, num_classes, tokens).head
        norm = cast(nn.LayerNorm, self.fc_norm)
        self.head = head.to(norm.weight.device, norm.weight.dtype)

    def no_weight_decay(self) -> set[str]:
        """The representative tokens, as in official fine-tuning (vectors are timm's to leave)."""
        return {"encoder.rep_tokens"} if self.encoder.rep_tokens is not None else set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups for layer-wise learning rates; representative tokens learn at the head's (B6)."""
        return {"stem": r"^encoder\.embed", "blocks": [(r"^encoder\.blocks\.(\d+)", None)]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not supported; raises an error."""
        if enable:
            raise ValueError("set_grad_checkpointing: these models keep all activations; use False")


def _create(name: str, config: ModelConfig, pretrained: bool, **kwargs: Any) -> nn.Module:
    if pretrained:
        raise ValueError(
            f"{name}: pretrained=True is not available: no weights are hosted; load a file with "
            "maedfer_lab.checkpoints.loading.load_checkpoint(path)"
        )
    return build_model_with_cfg(TimmClassifier, name, False, config=config, **kwargs)


@register_model
def lgi_former_base_patch16_160(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LGI-Former as published: 85M parameters, regions of 2 x 5 x 10 tokens."""
    return _create("lgi_former_base_patch16_160", base("lgi").model, pretrained, **kwargs)


@register_model
def vit_base_patch16_160_video(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-B over all tokens of a clip: the paper's baseline, VideoMAE's architecture."""
    return _create("vit_base_patch16_160_video", base("vit").model, pretrained, **kwargs)
