# SPDX-License-Identifier: Apache-2.0
"""The typed configuration: one schema, one strict merge, nothing below sees a DictConfig.

Hydra composes YAML on top of the schema; `build` merges the result onto the schema again (Hydra alone lets
`+typo=1` through) and turns it into dataclasses. Defaults live in the dataclasses; YAML states differences.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from operator import attrgetter
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from foldwright.data.dataset import DataConfig
from foldwright.data.datasets import DatasetConfig
from foldwright.diffusion.noise import NoiseConfig
from foldwright.kernels import KernelConfig
from foldwright.losses import LossConfig
from foldwright.model import ModelConfig
from foldwright.training.affinity_config import AffinityStageConfig
from foldwright.training.checkpoint import CheckpointConfig
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.ema import EmaConfig
from foldwright.training.hand_off import InitFromConfig
from foldwright.training.held_out import ValidationConfig
from foldwright.training.optim import OptimizerConfig, ScheduleConfig
from foldwright.training.parallel import TrainerConfig
from foldwright.training.profiling import ProfileConfig
from foldwright.training.step import RolloutConfig
from foldwright.training.summary import SummaryConfig

LEAST = {
    "seed": 0, "global_batch": 1, "max_cycles": 1, "loader.workers": 0, "loader.prefetch": 1,
    "trainer.batch_per_device": 1, "trainer.num_nodes": 1, "trainer.devices": 0,
    "checkpoint.every_steps": 1, "checkpoint.keep_last": 1, "logger.every_steps": 1,
    "validation.every_steps": 1, "validation.max_entries": 1, "validation.n_samples": 1,
    "validation.cycles": 1,
    "schedule.lr": 0, "schedule.warmup_steps": 0, "schedule.decay_every": 1,
    "optimizer.max_skipped_in_a_row": 0, "ema.decay": 0,
}  # fmt: skip
"""Numbers that a run would begin with, and stumble over."""
CONFIG_MODULE = "foldwright.configs"
CONFIG_NAME = "train"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the path and what to write instead."""


class Logger(Enum):
    """metrics.csv is always written; `wandb` sends the same figures to Weights & Biases as well."""

    csv = "csv"
    wandb = "wandb"


@dataclass
class LoggerConfig:
    """`every_steps`: how often a line is printed where the terminal cannot show a progress bar.
    `gradient_norms_every`: how often the gradient norm of every module is written, 0 for never.
    """

    kind: Logger = Logger.csv
    every_steps: int = 10
    gradient_norms_every: int = 100
    wandb_project: str = "foldwright"
    wandb_offline: bool = False


@dataclass
class PathsConfig:
    """A run lives in `run_dir`: configuration, metrics, checkpoints, the sampled structure, figures."""

    output_root: str = "runs"
    run_dir: str = "${paths.output_root}/${run_name}"


@dataclass
class PipelineConfig:
    """Stages to run one after another (`training.pipeline`), each with overrides of its own; none: one run.

    They lie in `paths.output_root`/`name`. `launcher` is what train.py stands behind: "torchrun
    --nproc-per-node=8", "srun python"; by default this Python.
    """

    name: str = "pipeline"
    stages: dict[str, list[str]] = field(default_factory=dict)
    launcher: str = ""


@dataclass
class LoaderConfig:
    """Worker processes of each data loader, the batches each keeps ready, and a local folder that stores are
    copied to before they are read, for those on a network file system ("": read where they are).
    """

    workers: int = 2
    prefetch: int = 2
    stage_to: str = ""


class Learning(Enum):
    """What is learnt (`training.objective`): the stages up to confidence learn `structure`."""

    structure = "structure"
    affinity = "affinity"


@dataclass
class TrainConfig:
    """Everything a training run is made of. Each step recycles 1..max_cycles times, drawn from its number.

    `freeze`: names or patterns of parameters that are not trained.
    """

    stage: str = "structure"
    learn: Learning = Learning.structure
    run_name: str = "${stage}"
    seed: int = 0
    global_batch: int = 256
    max_cycles: int = 4
    init_from: InitFromConfig = field(default_factory=InitFromConfig)
    freeze: list[str] = field(default_factory=list)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    curriculum: dict[str, PhaseConfig] = field(default_factory=dict)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    affinity: AffinityStageConfig = field(default_factory=AffinityStageConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    kernels: KernelConfig = field(default_factory=KernelConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    summary: SummaryConfig = field(default_factory=SummaryConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)

    def frozen(self) -> list[str]:
        """All that is not trained: `freeze`, and the confidence head where there is no rollout to judge."""
        return sorted({*self.freeze, *([] if self.rollout.enabled else ["confidence"])})


@dataclass
class _ComposingData(DataConfig):
    datasets: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Composing(TrainConfig):
    """What Hydra composes onto: phases and data sets are free-form, else `+curriculum.NAME.until=9` and
    `+data.datasets.NAME.root=STORE` could add none.
    """

    data: _ComposingData = field(default_factory=_ComposingData)
    curriculum: dict[str, Any] = field(default_factory=dict)


@dataclass
class _ComposingPhase(PhaseConfig):
    dataset_crops: dict[str, Any] = field(default_factory=dict)


def schema(kind: type[TrainConfig | DatasetConfig | PhaseConfig] = TrainConfig) -> DictConfig:
    """The structured schema, writable even where a dataclass is frozen."""
    config: DictConfig = OmegaConf.structured(kind)
    _unfreeze(config)
    return config


def register() -> None:
    """Make the schemas known to Hydra: what `train.yaml` starts from, each data
    set of configs/data/ and the phases of configs/stage/."""
    ConfigStore.instance().store(name="train_schema", node=schema(_Composing))
    ConfigStore.instance().store(name="dataset_schema", node=schema(DatasetConfig))
    ConfigStore.instance().store(name="phase_schema", node=schema(_ComposingPhase))


def compose_config(overrides: Iterable[str]) -> TrainConfig:
    """Compose and build from command-line overrides; ConfigError on anything wrong."""
    register()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            composed = compose(CONFIG_NAME, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explain(error)) from error
    return build(composed)


def build(composed: DictConfig) -> TrainConfig:
    """Merge strictly onto the schema and turn into dataclasses; ConfigError with path and nearest key."""
    try:
        merged = OmegaConf.merge(schema(), OmegaConf.to_container(composed))
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    assert isinstance(config, TrainConfig)
    for path, least in LEAST.items():
        number = attrgetter(path)(config)
        if not least <= number < math.inf:
            raise ConfigError(f"{path}: got {number}, expected at least {least}")
    return config


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as JSON- and YAML-ready containers."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> {"model.pairformer.blocks": 48, ...}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return flat


def nearest_key(path: str) -> str | None:
    """The valid key most like a wrong one: first among its siblings, then the same name anywhere."""
    parts, node, good = path.split("."), TrainConfig, list[str]()
    for part in parts:
        children = _children(node)
        if children is not None and part not in children:
            match = get_close_matches(part, children, 1, cutoff=0.6)
            if match:
                return ".".join([*good, match[0]])
            break
        good.append(part)
        node = children[part] if children is not None else _value_type(node)
    everything = list(_all_keys(TrainConfig))
    same_name = [key for key in everything if key.rsplit(".", 1)[-1] == parts[-1]]
    return next(iter(same_name or get_close_matches(path, everything, 1)), None)


def _unfreeze(config: Any) -> None:
    OmegaConf.set_readonly(config, None)
    for key in config if isinstance(config, DictConfig) else ():
        child = config._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            _unfreeze(child)


def _children(node: Any) -> dict[str, Any] | None:
    """Field types of a dataclass; None for a dict, whose keys are free, and {} for a plain value."""
    if is_dataclass(node):
        hints = typing.get_type_hints(node)
        return {f.name: _strip_optional(hints[f.name]) for f in fields(node)}
    return None if typing.get_origin(node) is dict else {}


def _value_type(node: Any) -> Any:
    return typing.get_args(node)[1]


def _strip_optional(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _all_keys(node: Any, prefix: str = "") -> Iterable[str]:
    for name, kind in (_children(node) or {}).items():
        yield prefix + name
        is_free = _children(kind) is None
        yield from _all_keys(_value_type(kind) if is_free else kind, f"{prefix}{name}." + "NAME." * is_free)


def _explain(error: BaseException) -> str:
    """One message for whatever Hydra or OmegaConf raised, with the full path and the nearest right key."""
    chain = _causes(error)
    keyed = next((item for item in chain if getattr(item, "full_key", None)), None)
    if keyed is None:
        return str(error)  # a missing group option, or an override that does not parse: Hydra says it well
    path, reason = str(keyed.full_key), str(keyed).splitlines()[0]  # type: ignore[attr-defined]
    if not isinstance(keyed, (ConfigKeyError, ConfigAttributeError)):
        return f"{path}: {reason}"
    near = _nearest_name(path, getattr(keyed, "parent_node", None)) or nearest_key(path)
    return f"unknown configuration key {path!r}; " + (
        f"did you mean {near!r}?" if near else "run with --cfg job to see every key"
    )


def _nearest_name(path: str, parent: Any) -> str | None:
    """The key most like a wrong one among those that are there: names of phases and data sets."""
    if not isinstance(parent, DictConfig):
        return None
    stem, _, name = path.rpartition(".")
    match = get_close_matches(name, [str(key) for key in parent], 1, cutoff=0.6)
    return ".".join(filter(None, [stem, *match])) if match else None


def _causes(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
