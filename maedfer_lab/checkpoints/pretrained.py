"""`save_pretrained` and `from_pretrained` as the Hugging Face hub knows them; folders work offline.

The method's classes know nothing of the hub: here they are joined with its mixin.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import init_empty_weights
from huggingface_hub import ModelHubMixin, snapshot_download

from maedfer_lab.checkpoints.loading import Model, load_checkpoint
from maedfer_lab.checkpoints.recognising import CONFIG_FILE, WEIGHTS_FILE
from maedfer_lab.checkpoints.saving import write_folder
from maedfer_lab.method.models import Classifier, MaskedAutoencoder, Pooling, Tokens

Hub = TypeVar("Hub", bound="HubModel")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class HubModel(ModelHubMixin, library_name="maedfer-lab", tags=["mae-dfer"]):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for the two models below."""

    @classmethod
    def of(cls: type[Hub], model: Model) -> Hub:
        """The same model (the parameters are shared, not copied) with the hub's methods."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls: type[Hub], pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Hub:
        """Load a folder that `save_pretrained` wrote, or a repository of the hub.

        A local folder is read without any use of the network.
        options: revision, cache_dir, token, force_download, local_files_only for the hub; the
            rest goes to `load_checkpoint` (num_classes, frames, drop_path, ...).
        """
        return cls.of(_load(pretrained_model_name_or_path, options))

    def _save_pretrained(self, save_directory: Path) -> None:
        if not isinstance(self, MaskedAutoencoder | Classifier):
            raise TypeError(f"{type(self).__name__} is no model of maedfer_lab")
        write_folder(self, save_directory)


class PretrainedAutoencoder(MaskedAutoencoder, HubModel):
    """`MaskedAutoencoder` with the hub's methods."""

    @classmethod
    def of(cls, model: Model) -> PretrainedAutoencoder:
        """The same model, its parameters shared, with the hub's methods."""
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError("a classifier is no autoencoder; use PretrainedClassifier")
        with init_empty_weights():
            empty = cls(model.config, model.target)
        return _share(model, empty)


class PretrainedClassifier(Classifier, HubModel):
    """`Classifier` with the hub's methods."""

    @classmethod
    def of(cls, model: Model) -> PretrainedClassifier:
        """The same model, its parameters shared, with the hub's methods."""
        if not isinstance(model, Classifier):
            raise ValueError(
                "an autoencoder is no classifier; use PretrainedAutoencoder, or make a classifier "
                "with load_checkpoint(folder, as_='classifier', num_classes=7)"
            )
        with init_empty_weights():
            empty = cls(
                model.config,
                model.head.out_features,
                cast(Tokens, model.tokens),
                cast(Pooling, model.pooling),
            )
        return _share(model, empty)


Same = TypeVar("Same", bound=torch.nn.Module)


def _share(model: Model, empty: Same) -> Same:
    empty.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return empty.to(next(model.parameters()).device).train(model.training)


def with_hub(model: Model) -> PretrainedAutoencoder | PretrainedClassifier:
    """`model` with the hub's methods; the parameters are shared."""
    is_classifier = isinstance(model, Classifier)
    return PretrainedClassifier.of(model) if is_classifier else PretrainedAutoencoder.of(model)


def save_pretrained(model: Model, folder: Path | str) -> Path:
    """Write any model as a folder: model.safetensors, config.json and a model card."""
    with_hub(model).save_pretrained(folder)
    return Path(folder)


def from_pretrained(
    name: Path | str, **options: Any
) -> PretrainedAutoencoder | PretrainedClassifier:
    """Load a folder of `save_pretrained` (or a hub repository) as whatever it holds."""
    return with_hub(_load(name, options))


def _load(name: Path | str, options: dict[str, Any]) -> Model:
    hub = {"revision", "cache_dir", "token", "force_download", "local_files_only"}
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if isinstance(name, Path) or folder.exists() or not REPOSITORY.fullmatch(name):
            raise FileNotFoundError(f"{name} is not a folder; give one that save_pretrained wrote")
        for_hub = {key: options[key] for key in hub & options.keys()}
        try:
            folder = Path(snapshot_download(
                name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **for_hub
            ))  # fmt: skip
        except Exception as error:  # offline, unknown, private: the hub has many errors
            raise FileNotFoundError(
                f"{name} is not a folder here, and could not be had from the hub "
                f"({type(error).__name__})"
            ) from error
    return load_checkpoint(folder, **{k: v for k, v in options.items() if k not in hub}).model
