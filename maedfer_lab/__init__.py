"""maedfer_lab: understand, check, run and extend MAE-DFER.

The names below are loaded when they are first used, so that importing the package is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# fmt: off
_HOMES = {
    "maedfer_lab.config": ("ModelConfig", "PretrainConfig", "TargetConfig", "base", "demo",
                           "register_encoder", "register_target", "tiny"),
    "maedfer_lab.method.models": ("Classifier", "Encoder", "MaskedAutoencoder", "build_autoencoder",
                                  "build_classifier"),
    "maedfer_lab.fast": ("speed_up",),
    "maedfer_lab.method.masking": ("region_tube_mask", "tube_mask"),
    "maedfer_lab.data.table": ("Annotations", "read_annotations"),
    "maedfer_lab.data.doctor": ("doctor",),
    "maedfer_lab.drawn.faces": ("SyntheticFaces",),
    "maedfer_lab.data.folder": ("VideoFolder", "sample_clip"),
    "maedfer_lab.training.estimate": ("estimate",),
    "maedfer_lab.training.finetune": ("finetune", "load_finetuned"),
    "maedfer_lab.training.pretrain": ("load_run", "pretrain"),
    "maedfer_lab.method.reconstruction": ("reconstruct_clip",),
    "maedfer_lab.attention.maps": ("capture_attention",),
    "maedfer_lab.inference.embed": ("embed",),
    "maedfer_lab.inference.judge": ("judge",),
    "maedfer_lab.inference.known_model": ("known_model",),
    "maedfer_lab.inference.movement": ("movement",),
    "maedfer_lab.inference.predict": ("predict",),
    "maedfer_lab.inference.probe": ("probe",),
    "maedfer_lab.inference.reconstruct": ("reconstruct",),
    "maedfer_lab.viewers": ("AttentionViewer", "MaskingViewer", "ReconstructionViewer"),
    "maedfer_lab.checkpoints.loading": ("load_checkpoint",),
    "maedfer_lab.checkpoints.saving": ("from_pretrained", "save_pretrained"),
}
# fmt: on
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("maedfer-lab")
        except PackageNotFoundError:  # a checkout that is used by its path
            return "not installed"
    if name not in _HOME_OF:
        raise AttributeError(f"module 'maedfer_lab' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
