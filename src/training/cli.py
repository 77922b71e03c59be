# SPDX-License-Identifier: Apache-2.0
"""The command line: `train.py stage=structure key=value ...`.

Composes the configuration, claims the run directory, trains, and shows the result. The same command resumes a
run where it stopped. `pipeline=NAME` runs several stages so, one after another. Mistakes of the user end in a
message and exit code 1, without a traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra._internal.utils import get_args_parser
from lightning.pytorch.loggers import Logger as LightningLogger
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from foldwright.data.dataset import named_datasets
from foldwright.kernels import Ops, select
from foldwright.model import AlphaFold3
from foldwright.training import checkpoint, hand_off
from foldwright.training.affinity_objective import affinity_objective
from foldwright.training.callbacks import Checkpointer, Meter
from foldwright.training.checkpoint import CheckpointError
from foldwright.training.checkpoint_writer import WriteError
from foldwright.training.config import (
    CONFIG_MODULE,
    CONFIG_NAME,
    ConfigError,
    Learning,
    Logger,
    TrainConfig,
    build,
    compose_config,
    register,
)
from foldwright.training.curriculum import Curriculum
from foldwright.training.datamodule import end_workers
from foldwright.training.module import StructureTraining
from foldwright.training.objective import structure_objective
from foldwright.training.parallel import (
    Layout,
    LostRankError,
    build_strategy,
    launched_rank,
    lost_ranks_named,
    resolve,
)
from foldwright.training.pipeline import run_pipeline
from foldwright.training.profiling import Profiler
from foldwright.training.run_directory import claim, claim_data, make_directory, wandb_id
from foldwright.training.self_test import KernelSelfTest
from foldwright.training.validation import Validation

OBJECTIVES = {Learning.structure: structure_objective, Learning.affinity: affinity_objective}


def main() -> None:
    """Entry point of `train.py`: exits 1 after a message for a bad configuration."""
    arguments = get_args_parser().parse_args()
    register()
    if not (arguments.multirun or arguments.help or arguments.hydra_help or arguments.info):
        try:  # Hydra's own report of a wrong key knows neither the nearest one nor a `+typo`
            config = compose_config(arguments.overrides)
            if config.pipeline.stages and not arguments.cfg:
                return run_pipeline(config, arguments.overrides, sys.argv[0])
            if not arguments.cfg:
                # before Hydra does, which answers with a traceback
                make_directory(Path(config.paths.run_dir))
        except ConfigError as error:
            _refuse(error)
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_run)()


def _run(composed: DictConfig) -> None:
    try:
        config = build(composed)
        if config.pipeline.stages:
            raise ConfigError(
                f"pipeline: got pipeline={config.pipeline.name} with -m, which would train one stage alone; "
                "give each pipeline a command of its own, with pipeline.name=NAME"
            )
        train(config)
    except (ConfigError, CheckpointError, WriteError) as error:
        _refuse(error)
    except LostRankError as error:  # the process group cannot be taken down in order any more
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _refuse(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def train(config: TrainConfig) -> None:
    """Run training as configured, from the newest checkpoint of its run directory if there is one.

    Raises ConfigError before anything is written if the configuration cannot be used here.
    """
    console = Console(quiet=launched_rank() != 0)
    run_dir = Path(config.paths.run_dir)
    try:
        layout = resolve(config.trainer)
        accumulate = layout.accumulation(config.global_batch, config.trainer.batch_per_device)
        curriculum = Curriculum(config.curriculum, config.seed)
        max_steps = curriculum.last_step(config.trainer.max_steps)
        ops = select(config.kernels, layout.device_type, console)
        objective = OBJECTIVES[config.learn](config, curriculum, ops, run_dir)
        _announce(config, layout, objective.validation, run_dir, console)
        console.print(curriculum.table(max_steps, config.global_batch, objective.shares))
        skeleton = _skeleton(config, ops)
        parent = None
        if is_fresh := not checkpoint.complete(run_dir / "checkpoints"):
            parent = hand_off.plan(config.init_from, skeleton, config.stage)
        objective.begin(hand_off.parent_digest(parent, run_dir))
    except CheckpointError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    lock = claim(run_dir, config, is_writer=launched_rank() == 0)
    claim_data(run_dir, objective.tables, is_writer=launched_rank() == 0)
    if is_fresh and (parent or config.frozen()):
        console.print(hand_off.table(parent, skeleton))
        if launched_rank() == 0:
            hand_off.write(parent, skeleton, run_dir)
    checkpointer = Checkpointer(run_dir / "checkpoints", config, console, parent)
    meter = Meter(run_dir / "metrics.csv", config, console)
    callbacks: list[L.Callback] = [meter, checkpointer, *objective.closing(checkpointer)]
    if objective.validator is not None:
        path, every = run_dir / "validation.csv", config.validation.every_steps
        callbacks.insert(1, Validation(path, every, objective.validator, checkpointer, meter, console))
    if config.kernels.self_test:
        callbacks.append(KernelSelfTest(config.model, ops, console))
    if config.profile.steps:
        callbacks.append(Profiler(run_dir, config.profile, console))
    _quieten_lightning()
    trainer = L.Trainer(
        accelerator="gpu" if layout.device_type == "cuda" else "cpu",
        devices=layout.devices,
        num_nodes=layout.num_nodes,
        strategy=build_strategy(layout, config.trainer.timeout_minutes),
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=_logger(config, run_dir),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
    )
    try:
        with lost_ranks_named(config.trainer.timeout_minutes):
            trainer.fit(StructureTraining(config, ops, objective.losses, objective.captures), objective.data)
    finally:
        end_workers()
        if lock is not None:
            lock.close()


def _skeleton(config: TrainConfig, ops: Ops) -> AlphaFold3:
    """The network without memory, frozen as configured: names and shapes to plan the hand-off with.

    ValueError if nothing of it is trained.
    """
    with torch.device("meta"):
        network = AlphaFold3(config.model, ops)
    hand_off.freeze(network, config.frozen())
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"freeze: got {config.frozen()}, which leaves nothing to train; take modules out of freeze"
            + " (rollout.enabled=false freezes confidence)" * (not config.rollout.enabled)
        )
    return network


def _announce(config: TrainConfig, layout: Layout, validation: str, run_dir: Path, console: Console) -> None:
    """Say loudly what this run is and runs on."""
    device = torch.cuda.get_device_name() if layout.device_type == "cuda" else "CPU"
    threads = "" if layout.device_type == "cuda" else f", {torch.get_num_threads()} threads"
    console.rule(f"[bold]foldwright  stage={config.stage}")
    pairs = {
        "device": f"{layout.world_size} x {device} ({layout.describe()}{threads})",
        "data": ", ".join(f"{name}: {data.root}" for name, data in named_datasets(config.data).items()),
        "validation": validation,
        "mini-rollout": _describe_rollout(config),
        "seed": str(config.seed),
        "run directory": str(run_dir.resolve()),
    }
    for name, value in pairs.items():
        console.print(f"[bold]{name:>13}[/]  {escape(value)}", highlight=False)


def _describe_rollout(config: TrainConfig) -> str:
    if config.rollout.enabled:
        return f"{config.rollout.sampler.steps} steps"
    return "off, which deviates from AF3: no confidence head is trained, labels stay as given"


def _logger(config: TrainConfig, run_dir: Path) -> LightningLogger | bool:
    if config.logger.kind is not Logger.wandb:
        return False
    return WandbLogger(
        project=config.logger.wandb_project,
        name=config.run_name,
        save_dir=run_dir,
        id=wandb_id(run_dir),
        resume="allow",
        offline=config.logger.wandb_offline,
        mode="offline"
        if config.logger.wandb_offline
        else "online",  # the logger's own way is no longer heard
    )


def _quieten_lightning() -> None:
    """Silence advice that does not apply: workers are configured, one process needs no process group."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*torch.distributed is disabled, unavailable or uninit.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
