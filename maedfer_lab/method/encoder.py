"""Encoder: tubelet embedding, positions, and LGI-Former or ViT blocks over the given tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig
from maedfer_lab.method.attention import LGIBlock, ViTBlock
from maedfer_lab.method.grid import (
    Grid,
    check_region,
    position_table,
    region_index,
    take_cubes,
)
from maedfer_lab.method.products import linear
from maedfer_lab.method.targets import normalise_cube_pixels


def check_clip(clip: Any, config: ModelConfig) -> None:
    """Raise unless `clip` is a float tensor (b, 3, frames, size_px, size_px) in [0, 1].

    Values are looked at where that costs nothing (tensors on the CPU); on an accelerator the
    look would make every step wait, and while a model is compiled or exported there are none.
    """
    if not isinstance(clip, Tensor):
        raise ValueError(
            f"clip is a {type(clip).__name__}, not a tensor; use torch.as_tensor(clip).float()"
        )
    want = (3, config.frames, config.size_px, config.size_px)
    if clip.ndim != 5 or tuple(clip.shape[1:]) != want:
        hint = "; add the batch axis: clip[None]" if clip.ndim == 4 else ""
        raise ValueError(
            f"clip of shape {tuple(clip.shape)} does not fit this model, which takes "
            f"(batch, colour, frames, height, width) = (b, {', '.join(map(str, want))}){hint}"
        )
    if not clip.is_floating_point():
        raise ValueError(
            f"clip of dtype {clip.dtype} must be floating point with pixels in [0, 1]; "
            "divide bytes by 255 (data.clips.to_tensor does)"
        )
    if clip.device.type == "cpu" and clip.numel() and not torch.compiler.is_compiling():
        low, high = (float(x) for x in torch.aminmax(clip.detach()))
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # also true for NaN
            raise ValueError(
                f"clip has values from {low:g} to {high:g}; pixels must be finite and lie in "
                "[0, 1] (the model normalises them itself; divide bytes by 255)"
            )


class TubeletEmbed(nn.Module):
    """Linear embedding of tubelets: the 3-D convolution whose stride is its kernel.

    The convolution's weight is kept, but applied to cut cubes, so that only the cubes asked for
    are embedded (the official encoder embeds all 800 and drops 90 %).
    """

    def __init__(self, config: ModelConfig, colours: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv3d(colours, config.width, config.tubelet, config.tubelet)

    def forward(self, cubes: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """cubes: ImageNet-normalised, in the order of `patchify`."""
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return linear(cubes, weight, self.proj.bias)


@dataclass(frozen=True)
class Encoded:
    """Encoder output: tokens in the order of `index` and, for LGI-Former, representatives."""

    tokens: Float[Tensor, "b v d"]
    rep_tokens: Float[Tensor, "b r d"] | None
    index: Int[Tensor, "b v"]


class Encoder(nn.Module):
    """LGI-Former (or ViT) over all tokens of a clip, or over the visible ones."""

    positions: Tensor
    all_tokens: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
        self.embed = TubeletEmbed(config)
        positions = position_table(self.grid, config.width, config.positions)
        self.register_buffer("positions", positions, persistent=False)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        shape = (config.width, config.num_heads, config.mlp_ratio, config.qkv_bias)
        if config.encoder == "lgi":
            check_region(self.grid, config.region)
            order = region_index(self.grid, config.region)
            self.rep_tokens = nn.Parameter(torch.zeros(len(order), config.width))
            self.blocks = nn.ModuleList(
                LGIBlock(
                    *shape,
                    rate,
                    local=config.local,
                    inter=config.inter,
                    interact=config.interact,
                    shared=config.shared,
                )
                for rate in rates
            )
        else:
            order = torch.arange(self.grid.n)
            self.rep_tokens = None
            self.blocks = nn.ModuleList(ViTBlock(*shape, rate) for rate in rates)
        self.register_buffer("all_tokens", order.flatten(), persistent=False)

    @property
    def num_regions(self) -> int:
        """M, the number of local regions and of representative tokens (0 for a ViT)."""
        return 0 if self.rep_tokens is None else len(self.rep_tokens)

    def forward(
        self,
        clip: Float[Tensor, "b c T H W"],
        index: Int[Tensor, "b v"] | None = None,
        *,
        rep_only: bool = False,
        weights: dict[int, dict[str, Tensor]] | None = None,
    ) -> Encoded:
        """Embed, add positions, run the blocks.

        clip: pixels in [0, 1].
        index: tokens to encode (`TokenSplit.visible`: for LGI-Former equally many per region,
            region after region); all tokens by default.
        rep_only: skip in the last block what cannot reach the representative tokens; the
            returned tokens are then those that entered the block.
        weights: for each layer to look into a dict, which is filled with the block's attention
            weights; the other layers run fused and keep nothing.
        """
        check_clip(clip, self.config)
        dtype = self.embed.proj.weight.dtype
        if clip.dtype != dtype and not torch.is_autocast_enabled(clip.device.type):
            raise ValueError(
                f"clip of dtype {clip.dtype} does not fit the model's {dtype}; use clip.to({dtype})"
            )
        if index is None:
            index = self.all_tokens.expand(len(clip), -1)
        cubes = normalise_cube_pixels(take_cubes(clip, self.config.tubelet, index))
        x = self.embed(cubes) + self.positions[index]
        kept = [(weights or {}).get(layer) for layer in range(len(self.blocks))]
        if self.rep_tokens is None:
            for block, w in zip(self.blocks, kept, strict=True):
                x = block(x, weights=w)
            return Encoded(x, None, index)
        tokens = x.unflatten(1, (self.num_regions, -1))
        rep = self.rep_tokens.expand(len(clip), -1, -1).unsqueeze(2)
        z = entered = torch.cat([rep, tokens], 2)
        for i, (block, w) in enumerate(zip(self.blocks, kept, strict=True)):
            entered = z
            last = i == len(kept) - 1
            z = block(z, rep_only=rep_only and last, weights=w)
        tokens = (entered if rep_only else z)[:, :, 1:]
        return Encoded(tokens.flatten(1, 2), z[:, :, 0], index)


def init_xavier(module: nn.Module) -> None:
    """Initialise linear layers as the official pre-training does: Xavier-uniform, bias 0.

    LGI-Former's query and key-value matrices are drawn apart there (own fan-in and fan-out), a
    ViT block's joint qkv matrix as one; the tubelet convolution keeps PyTorch's default.
    """
    split = {id(a.qkv) for m in module.modules() if isinstance(m, LGIBlock)
             for a in m.modules() if hasattr(a, "qkv")}  # fmt: skip
    for m in module.modules():
        if isinstance(m, nn.Linear):
            width = m.in_features
            parts = (m.weight[:width], m.weight[width:]) if id(m) in split else (m.weight,)
            for part in parts:
                nn.init.xavier_uniform_(part)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def init_normal(module: nn.Module) -> None:
    """Initialise linear layers as the official fine-tuning does: normal with deviation 0.02."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
