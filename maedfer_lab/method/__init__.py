"""The method: tokens, masks, targets, LGI-Former and the masked autoencoder.

Needs torch, einops and jaxtyping alone.
"""
