"""What a training run can be told: one YAML file, checked by pydantic, each field documented where it is declared.

`load_config` reads a file and applies `--set key=value` overrides; an unknown or malformed key is an error that names
it. The defaults of the formulas are the project's own choices (`training/sync_grpo.py` and `rollouts/dgs.py` say how
they differ from the release). Nothing here needs torch.
"""

from sync_r1.trainer_client.config.evaluation import EvaluationConfig, UnifyBenchConfig
from sync_r1.trainer_client.config.files import load_config
from sync_r1.trainer_client.config.objective import ImageOptimiserConfig, ObjectiveConfig, OptimiserConfig
from sync_r1.trainer_client.config.policy import LoraConfig, PolicyConfig
from sync_r1.trainer_client.config.run import RewardConfig, TrainConfig, check_names, check_parts, processes_error
from sync_r1.trainer_client.config.sampling import PhaseConfig, SamplingConfig, StepSampling
from sync_r1.trainer_client.config.section import ConfigError
from sync_r1.trainer_client.config.selectors import (
    DapoConfig,
    DgsConfig,
    PlainConfig,
    PodsConfig,
    SelectorConfig,
    SelectorWork,
    selector_config,
)

__all__ = [
    "ConfigError", "DapoConfig", "DgsConfig", "EvaluationConfig",
    "ImageOptimiserConfig", "LoraConfig", "ObjectiveConfig", "OptimiserConfig", "PhaseConfig", "PlainConfig",
    "PodsConfig", "PolicyConfig", "RewardConfig", "SamplingConfig", "SelectorConfig", "SelectorWork", "StepSampling",
    "TrainConfig", "UnifyBenchConfig", "check_names", "check_parts", "load_config", "processes_error",
    "selector_config",
]  # fmt: skip
