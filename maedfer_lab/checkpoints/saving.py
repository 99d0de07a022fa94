"""Hand weights back: in the official layout, or as a folder of our own format."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maedfer_lab.checkpoints.constructors import CLASSIFIED, official_arguments
from maedfer_lab.checkpoints.loading import Model
from maedfer_lab.checkpoints.official import to_official
from maedfer_lab.checkpoints.recognising import CONFIG_FILE, PACKAGE, WEIGHTS_FILE
from maedfer_lab.checkpoints.report import ENCODERS, preset_of
from maedfer_lab.files import write_aside
from maedfer_lab.method.models import MaskedAutoencoder
from maedfer_lab.runs import unique_state, write_state, write_weights


def save_official(model: Model, path: Path) -> None:
    """Write `model` as an official checkpoint: {"model": state dict, "args": dict}.

    Names, shapes and order are the official ones, values bit for bit ours. `args` carries the
    official constructor arguments as a plain dict, and our configuration, so that
    `load_checkpoint` builds the same model again; official code reads "model" alone.
    """
    state = {name: x.cpu() for name, x in to_official(model).items()}
    content = {"model": state, "args": arguments_of(model)}
    write_aside(path, lambda file: write_state(content, file))


def arguments_of(model: Model) -> dict[str, Any]:
    """Official arguments of a model (see `recognising.read_arguments`), and our configuration."""
    own = {PACKAGE: settings_of(model)}
    if isinstance(model, MaskedAutoencoder):
        return {**official_arguments(model.config, "pretrain"), **own}
    official_tokens = {ours: official for official, ours in CLASSIFIED.items()}
    return {
        **official_arguments(model.config, "finetune"),
        "num_classes": model.head.out_features,
        "use_mean_pooling": model.pooling == "mean",
        "lg_classify_token_type": official_tokens[model.tokens],
        **own,
    }


def write_folder(model: Model, folder: Path) -> Path:
    """Write model.safetensors, README.md (a model card) and config.json; return the folder.

    Each file is written aside and renamed, config.json last: a folder that was not finished has
    none and is refused. Parameters that several stages share are stored once.
    """
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    weights = {name: x.detach().cpu().contiguous() for name, x in unique_state(model).items()}
    write_aside(folder / WEIGHTS_FILE, lambda file: write_weights(weights, file, format="pt"))
    write_aside(folder / "README.md", model_card(model).encode())
    text = json.dumps(settings_of(model), indent=1) + "\n"
    write_aside(folder / CONFIG_FILE, text.encode())
    return folder


def settings_of(model: Model) -> dict[str, Any]:
    """What config.json holds."""
    if isinstance(model, MaskedAutoencoder):
        return {"model": asdict(model.config), "target": asdict(model.target)}
    return {
        "model": asdict(model.config),
        "num_classes": model.head.out_features,
        "tokens": model.tokens,
        "pooling": model.pooling,
    }


def model_card(model: Model) -> str:
    """The model card of a folder, with the header that the Hugging Face hub reads."""
    config, is_autoencoder = model.config, isinstance(model, MaskedAutoencoder)
    count = sum(p.numel() for p in model.parameters())
    title = "Masked autoencoder" if is_autoencoder else "Facial expression classifier"
    classes = "" if isinstance(model, MaskedAutoencoder) else f", {model.head.out_features} classes"
    regions = f", regions of {config.region} tokens" if config.encoder == "lgi" else ""
    clip = f"{config.frames} x {config.size_px} x {config.size_px}"
    task = "" if is_autoencoder else "pipeline_tag: video-classification\n"
    return f"""---
library_name: maedfer-lab
{task}tags:
- mae-dfer
- facial-expression-recognition
---

# {title} with {ENCODERS[config.encoder]}

{count:,} parameters, depth {config.depth}, width {config.width}{regions}{classes}.
Preset: {preset_of(config) or "none"}.

Input: clips (b, 3, {clip.replace(" x ", ", ")}) with pixels in [0, 1]; the model normalises them
itself. Every setting stands in `config.json`.

```python
from maedfer_lab.checkpoints.pretrained import from_pretrained

model = from_pretrained("FOLDER")
```

What the weights were trained on, and how well they do, is for whoever shares them to add here.
"""
