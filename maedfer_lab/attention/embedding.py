"""Representative tokens of many clips, and a map of them in the plane."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from maedfer_lab.method.autoencoder import MaskedAutoencoder
from maedfer_lab.method.classifier import Classifier
from maedfer_lab.method.encoder import Encoder

BATCH = 8


@torch.no_grad()
def representative_tokens(
    model: MaskedAutoencoder | Classifier | Encoder, clips: Float[Tensor, "b 3 T H W"]
) -> Float[np.ndarray, "b r d"]:
    """Representative tokens that the encoder gives for whole clips (pixels in [0, 1])."""
    encoder = model if isinstance(model, Encoder) else model.encoder
    if encoder.rep_tokens is None:
        raise ValueError("a ViT has no representative tokens; use an encoder='lgi'")
    weight, was_training = encoder.embed.proj.weight, encoder.training
    encoder.eval()
    found = []
    for batch in clips.split(BATCH):
        rep = encoder(batch.to(weight.device, weight.dtype), rep_only=True).rep_tokens
        assert rep is not None
        found.append(rep.float().cpu())
    encoder.train(was_training)
    return torch.cat(found).numpy()


def neighbour_map(
    vectors: Float[np.ndarray, "n d"], *, seed: int = 0, perplexity: float = 15.0
) -> Float[np.ndarray, "n 2"]:
    """Places in the plane for vectors, by t-SNE: near ones stay near, distances mean nothing.

    Channels are centred and scaled to deviation 1 first, so that none rules.
    perplexity: about how many neighbours count; at most a third of the vectors.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        raise ValueError(f"{len(vectors)} vectors are too few for a map; give at least 4")
    fitting = min(perplexity, (len(vectors) - 1) / 3)
    placed = TSNE(perplexity=fitting, init="pca", random_state=seed)
    return placed.fit_transform(_scale(vectors))


def neighbour_agreement(vectors: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """The share of vectors whose nearest other vector has the same label."""
    scaled = _scale(vectors)
    squares = (scaled**2).sum(1)
    apart = squares[:, None] + squares - 2 * scaled @ scaled.T
    np.fill_diagonal(apart, np.inf)
    return float((labels[apart.argmin(1)] == labels).mean())


def _scale(vectors: np.ndarray) -> np.ndarray:
    centred = vectors - vectors.mean(0)
    return centred / np.maximum(centred.std(0), 1e-6)
