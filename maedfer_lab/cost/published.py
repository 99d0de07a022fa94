"""Our models run with the official code's amount of work: the same results, nothing skipped."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maedfer_lab.method.grid import patchify, take
from maedfer_lab.method.masking import TokenSplit
from maedfer_lab.method.models import Classifier, MaskedAutoencoder
from maedfer_lab.method.targets import normalise_pixels


class Predict(nn.Module):
    """The autoencoder's predictions of the masked tokens for a given split of the tokens."""

    def __init__(self, model: MaskedAutoencoder, split: TokenSplit) -> None:
        super().__init__()
        self.model, self.split = model, split

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b m p"]:
        """Embed, encode and decode what is needed, as `MaskedAutoencoder.predict` does."""
        return self.model.predict(clip, self.split)


class PublishedPredict(Predict):
    """The same predictions: all cubes are embedded, the last decoder block runs in full."""

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b m p"]:
        """*Official:* hidden cubes are dropped after the embedding; all tokens are decoded."""
        encoder, decoder, split = self.model.encoder, self.model.decoder, self.split
        every = encoder.embed(patchify(normalise_pixels(clip), encoder.config.tubelet))
        x = take(every + encoder.positions, split.visible)
        if encoder.rep_tokens is None:
            for block in encoder.blocks:
                x = block(x)
        else:
            rep = encoder.rep_tokens.expand(len(clip), -1, -1).unsqueeze(2)
            z = torch.cat([rep, x.unflatten(1, (encoder.num_regions, -1))], 2)
            for block in encoder.blocks:
                z = block(z)
            x = z[:, :, 1:].flatten(1, 2)
        hidden = decoder.mask_token + decoder.positions[split.masked]
        visible = decoder.embed(self.model.norm(x)) + decoder.positions[split.decoder_positions]
        x = torch.cat([visible, hidden], 1)
        for block in decoder.blocks:
            x = block(x)
        return decoder.head(decoder.norm(x[:, -hidden.shape[1] :]))


class PublishedClassifier(nn.Module):
    """The same logits: the last block runs in full, also where tokens are not read after it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b k"]:
        """*Official:* all stages of all blocks, then the mean of the tokens that are pooled."""
        encoded = self.model.encoder(clip)
        chosen = encoded.tokens if encoded.rep_tokens is None else encoded.rep_tokens
        return self.model.head(self.model.fc_norm(chosen.mean(1)))
