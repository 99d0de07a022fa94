"""Everything that can be set: models, recipes, presets, and the profiles of the notebooks.

A leaf: imports nothing else of ours, and is the only package that reads the environment.
"""

# fmt: off
# isort: off
from maedfer_lab.config.model import (
    EncoderKind, Framing, InteractKind, LocalKind, ModelConfig, PositionKind, Shape3, SharedKind,
    TargetConfig, TargetUnits, check_counts, check_fields, check_workers, choose, choose_framing)
from maedfer_lab.config.own import BUILT_IN, find_own, register_encoder, register_target
from maedfer_lab.config.presets import (
    PRESETS, SIZES, PresetName, Size, base, demo, finetune_demo, finetune_recipe, framing_of,
    preset, sized, tiny)
from maedfer_lab.config.profiles import (
    PROFILES, Profile, data_folder, environment, is_in_app, is_main_process,
    keep_temporary_files_in, num_cores, output_folder, profile, project_folder, uses_fast_kernels)
from maedfer_lab.config.recipe import (
    Augment, FinetuneConfig, Mode, OnBroken, OptimConfig, Precision, PretrainConfig,
    finetune_config, learning_rate, pretrain_config)
from maedfer_lab.config.study import StudyConfig
