"""The method: tokens, masks, targets, LGI-Former and the masked autoencoder.

Needs only torch, einops and jaxtyping.
"""
