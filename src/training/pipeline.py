# SPDX-License-Identifier: Apache-2.0
"""The stages of a pipeline one after another: `train.py pipeline=af3 key=value ...`.

Every stage is a run of its own in a process of its own, in a folder of the pipeline's; it starts from the run
before it. The same command goes on wherever the last one was stopped: finished stages are passed over, the
one that was running resumes. All configurations are composed before the first process starts.
"""

from __future__ import annotations

import fcntl
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning.fabric.plugins.environments import TorchElasticEnvironment
from rich.console import Console
from rich.table import Table

from foldwright.training import checkpoint
from foldwright.training.affinity_config import Features
from foldwright.training.config import ConfigError, Learning, TrainConfig, compose_config
from foldwright.training.curriculum import Curriculum
from foldwright.training.parallel import launched_rank
from foldwright.training.run_directory import require_same

_OWN = re.compile(r"[+~]*pipeline(\.|=|$)")
_SET_HERE = ("stage", "run_name", "paths.run_dir", "init_from.path")
_MAKE_POCKETS = "import sys; from foldwright.training.affinity_features import main; sys.exit(main())"


@dataclass(frozen=True)
class Leg:
    """A stage of a pipeline: its run directory, command-line overrides, and the step at which it ends."""

    name: str
    run_dir: Path
    overrides: tuple[str, ...]
    config: TrainConfig
    steps: int

    def done(self) -> int | None:
        """Step of the newest sound checkpoint, None before the first."""
        newest, _ = checkpoint.newest(self.run_dir / "checkpoints")
        return None if newest is None else checkpoint.read_record(newest).step

    @property
    def is_finished(self) -> bool:
        return (self.done() or 0) >= self.steps


def plan(config: TrainConfig, overrides: Sequence[str]) -> list[Leg]:
    """The legs of `config.pipeline`, given the command line's overrides that they all get (`seed` counts on).

    Raises ConfigError for a setting that a pipeline makes itself, a stage whose configuration is wrong, and a
    folder that holds a stage of another configuration.
    """
    common = [override for override in overrides if not _OWN.match(override)]
    for override in common:
        if (key := _key(override)) in _SET_HERE:
            raise ConfigError(
                f"{key}: got {override!r} beside pipeline={config.pipeline.name}, which sets it for every "
                "stage; pipeline.name=NAME names the folder, pipeline.stages.STAGE=[...] is of one stage"
            )
    folder = Path(config.paths.output_root) / config.pipeline.name
    legs: list[Leg] = []
    for number, (name, own) in enumerate(config.pipeline.stages.items()):
        parent = legs[-1].run_dir if legs else None
        given = _merged([_seed_of(override, number) for override in common], own)
        legs.append(_leg(name, folder, given, parent))
    return legs


def run_pipeline(config: TrainConfig, overrides: Sequence[str], script: str) -> None:
    """Run what is not finished yet; exits with a stage's code where that is not 0.

    `script` is what started this process, and starts each stage. Raises ConfigError where a launcher has made
    several of these processes, or an earlier start still runs.
    """
    if launched_rank() or TorchElasticEnvironment.detect():
        raise ConfigError(
            "pipeline: started by a launcher, expected one process that launches the stages; "
            "run python train.py with \"pipeline.launcher='torchrun --nproc-per-node=8'\", or srun python"
        )
    console, legs = Console(), plan(config, overrides)
    start = shlex.split(config.pipeline.launcher) or [sys.executable]
    with _lock(legs[0].run_dir.parent) as lock:
        console.print(table(legs))
        for leg in legs:
            if leg.is_finished:
                continue
            if leg.config.learn is Learning.affinity and leg.config.affinity.features is Features.cache:
                _run([sys.executable, "-c", _MAKE_POCKETS, *leg.overrides], leg, lock)
            _run([*start, script, *leg.overrides], leg, lock)
            if not leg.is_finished:
                console.print(
                    f"stage {leg.name} was stopped at step {leg.done() or 0:,}; the same command goes on"
                )
                return
            console.print(table(legs))


def table(legs: Sequence[Leg]) -> Table:
    """Where every stage stands."""
    shown = Table(title=f"pipeline: {legs[0].run_dir.parent}", title_justify="left")
    for column in ("stage", "steps", "of", "state", "starts from"):
        shown.add_column(column, justify="right" if column in ("steps", "of") else "left")
    parent, is_next = "random weights", True
    for leg in legs:
        done = leg.done()
        finished = (done or 0) >= leg.steps
        state = (
            "finished" if finished else "next" if is_next and done is None else "goes on" if done else "waits"
        )
        is_next &= finished
        shown.add_row(leg.name, f"{done or 0:,}", f"{leg.steps:,}", state, parent)
        parent = leg.name
    return shown


def _leg(name: str, folder: Path, overrides: Sequence[str], parent: Path | None) -> Leg:
    settings = [f"stage={name}", f"run_name={name}", f"paths.output_root={_quoted(folder)}"]
    if parent is not None:
        settings.append(f"init_from.path={_quoted(parent)}")
    given = _merged(overrides, settings)
    try:
        config = compose_config(given)
        steps = Curriculum(config.curriculum, config.seed).last_step(config.trainer.max_steps)
        run_dir = Path(config.paths.run_dir)
        require_same(run_dir, config)
    except ValueError as error:
        raise ConfigError(f"pipeline stage {name}: {error}") from error
    return Leg(name, run_dir, tuple(given), config, steps)


def _seed_of(override: str, number: int) -> str:
    """A seed counts on from stage to stage, as those of configs/stage/ do: under one and the same each stage
    would draw the samples and noise of the one before. Other settings stay as given.
    """
    key, _, value = override.partition("=")
    return f"{key}={int(value) + number}" if key == "seed" and value.isdecimal() else override


def _merged(overrides: Sequence[str], later: Sequence[str]) -> list[str]:
    """Both, where Hydra takes a key once: the later one's."""
    replaced = {_key(override) for override in later}
    return [*(override for override in overrides if _key(override) not in replaced), *later]


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", r"\'") + "'"


def _run(command: Sequence[str], leg: Leg, lock: IO[str]) -> None:
    """Run to the end, passing SIGTERM on; the child keeps the lock, should this process be killed."""
    process = subprocess.Popen(command, pass_fds=[lock.fileno()])
    previous = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
    if code:
        print(f"error: stage {leg.name} ended with code {code}; the same command goes on", file=sys.stderr)
        sys.exit(code if code > 0 else 1)


@contextmanager
def _lock(folder: Path) -> Generator[IO[str], None, None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: an earlier start of this pipeline, or a stage that it left, still runs; "
                "wait for it, or end it"
            ) from error
        yield lock
