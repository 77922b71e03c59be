# SPDX-License-Identifier: Apache-2.0
"""The hand-off between stages: which tensors of a parent a new run starts from, and which it freezes.

Strict: every tensor of the new network must be in the parent with its shape, or be declared new, and the
parent must hold no other. All of this is decided from names and shapes before anything is built or written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from foldwright.training import weights as weights_source
from foldwright.training.checkpoint import CheckpointError, difference_lines
from foldwright.training.ema import local_tensor
from foldwright.training.weights import Weights

HAND_OFF_FILE = "hand_off.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_NAMES_SHOWN = 5


class OptimizerState(Enum):
    """Whether Adam's moments and step counts of the parent are taken over, or start anew."""

    keep = "keep"
    reset = "reset"


@dataclass
class InitFromConfig:
    """`path`: a run directory (its newest sound checkpoint), a checkpoint, or a file exported from one;
    `weights`: which the network starts from (the average starts from the average, where the parent holds it);
    `stage`: the parent's.

    `new`: names or patterns of modules that the parent need not have. SI is silent on the optimiser between
    stages; keeping it is the recommended reading (spec 7.1).
    """

    path: str | None = None
    stage: str | None = None
    weights: Weights = Weights.raw
    optimizer: OptimizerState = OptimizerState.keep
    new: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HandOff:
    """A decided hand-off: the parent, and the names of the network's tensors that are loaded or new."""

    parent: Path
    parent_stage: str
    parent_step: int
    weights: Weights
    optimizer: OptimizerState
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    averaged: bool = True  # whether the parent holds an average; else that starts from the weights


def matching(patterns: Iterable[str], names: Sequence[str], key: str) -> set[str]:
    """Names that a pattern matches, or in the module it names; ValueError for one without a match."""
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not found:
            modules = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"{key}: got {pattern!r}, which matches no tensor of the network; "
                f"expected a name or pattern below {', '.join(modules)}"
            )
        matched |= found
    return matched


def freeze(network: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """Take the matching parameters out of training; their names. ValueError for a pattern without a match."""
    parameters = dict(network.named_parameters())
    frozen = matching(patterns, list(parameters), "freeze")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return tuple(name for name in parameters if name in frozen)


def plan(config: InitFromConfig, network: nn.Module, stage: str) -> HandOff | None:
    """Decide what a network, which may be on the meta device, takes from its parent; None without a parent.

    Raises ValueError where the stage needs a parent and none is named or a pattern matches nothing, and
    CheckpointError for a parent of another stage, unsound, or with other tensors.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    declared = matching(config.new, list(shapes), "init_from.new")
    if config.path is None:
        if config.stage is not None:
            raise ValueError(
                f"init_from.path: got nothing, but stage={stage} goes on from a {config.stage} run; add "
                "init_from.path=RUN, its run directory or checkpoint, or init_from.stage=null to start afresh"
            )
        return None
    parent = weights_source.locate(Path(config.path), "init_from.path")
    record = weights_source.read_record(parent)
    parent_stage = str(record.config.get("stage"))
    if config.stage is not None and parent_stage != config.stage:
        raise CheckpointError(
            f"init_from.path: {parent} is of stage {parent_stage!r}, expected {config.stage!r}; name a "
            f"run of that stage, or allow this one with init_from.stage={parent_stage}"
        )
    stored = weights_source.stored_shapes(parent)
    weights_source.require(parent, config.weights, stored)
    available = _of(config.weights, stored)
    _check(parent, available, shapes, declared)
    loaded = tuple(name for name in shapes if name in available)
    new = tuple(name for name in shapes if name not in available)
    if config.optimizer is OptimizerState.keep:
        trained = [n for n, p in network.named_parameters() if p.requires_grad and n in available]
        _check_moments(parent, stored, trained)
    averaged = bool(_of(Weights.ema, stored))
    return HandOff(parent, parent_stage, record.step, config.weights, config.optimizer, loaded, new, averaged)


def parent_digest(hand_off: HandOff | None, run_dir: Path) -> str:
    """Digest of the checkpoint that a run started from: of the parent planned, or as hand_off.json keeps it;
    "" without a parent.
    """
    if hand_off is not None:
        return weights_source.digest(hand_off.parent)
    kept = run_dir / HAND_OFF_FILE
    return (json.loads(kept.read_text()).get("parent_digest") or "") if kept.is_file() else ""


@torch.no_grad()
def apply(
    hand_off: HandOff, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Read the parent's tensors into a training state, in place, resharding as needed. Collective.

    The average of what is new or frozen is the weight itself.
    """
    weights, means = network.state_dict(), average.state_dict()
    parent, loaded_names = hand_off.parent, hand_off.loaded
    weights_source.read(parent, {hand_off.weights.prefix + n: weights[n] for n in loaded_names})
    if hand_off.averaged:
        weights_source.read(parent, {Weights.ema.prefix + n: means[n] for n in loaded_names})
    parameters = dict(network.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    for name in frozen.union(hand_off.new, () if hand_off.averaged else loaded_names):
        local_tensor(means[name]).copy_(local_tensor(weights[name]))
    if hand_off.optimizer is OptimizerState.keep:
        loaded = set(hand_off.loaded) - frozen
        moments = {
            f"optimizer.{name}.{key}": tensor
            for name, parameter in parameters.items()
            if name in loaded
            for key, tensor in optimizer.state[parameter].items()
        }
        weights_source.read(parent, moments)


def table(hand_off: HandOff | None, network: nn.Module) -> Table:
    """How many tensors of each module are loaded, new, and frozen."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    tensors = network.state_dict()
    loaded = set(hand_off.loaded) if hand_off else set()
    title = "no parent: the tensors start at random"
    if hand_off:
        title = (
            f"{hand_off.weights.value} weights of {hand_off.parent} ({hand_off.parent_stage}, step "
            f"{hand_off.parent_step:,}), optimiser: {hand_off.optimizer.value}"
        )
    counts: dict[str, Counter[str]] = {}
    for name, tensor in tensors.items():
        count = counts.setdefault(_module(name), Counter())
        count["loaded" if name in loaded else "new"] += 1
        count["frozen"] += name in frozen
        count["size"] += tensor.numel()
    shown = Table(title=title, title_justify="left")
    for column in ("module", "loaded", "new", "frozen", "numbers"):
        shown.add_column(column, justify="left" if column == "module" else "right")
    for module, count in counts.items():
        shown.add_row(module, *(f"{count[column]:,}" for column in ("loaded", "new", "frozen", "size")))
    return shown


def write(hand_off: HandOff | None, network: nn.Module, run_dir: Path) -> None:
    """Store what each tensor starts from, and whether it is frozen, as hand_off.json."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    loaded = set(hand_off.loaded) if hand_off else set()
    record = {
        "parent": str(hand_off.parent) if hand_off else None,
        "parent_digest": weights_source.digest(hand_off.parent) if hand_off else None,
        "stage": hand_off.parent_stage if hand_off else None,
        "step": hand_off.parent_step if hand_off else None,
        "weights": hand_off.weights.value if hand_off else None,
        "optimizer": hand_off.optimizer.value if hand_off else None,
        "tensors": {
            name: ("loaded" if name in loaded else "new") + ", frozen" * (name in frozen)
            for name in network.state_dict()
        },
    }
    (run_dir / HAND_OFF_FILE).write_text(json.dumps(record, indent=1) + "\n")


def _of(weights: Weights, stored: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's tensors among those stored, by the network's names."""
    prefix = weights.prefix
    return {name.removeprefix(prefix): shape for name, shape in stored.items() if name.startswith(prefix)}


def _module(name: str) -> str:
    """The first two parts of a tensor's name, or the first where the second is the tensor itself."""
    return ".".join(name.split(".")[:-1][:2])


def _check(
    parent: Path,
    available: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
    declared: set[str],
) -> None:
    differences = {
        "missing in the parent and not declared in init_from.new": sorted(
            wanted.keys() - available.keys() - declared
        ),
        "of the parent unknown to this model": sorted(available.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(available[name])} instead of {list(shape)}"
            for name, shape in wanted.items()
            if available.get(name, shape) != shape
        ],
    }
    lines = difference_lines(differences)
    if lines:
        raise CheckpointError(
            f"init_from.path: {parent} does not fit this model:\n" + "\n".join(lines) + "\n"
            "Give the parent's model settings, or declare modules that it lacks in init_from.new."
        )


def _check_moments(parent: Path, stored: dict[str, tuple[int, ...]], trained: Sequence[str]) -> None:
    missing = [n for n in trained if any(f"optimizer.{n}.{key}" not in stored for key in _MOMENTS)]
    if missing:
        raise CheckpointError(
            f"init_from.path: {parent} holds no optimiser state of {len(missing)} tensors that are trained "
            f"now ({', '.join(missing[:_NAMES_SHOWN])}), which an exported file never has, and a run not of "
            "what it froze; take init_from.optimizer=reset"
        )
