"""The figure of the paper, top to bottom: masked autoencoder, encoder, decoder, classifier.

Clips come with pixels in [0, 1]; the models normalise them. Letters of shapes: see `grid`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maedfer_lab.config import ModelConfig, Shape3, TargetConfig, choose, find_own
from maedfer_lab.method.attention import LGIBlock, ViTBlock, layer_norm
from maedfer_lab.method.grid import (
    Grid,
    check_clip,
    check_region,
    position_table,
    region_index,
    take_cubes,
)
from maedfer_lab.method.masking import TokenSplit, region_tube_mask, split_tokens, tube_mask
from maedfer_lab.method.targets import (
    Loss,
    make_target,
    normalise_cube_pixels,
    reconstruction_loss,
    target_width,
)

Tokens = Literal["rep", "tokens", "all"]
Pooling = Literal["mean", "first", "regions"]


@dataclass(frozen=True)
class Reconstruction:
    """One pass of the masked autoencoder: predictions of masked tokens and the loss."""

    prediction: Float[Tensor, "b m p"]
    target: Float[Tensor, "b m p"]
    split: TokenSplit
    loss: Loss


class Comparison(nn.Module):
    """What the masked tokens should have been, and the loss of what was predicted for them."""

    def __init__(self, grid: Grid, tubelet: Shape3, target: TargetConfig) -> None:
        super().__init__()
        self.grid, self.tubelet, self.target = grid, tubelet, target

    def forward(
        self, prediction: Float[Tensor, "b m p"], clip: Float[Tensor, "b c T H W"],
        masked: Int[Tensor, "b m"],
    ) -> tuple[Float[Tensor, "b m p"], Loss]:  # fmt: skip
        """Targets and loss; `masked` are indices in the grid."""
        target = make_target(clip, self.tubelet, self.target, index=masked)
        where = masked, self.grid, self.tubelet
        return target, reconstruction_loss(prediction, target, *where, self.target)


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder with either encoder: MAE-DFER with "lgi", VideoMAE with "vit".

    VideoMAE proper also predicts plain pixels: `TargetConfig(motion=False)`.
    """

    def __init__(self, config: ModelConfig, target: TargetConfig) -> None:
        super().__init__()
        self.config, self.target = config, target
        self.encoder = make_encoder(config)
        self.norm = layer_norm(config.width)
        self.decoder = Decoder(config, self.grid, target_width(config, target))
        self.compare = Comparison(self.grid, config.tubelet, target)
        _init_xavier(self)
        for tokens in (self.decoder.mask_token, self.encoder.rep_tokens):
            if tokens is not None:  # the reference truncates at one standard deviation
                nn.init.trunc_normal_(tokens, std=0.02, a=-0.02, b=0.02)

    @property
    def grid(self) -> Grid:
        """The token grid."""
        return self.encoder.grid

    def forward(
        self, clip: Float[Tensor, "b c T H W"], mask: Bool[Tensor, "b n"] | TokenSplit
    ) -> Reconstruction:
        """Hide, encode, decode, compare.

        mask: True = masked, or its `split`, made on the CPU so that no step waits for the device.
        """
        split = (mask if isinstance(mask, TokenSplit) else self.split(mask)).to(clip.device)
        check_batch(len(clip), len(split.masked))
        prediction = self.predict(clip, split)
        target, loss = self.compare(prediction, clip, split.masked)
        return Reconstruction(prediction, target, split, loss)

    def split(self, mask: Bool[Tensor, "b n"], legacy: bool | None = None) -> TokenSplit:
        """Visible and masked tokens of a mask, in this model's orders.

        legacy: the published order of visible tokens or the correct one, instead of the model's.
        """
        region = self.config.region if self.config.has_regions else None
        if legacy is None:
            legacy = self.config.legacy_visible_order
        return split_tokens(mask, self.grid, region, legacy_visible_order=legacy)

    def predict(
        self, clip: Float[Tensor, "b c T H W"], split: TokenSplit
    ) -> Float[Tensor, "b m p"]:
        """Predicted targets of the masked tokens, in grid order."""
        visible = self.norm(self.encoder(clip, split.visible).tokens)
        return self.decoder(visible, split.decoder_positions, split.masked)


@dataclass(frozen=True)
class Encoded:
    """Encoder output: tokens in the order of `index` and, for LGI-Former, representatives."""

    tokens: Float[Tensor, "b v d"]
    rep_tokens: Float[Tensor, "b r d"] | None
    index: Int[Tensor, "b v"]


class Encoder(nn.Module):
    """LGI-Former (or ViT) over all tokens of a clip, or over the visible ones.

    Your own encoder (`register_encoder`) inherits from it and overrides `make_blocks`, or all.
    """

    positions: Tensor
    all_tokens: Tensor
    take_cubes = staticmethod(take_cubes)  # an exported model has another way

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = Grid.of_clip(config.frames, config.size_px, config.size_px, config.tubelet)
        self.embed = TubeletEmbed(config)
        positions = position_table(self.grid, config.width, config.positions)
        self.register_buffer("positions", positions, persistent=False)
        order, self.rep_tokens = torch.arange(self.grid.n), None
        if config.has_regions:
            check_region(self.grid, config.region)
            order = region_index(self.grid, config.region)
            self.rep_tokens = nn.Parameter(torch.zeros(len(order), config.width))
        self.blocks = nn.ModuleList(self.make_blocks(config))
        self.register_buffer("all_tokens", order.flatten(), persistent=False)

    def make_blocks(self, config: ModelConfig) -> Iterable[nn.Module]:
        """The blocks: (b v d) -> (b v d), or with regions [s_i; X_i] (b r k d) -> (b r k d).

        They are called as `ViTBlock` (with `weights`) or `LGIBlock` (with `rep_only`, too).
        """
        shape = (config.width, config.num_heads, config.mlp_ratio, config.qkv_bias)
        stages = {name: getattr(config, name) for name in ("local", "inter", "interact", "shared")}
        for rate in torch.linspace(0, config.drop_path, config.depth).tolist():
            yield LGIBlock(*shape, rate, **stages) if config.has_regions else ViTBlock(*shape, rate)

    @property
    def num_regions(self) -> int:
        """M, the number of local regions and of representative tokens (0 for a ViT)."""
        return 0 if self.rep_tokens is None else len(self.rep_tokens)

    def forward(
        self, clip: Float[Tensor, "b c T H W"], index: Int[Tensor, "b v"] | None = None, *,
        rep_only: bool = False, weights: dict[int, dict[str, Tensor]] | None = None,
    ) -> Encoded:  # fmt: skip
        """Embed, add positions, run the blocks.

        index: tokens to encode (`TokenSplit.visible`: for LGI-Former equally many per region,
            region after region); all tokens by default.
        rep_only: skip in the last block what cannot reach the representative tokens; the returned
            tokens are then those that entered it.
        weights: a dict for each layer of interest, filled with the block's attention weights; the
            other layers run fused.
        """
        check_clip(clip, self.config, self.embed.proj.weight.dtype)
        if index is None:
            index = self.all_tokens.expand(clip.shape[0], -1)
        cubes = normalise_cube_pixels(self.take_cubes(clip, self.config.tubelet, index))
        x = self.embed(cubes) + F.embedding(index, self.positions)
        kept = [(weights or {}).get(layer) for layer in range(len(self.blocks))]
        if self.rep_tokens is None:
            for block, w in zip(self.blocks, kept, strict=True):
                x = block(x, weights=w)
            return Encoded(x, None, index)
        rep = self.rep_tokens.expand(clip.shape[0], -1, -1).unsqueeze(2)
        z = entered = torch.cat([rep, x.unflatten(1, (self.num_regions, -1))], 2)
        for i, (block, w) in enumerate(zip(self.blocks, kept, strict=True)):
            entered, z = z, block(z, rep_only=rep_only and i == len(kept) - 1, weights=w)
        tokens = (entered if rep_only else z)[:, :, 1:]
        return Encoded(tokens.flatten(1, 2), z[:, :, 0], index)


class TubeletEmbed(nn.Module):
    """Linear embedding of tubelets: the 3-D convolution whose stride is its kernel.

    Its weight is applied to cubes, so that only the selected ones are embedded (the official
    encoder embeds all 800 and discards 90 %).
    """

    product = staticmethod(F.linear)  # `fast` has another kernel for it

    def __init__(self, config: ModelConfig, colours: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv3d(colours, config.width, config.tubelet, config.tubelet)

    def forward(self, cubes: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """cubes: ImageNet-normalised, in the order of `patchify`."""
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return self.product(cubes, weight, self.proj.bias)


class Decoder(nn.Module):
    """Light ViT over visible tokens and mask tokens; two linear heads as one matrix.

    The head's rows of the cube's first frame predict appearance, the rest predicts motion.
    num_values: of a token's target (p).
    """

    positions: Tensor

    def __init__(self, config: ModelConfig, grid: Grid, num_values: int) -> None:
        super().__init__()
        if config.decoder_depth < 1:
            raise ValueError(f"decoder_depth={config.decoder_depth} must be at least 1; try 4")
        width = config.decoder_width
        shape = width, config.decoder_heads, config.mlp_ratio, config.qkv_bias
        self.embed = nn.Linear(config.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = position_table(grid, width, config.positions)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(ViTBlock(*shape) for _ in range(config.decoder_depth))
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, num_values)

    def forward(
        self, visible: Float[Tensor, "b v d"], positions: Int[Tensor, "b v"],
        masked: Int[Tensor, "b m"],
    ) -> Float[Tensor, "b m p"]:  # fmt: skip
        """Predict the masked tokens; `positions` and `masked` are indices in the grid."""
        seen = self.embed(visible) + F.embedding(positions, self.positions)
        x = torch.cat([seen, self.mask_token + F.embedding(masked, self.positions)], 1)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.norm(self.blocks[-1](x, last=masked.shape[1])))


class Classifier(nn.Module):
    """Dynamic facial expression classifier (Sun et al., section 3.4): encode, pool, one layer.

    tokens: the head's input: "rep", the representative ones (as published); "tokens", the original
        ones (a ViT has only these); "all", both.
    pooling: "mean" of these tokens or the "first", then LayerNorm. "regions" (not published) keeps
        *where*: the representative tokens, concatenated, or without them the mean token of each
        region, standardised over clips (BatchNorm without affine), with dropout 0.2.
    """

    regions: Tensor

    def __init__(
        self, config: ModelConfig, num_classes: int, tokens: Tokens = "rep",
        pooling: Pooling = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        choose("tokens", tokens, get_args(Tokens))
        choose("pooling", pooling, get_args(Pooling))
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1; DFEW has 7")
        self.config, self.tokens, self.pooling = config, tokens, pooling
        self.encoder = make_encoder(config)
        if self.encoder.rep_tokens is None and tokens != "tokens":
            raise ValueError(
                f"tokens={tokens!r} needs representative tokens, which encoder={config.encoder!r} "
                "does not have; use tokens='tokens'"
            )
        self.fc_norm, width = layer_norm(config.width), config.width
        if pooling == "regions":
            if tokens == "all":
                raise ValueError("pooling='regions' reads tokens='rep' or 'tokens', not 'all'")
            regions = region_index(self.encoder.grid, config.region)
            self.register_buffer("regions", regions, persistent=False)
            width *= len(regions)
            norm = nn.BatchNorm1d(width, affine=False)
            norm.register_buffer("num_batches_tracked", None)  # an unused count
            self.fc_norm = nn.Sequential(norm, nn.Dropout(0.2))
        self.head = nn.Linear(width, num_classes)
        for layer in _linear_layers(self):  # as the official fine-tuning does
            nn.init.trunc_normal_(layer.weight, std=0.02)
        if self.encoder.rep_tokens is not None:
            nn.init.trunc_normal_(self.encoder.rep_tokens, std=0.02)
        with torch.no_grad():  # the reference starts with logits near zero
            self.head.weight.mul_(0.001)
            self.head.bias.mul_(0.001)

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """Logits."""
        return self.head(self.features(clip))

    def features(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b d"]:
        """Pooled and normalised feature of each clip."""
        return self.pool(self.read_tokens(clip))

    def read_tokens(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b n d"]:
        """The tokens that are pooled."""
        return self.choose_tokens(self.encoder(clip, rep_only=self.tokens == "rep"))

    def choose_tokens(self, encoded: Encoded) -> Float[Tensor, "b n d"]:
        """Those of an encoder's output."""
        rep, tokens = encoded.rep_tokens, encoded.tokens
        if rep is not None and self.tokens != "tokens":
            return rep if self.tokens == "rep" else torch.cat([rep, tokens], 1)
        if self.pooling != "regions":
            return tokens
        if rep is not None:  # an LGI-Former's lie region after region
            tokens = tokens.index_select(1, encoded.index[0].argsort())
        tokens = tokens.index_select(1, self.regions.flatten())
        return tokens.unflatten(1, self.regions.shape).mean(2)

    def pool(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b f"]:
        """One normalised feature per clip."""
        if self.pooling == "regions":
            return self.fc_norm(tokens.flatten(1))
        return self.fc_norm(tokens[:, 0] if self.pooling == "first" else tokens.mean(1))


# ---------------------------------------------------------------------- building


def build_autoencoder(
    config: ModelConfig, target: TargetConfig | None = None, *, seed: int = 0
) -> MaskedAutoencoder:
    """A newly initialised masked autoencoder; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskedAutoencoder(config, target or TargetConfig())


def build_classifier(
    config: ModelConfig, num_classes: int, tokens: Tokens | None = None,
    pooling: Pooling = "mean", *, seed: int = 0,
) -> Classifier:  # fmt: skip
    """A newly initialised classifier; the global random state is unchanged.

    tokens: by default representative tokens, for a ViT its tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        usual: Tokens = "rep" if config.has_regions else "tokens"
        return Classifier(config, num_classes, tokens or usual, pooling)


def make_encoder(config: ModelConfig) -> Encoder:
    """The encoder that the configuration names."""
    own = find_own("encoder", config.encoder)
    encoder = Encoder(config) if own is None else own.make(config)
    missing = [name for name in ("grid", "num_regions", "rep_tokens") if not hasattr(encoder, name)]
    if missing:
        raise ValueError(
            f"encoder={config.encoder!r} gives a {type(encoder).__name__} without {missing[0]}; "
            "inherit from maedfer_lab.Encoder, which has the whole interface"
        )
    return encoder


def model_mask(
    model: MaskedAutoencoder, ratio: float, num_clips: int, generator: torch.Generator
) -> Bool[Tensor, "b n"]:
    """Masks as the model needs them: region-balanced for LGI-Former, else plain tubes."""
    if not model.config.has_regions:
        return tube_mask(model.grid, ratio, num_clips, generator=generator)
    return region_tube_mask(model.grid, model.config.region, ratio, num_clips, generator=generator)


def check_batch(num_clips: int, num_masks: int) -> None:
    """Raise unless there is a mask for each clip, and a clip."""
    if num_clips < 1 or num_masks != num_clips:
        raise ValueError(
            f"{num_masks} masks do not fit a batch of {num_clips} clips; make one for each, at "
            f"least one: region_tube_mask(..., num_clips={max(1, num_clips)})"
        )


def _init_xavier(module: nn.Module) -> None:
    """Initialise linear layers as the official pre-training does: Xavier-uniform, bias 0.

    LGI-Former's query and key-value matrices are initialised separately there (own fan-in and
    fan-out), a ViT block's joint qkv matrix as one; the tubelet convolution by PyTorch's default.
    """
    split = {id(a.qkv) for m in module.modules() if isinstance(m, LGIBlock)
             for a in m.modules() if hasattr(a, "qkv")}  # fmt: skip
    for m in _linear_layers(module):
        width = m.in_features
        for part in (m.weight[:width], m.weight[width:]) if id(m) in split else (m.weight,):
            nn.init.xavier_uniform_(part)


def _linear_layers(module: nn.Module) -> Iterator[nn.Linear]:
    """All linear layers, in order, with their biases at 0."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            if m.bias is not None:
                nn.init.zeros_(m.bias)
            yield m
