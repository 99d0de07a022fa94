"""Everything that can be set: models, recipes, presets, and the profiles of the notebooks.

A leaf: imports nothing else of ours, and is the only floor that reads the environment.
"""

# fmt: off
# isort: off
from maedfer_lab.config.finetuning import (
    Augment, FinetuneConfig, finetune_config, finetune_demo, finetune_recipe)
from maedfer_lab.config.model import (
    EncoderKind, Framing, InteractKind, LocalKind, ModelConfig, PositionKind, Shape3, SharedKind,
    TargetConfig, TargetUnits, check_counts, check_workers, choose, choose_framing)
from maedfer_lab.config.own import BUILT_IN, find_own, register_encoder, register_target
from maedfer_lab.config.presets import (
    PRESETS, SIZES, PresetName, Size, base, demo, preset, sized, tiny)
from maedfer_lab.config.profiles import (
    PROFILES, Profile, data_folder, environment, is_in_app, is_main_process,
    keep_temporary_files_in, output_folder, profile, project_folder, uses_fast_kernels)
from maedfer_lab.config.recipe import (
    OnBroken, OptimConfig, Precision, PretrainConfig, learning_rate, pretrain_config)
from maedfer_lab.config.study import StudyConfig

__all__ = [
    "BUILT_IN", "PRESETS", "PROFILES", "SIZES", "Augment", "EncoderKind",
    "FinetuneConfig", "Framing", "InteractKind", "LocalKind", "ModelConfig", "OnBroken",
    "OptimConfig", "PositionKind", "Precision", "PresetName", "PretrainConfig", "Profile",
    "Shape3", "SharedKind", "Size", "StudyConfig", "TargetConfig", "TargetUnits", "base",
    "check_counts", "check_workers", "choose", "choose_framing", "data_folder", "demo",
    "environment", "find_own", "finetune_config", "finetune_demo", "finetune_recipe", "is_in_app",
    "is_main_process", "keep_temporary_files_in", "learning_rate", "output_folder", "preset",
    "pretrain_config", "profile", "project_folder", "register_encoder", "register_target", "sized",
    "tiny", "uses_fast_kernels",
]
