"""MAE-DFER: encode visible tubelets, decode the hidden ones, compare appearance and motion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, TargetConfig
from maedfer_lab.method.attention import ViTBlock, layer_norm
from maedfer_lab.method.encoder import Encoder, init_xavier
from maedfer_lab.method.grid import Grid, position_table
from maedfer_lab.method.masking import TokenSplit, region_tube_mask, split_tokens, tube_mask
from maedfer_lab.method.products import Linear
from maedfer_lab.method.targets import Loss, make_target, reconstruction_loss


class Decoder(nn.Module):
    """Light ViT over visible tokens and mask tokens; two linear heads as one matrix.

    The head's rows of the cube's first frame predict appearance, the rest predicts motion.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig, grid: Grid, colours: int = 3) -> None:
        super().__init__()
        if config.decoder_depth < 1:
            raise ValueError(f"decoder_depth={config.decoder_depth} must be at least 1; try 4")
        width = config.decoder_width
        self.embed = Linear(config.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = position_table(grid, width, config.positions)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            ViTBlock(width, config.decoder_heads, config.mlp_ratio, config.qkv_bias)
            for _ in range(config.decoder_depth)
        )
        self.norm = layer_norm(width)
        pt, ph, pw = config.tubelet
        self.head = Linear(width, pt * ph * pw * colours)

    def forward(
        self,
        visible: Float[Tensor, "b v d"],
        positions: Int[Tensor, "b v"],
        masked: Int[Tensor, "b m"],
    ) -> Float[Tensor, "b m p"]:
        """Predict the masked tokens; `positions` and `masked` are indices in the grid."""
        x = torch.cat(
            [self.embed(visible) + self.positions[positions],
             self.mask_token + self.positions[masked]], 1)  # fmt: skip
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, last=masked.shape[1])
        return self.head(self.norm(x))


@dataclass(frozen=True)
class Reconstruction:
    """What one pass of the masked autoencoder gives: predictions of masked tokens and the loss."""

    prediction: Float[Tensor, "b m p"]
    target: Float[Tensor, "b m p"]
    split: TokenSplit
    loss: Loss


def check_batch(num_clips: int, num_masks: int) -> None:
    """Raise unless there is a mask for each clip, and a clip."""
    if num_clips < 1 or num_masks != num_clips:
        raise ValueError(
            f"{num_masks} masks do not fit a batch of {num_clips} clips; make one for each, at "
            f"least one: region_tube_mask(..., num_clips={max(1, num_clips)})"
        )


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder with either encoder: MAE-DFER with "lgi", VideoMAE with "vit".

    VideoMAE proper also predicts plain pixels: `TargetConfig(motion=False)`.
    """

    def __init__(self, config: ModelConfig, target: TargetConfig) -> None:
        super().__init__()
        self.config, self.target = config, target
        self.encoder = Encoder(config)
        self.norm = layer_norm(config.width)
        self.decoder = Decoder(config, self.encoder.grid)
        init_xavier(self)
        tokens = [self.decoder.mask_token]
        if self.encoder.rep_tokens is not None:
            tokens.append(self.encoder.rep_tokens)
        for parameter in tokens:  # the reference cuts at one deviation
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)

    @property
    def grid(self) -> Grid:
        """The token grid."""
        return self.encoder.grid

    def split(self, mask: Bool[Tensor, "b n"], legacy: bool | None = None) -> TokenSplit:
        """Visible and masked tokens of a mask, in the orders that this model works in.

        legacy: the published order of visible tokens or the right one, in place of the model's
            `legacy_visible_order`.
        """
        region = self.config.region if self.config.encoder == "lgi" else None
        if legacy is None:
            legacy = self.config.legacy_visible_order
        return split_tokens(mask, self.grid, region, legacy_visible_order=legacy)

    def predict(
        self, clip: Float[Tensor, "b c T H W"], split: TokenSplit
    ) -> Float[Tensor, "b m p"]:
        """Predicted targets of the masked tokens, in grid order."""
        encoded = self.encoder(clip, split.visible)
        visible = self.norm(encoded.tokens)
        return self.decoder(visible, split.decoder_positions, split.masked)

    def forward(
        self, clip: Float[Tensor, "b c T H W"], mask: Bool[Tensor, "b n"]
    ) -> Reconstruction:
        """Hide, encode, decode, compare.

        clip: pixels in [0, 1].
        mask: True = masked; kept on the CPU it is sorted there and no step waits for the device.
        """
        check_batch(len(clip), len(mask))
        split = self.split(mask).to(clip.device)
        prediction = self.predict(clip, split)
        target = make_target(clip, self.config.tubelet, self.target, index=split.masked)
        loss = reconstruction_loss(
            prediction, target, split.masked, self.grid, self.config.tubelet, self.target
        )
        return Reconstruction(prediction, target, split, loss)


def build_autoencoder(
    config: ModelConfig, target: TargetConfig | None = None, *, seed: int = 0
) -> MaskedAutoencoder:
    """A freshly initialised masked autoencoder; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskedAutoencoder(config, target or TargetConfig())


def model_mask(
    model: MaskedAutoencoder, ratio: float, num_clips: int, generator: torch.Generator
) -> Tensor:
    """Masks (b n) as the model needs them: equal in every region for LGI-Former, else tubes."""
    if model.config.encoder == "lgi":
        region = model.config.region
        return region_tube_mask(model.grid, region, ratio, num_clips, generator=generator)
    return tube_mask(model.grid, ratio, num_clips, generator=generator)
