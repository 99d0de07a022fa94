"""Checkpoints: official layouts in and out, our own folders, timm's registry, parity."""
