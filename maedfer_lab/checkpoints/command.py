"""The verb `maedfer checkpoint`: say what a file holds; hand it back in another format."""

from __future__ import annotations

from pathlib import Path

from maedfer_lab.checkpoints.loading import load_checkpoint
from maedfer_lab.checkpoints.saving import save_official
from maedfer_lab.config import Shape3
from maedfer_lab.method.models import Pooling, Tokens


def checkpoint_command(
    file: Path,
    /,
    *,
    num_classes: int | None = None,
    frames: int | None = None,
    size_px: int | None = None,
    region: Shape3 | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    tokens: Tokens | None = None,
    pooling: Pooling | None = None,
    to_official: Path | None = None,
    to_folder: Path | None = None,
) -> str:
    """Say what a checkpoint is and what of it is used; nothing in it is executed.

    file: a .pth, .pt, .bin or .safetensors file, a run's folder or one of save_pretrained.
    num_classes: load a pre-trained encoder as a classifier with that many classes.
    frames: of a clip, where the file does not say or another number is wanted.
    size_px: of a clip, likewise.
    region: local region in tokens (t h w), likewise.
    num_heads: of the encoder's attention, likewise (by default heads of 64 channels).
    decoder_heads: of the decoder's attention, likewise.
    tokens: what a classifier reads: representative tokens, tokens, or all; likewise.
    pooling: of these tokens, likewise.
    to_official: write the model here in the official layout (.pth).
    to_folder: write the model into this folder: model.safetensors, config.json, a model card.
    """
    loaded = load_checkpoint(
        file,
        as_="auto" if num_classes is None else "classifier",
        num_classes=num_classes,
        frames=frames,
        size_px=size_px,
        region=region,
        num_heads=num_heads,
        decoder_heads=decoder_heads,
        tokens=tokens,
        pooling=pooling,
    )
    lines = [str(loaded.report)]
    if to_official is not None:
        save_official(loaded.model, to_official.expanduser())
        lines.append(f"  written     {to_official} (official layout)")
    if to_folder is not None:
        from maedfer_lab.checkpoints.pretrained import save_pretrained

        save_pretrained(loaded.model, to_folder.expanduser())
        lines.append(f"  written     {to_folder} (model.safetensors, config.json, README.md)")
    return "\n".join(lines)
