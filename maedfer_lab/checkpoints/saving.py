"""Save weights in the official layout, or as a folder for the Hugging Face hub."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download

from maedfer_lab.checkpoints.loading import ENCODERS, load_checkpoint, preset_of
from maedfer_lab.checkpoints.official import Model, arguments_of, to_official
from maedfer_lab.checkpoints.reading import CONFIG_FILE, PACKAGE, WEIGHTS_FILE, locate
from maedfer_lab.config import Shape3
from maedfer_lab.files import write_aside
from maedfer_lab.method.models import Classifier, MaskedAutoencoder, Pooling, Tokens
from maedfer_lab.runs import unique_state, write_state, write_weights

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def checkpoint(
    file: Path, /, *, num_classes: int | None = None, frames: int | None = None,
    size_px: int | None = None, region: Shape3 | None = None, num_heads: int | None = None,
    decoder_heads: int | None = None, tokens: Tokens | None = None, pooling: Pooling | None = None,
    to_official: Path | None = None, to_folder: Path | None = None,
) -> str:  # fmt: skip
    """Describe a checkpoint and how it is used; nothing in it is executed. Convert it on request.

    file: a .pth, .pt, .bin or .safetensors file, a run's folder, one of save_pretrained (ours or
        that of transformers), or demo, demo-expressions: the shipped weights.
    num_classes: load a pre-trained encoder as a classifier with this many classes.
    frames: frames of a clip; this and the next six add to the file's settings or override them.
    size_px: side of a clip in pixels.
    region: local region in tokens (t h w).
    num_heads: heads of the encoder's attention (by default of 64 channels each).
    decoder_heads: heads of the decoder's attention.
    tokens: input of a classifier's head: rep (representative tokens), tokens, or all.
    pooling: pooling of these tokens.
    to_official: write the model here in the official layout (.pth).
    to_folder: write the model into this folder: model.safetensors, config.json, a model card.
    """
    loaded = load_checkpoint(
        file, as_="auto" if num_classes is None else "classifier", num_classes=num_classes,
        frames=frames, size_px=size_px, region=region, num_heads=num_heads,
        decoder_heads=decoder_heads, tokens=tokens, pooling=pooling,
    )  # fmt: skip
    lines = [str(loaded.report)]
    if to_official is not None:
        save_official(loaded.model, to_official.expanduser())
        lines.append(f"  written     {to_official} (official layout)")
    if to_folder is not None:
        save_pretrained(loaded.model, to_folder.expanduser())
        lines.append(f"  written     {to_folder} (model.safetensors, config.json, README.md)")
    return "\n".join(lines)


def save_official(model: Model, path: Path) -> None:
    """Write `model` as an official checkpoint: {"model": state dict, "args": dict}.

    Names, shapes and order are the official ones, values are unchanged. `args` has official
    constructor arguments and our configuration; official code reads only "model".
    """
    state = {name: x.cpu() for name, x in to_official(model).items()}
    content = {"model": state, "args": {**arguments_of(model), PACKAGE: settings_of(model)}}
    write_aside(path, lambda file: write_state(content, file))


def save_pretrained(model: Model, folder: Path | str) -> Path:
    """Write any model as a folder: model.safetensors, config.json and README.md (a model card).

    config.json is written last: an incomplete folder has none and is refused. Parameters shared
    by several stages are stored once.
    """
    folder = Path(folder)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    weights = {name: x.detach().cpu().contiguous() for name, x in unique_state(model).items()}
    size = sum(x.nbytes for x in weights.values())
    digest = write_aside(folder / WEIGHTS_FILE, lambda f: write_weights(weights, f, format="pt"),
                         size, sha256=True)  # fmt: skip
    write_aside(folder / "README.md", model_card(model).encode())
    settings = {**settings_of(model), "sha256": {WEIGHTS_FILE: digest}}
    write_aside(folder / CONFIG_FILE, (json.dumps(settings, indent=1) + "\n").encode())
    return folder


def settings_of(model: Model) -> dict[str, Any]:
    """The content of config.json."""
    if isinstance(model, MaskedAutoencoder):
        return {"model": asdict(model.config), "target": asdict(model.target)}
    return {"model": asdict(model.config), "num_classes": model.head.out_features,
            "tokens": model.tokens, "pooling": model.pooling}  # fmt: skip


def model_card(model: Model) -> str:
    """The model card of a folder, with the header that the Hugging Face hub reads."""
    config, is_autoencoder = model.config, isinstance(model, MaskedAutoencoder)
    count = sum(p.numel() for p in model.parameters())
    title = "Masked autoencoder" if is_autoencoder else "Facial expression classifier"
    classes = "" if isinstance(model, MaskedAutoencoder) else f", {model.head.out_features} classes"
    regions = f", regions of {config.region} tokens" if config.has_regions else ""
    clip = f"{config.frames} x {config.size_px} x {config.size_px}"
    task = "" if is_autoencoder else "pipeline_tag: video-classification\n"
    return f"""---
library_name: maedfer-lab
{task}tags:
- mae-dfer
- facial-expression-recognition
---

# {title} with {ENCODERS.get(config.encoder, config.encoder)}

{count:,} parameters, depth {config.depth}, width {config.width}{regions}{classes}.
Preset: {preset_of(config) or "none"}.

Input: clips (b, 3, {clip.replace(" x ", ", ")}) with pixels in [0, 1]; the model normalises them
itself. All settings are in `config.json`.

```python
import maedfer_lab as lab

model = lab.from_pretrained("FOLDER")
```

If you share these weights, add here what they were trained on and how well they perform.
"""


class HubModel(ModelHubMixin, library_name="maedfer-lab", tags=["mae-dfer"]):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for the two models below."""

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> PretrainedAutoencoder | PretrainedClassifier:
        """As the function of this name; a pre-trained encoder becomes a classifier, if asked."""
        as_ = "classifier" if issubclass(cls, Classifier) else "autoencoder"
        return from_pretrained(pretrained_model_name_or_path, as_=as_, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, MaskedAutoencoder | Classifier)
        save_pretrained(self, save_directory)


class PretrainedAutoencoder(MaskedAutoencoder, HubModel):
    """`MaskedAutoencoder` with the hub's methods."""


class PretrainedClassifier(Classifier, HubModel):
    """`Classifier` with the hub's methods."""


def from_pretrained(
    name: Path | str, **options: Any
) -> PretrainedAutoencoder | PretrainedClassifier:
    """Load a folder of `save_pretrained`, or a repository of the hub, as whatever it holds.

    A local folder is read without any use of the network.
    options: revision, cache_dir, token, force_download, local_files_only for the hub; the rest goes
        to `load_checkpoint` (num_classes, frames, drop_path, ...).
    """
    hub = {"revision", "cache_dir", "token", "force_download", "local_files_only"}
    folder = locate(name)
    if not folder.is_dir():
        if isinstance(name, Path) or folder.exists() or not REPOSITORY.fullmatch(name):
            raise FileNotFoundError(f"{name} is not a folder; give one that save_pretrained wrote")
        for_hub = {key: options[key] for key in hub & options.keys()}
        try:
            files = [CONFIG_FILE, WEIGHTS_FILE]
            folder = Path(snapshot_download(name, allow_patterns=files, **for_hub))
        except Exception as error:  # offline, unknown, private: the hub has many errors
            raise FileNotFoundError(
                f"{name} is not a folder here, and could not be had from the hub "
                f"({type(error).__name__})"
            ) from error
    rest = {k: v for k, v in options.items() if k not in hub}
    model: Any = load_checkpoint(folder, **rest).model
    is_classifier = isinstance(model, Classifier)
    model.__class__ = PretrainedClassifier if is_classifier else PretrainedAutoencoder
    return model
