# SPDX-License-Identifier: Apache-2.0
"""Many devices: strategies (one device, DDP, FSDP2, HSDP), sharding, and the few collectives a step needs.

FSDP2 runs through Lightning's ModelParallelStrategy, whose automatic mesh would mean tensor parallelism: ours
shards over all ranks, or within groups of them that replicate each other (HSDP), and leaves gradients
unreduced until the last batch of a step.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities import rank_zero
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from foldwright.layers.conditioned import ConditionedBlock
from foldwright.layers.linear import Linear
from foldwright.layers.stack import Recompute, Stack

T = TypeVar("T")


class Sharding(Enum):
    """`auto` is one device where there is one, else DDP. `fsdp` shards over all devices, `hsdp` within groups
    of `trainer.shard_size` that replicate each other.
    """

    auto = "auto"
    single = "single"
    ddp = "ddp"
    fsdp = "fsdp"
    hsdp = "hsdp"


class Accelerator(Enum):
    """`auto` takes the GPUs where there are any."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


@dataclass
class TrainerConfig:
    """What the run uses of the machine. `devices` = 0 takes one for each process that torchrun started on
    the node; without torchrun every GPU of the node, or one CPU process.

    `batch_per_device` examples go through the network at once; the rest of the global batch is accumulated.
    `max_steps` (default: the end of the last phase) stops early, and a rerun with a larger one goes on.
    `tensor_parallel` neighbouring devices share the work of each example (`layers.tensor_parallel`), under
    any `sharding`. `shard_size`: devices that share the weights under `hsdp`; 0 takes those of a node. A rank
    that waits longer than `timeout_minutes` for the others ends the run.
    """

    accelerator: Accelerator = Accelerator.auto
    devices: int = 0
    num_nodes: int = 1
    sharding: Sharding = Sharding.auto
    shard_size: int = 0
    tensor_parallel: int = 1
    timeout_minutes: float = 10.0
    batch_per_device: int = 1
    max_steps: int | None = None
    recompute: Recompute = Recompute.block  # activations that the backward pass computes anew
    recompute_ops: list[str] = field(default_factory=list)  # costly ops that `selective` does not keep
    graphs: bool = True  # replay captured CUDA graphs: on a GPU, where weights are not sharded

    def captures(self) -> bool:
        """Whether CUDA graphs are wanted and possible: copies to the host's memory cannot be captured."""
        return self.graphs and self.recompute is not Recompute.offload


@dataclass(frozen=True)
class Layout:
    """Resolved processes: `device_type` cuda or cpu, one process a device.

    Weights are spread over `shard_size` neighbouring ranks, and replicated over the rest. `tensor_parallel`
    neighbours work on the same examples.
    """

    device_type: str
    devices: int
    num_nodes: int
    sharding: Sharding
    shard_size: int = 1
    tensor_parallel: int = 1

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    def describe(self) -> str:
        """For the banner."""
        shards = f" of {self.shard_size}" * (self.sharding is Sharding.hsdp)
        tensors = f", tensors over {self.tensor_parallel}" * (self.tensor_parallel > 1)
        return self.sharding.value + shards + tensors

    def accumulation(self, global_batch: int, batch_per_device: int) -> int:
        """Batches a process runs for one step; ValueError where the global batch does not divide."""
        at_once = self.world_size // self.tensor_parallel * batch_per_device
        if global_batch % at_once:
            raise ValueError(
                f"global_batch: got {global_batch}, expected a multiple of {at_once} "
                f"({at_once // batch_per_device} processes x trainer.batch_per_device={batch_per_device}); "
                f"take global_batch={-(-global_batch // at_once) * at_once} or other trainer settings"
            )
        return global_batch // at_once


def resolve(config: TrainerConfig) -> Layout:
    """Decide device, process count and sharding; ValueError where the machine cannot serve the request."""
    has_gpu = torch.cuda.is_available()
    if config.accelerator is Accelerator.gpu and not has_gpu:
        raise ValueError("trainer.accelerator: got gpu, but this machine shows none; use trainer=cpu or auto")
    use_gpu = has_gpu and config.accelerator is not Accelerator.cpu
    devices = _devices(config, torch.cuda.device_count() if use_gpu else 1)
    if use_gpu and devices > torch.cuda.device_count():
        raise ValueError(
            f"trainer.devices: got {devices}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    world_size = devices * config.num_nodes
    sharding = config.sharding
    if sharding is Sharding.auto:
        sharding = Sharding.single if world_size == 1 else Sharding.ddp
    if sharding is Sharding.single and world_size > 1:
        raise ValueError(
            f"trainer.sharding: got single for {world_size} processes; take ddp, fsdp or hsdp, or "
            "trainer.devices=1"
        )
    shard_size = _shard_size(config.shard_size, sharding, devices, world_size)
    if config.tensor_parallel < 1 or devices % config.tensor_parallel:
        raise ValueError(
            f"trainer.tensor_parallel: got {config.tensor_parallel}, expected a divisor of the {devices} "
            "devices of a node"
        )
    kind = "cuda" if use_gpu else "cpu"
    return Layout(kind, devices, config.num_nodes, sharding, shard_size, config.tensor_parallel)


def _devices(config: TrainerConfig, there: int) -> int:
    """Of a node. Under torchrun there is a process for each, whatever the machine has."""
    if not dist.is_torchelastic_launched():
        return config.devices or there
    started, in_all = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    devices = config.devices or started
    if (devices, devices * config.num_nodes) != (started, in_all):
        raise ValueError(
            f"trainer.devices, trainer.num_nodes: got {devices} on each of {config.num_nodes}, but torchrun "
            f"started {started} processes here and {in_all} in all; expected "
            f"trainer.devices={started} trainer.num_nodes={in_all // started}"
        )
    return devices


def _shard_size(wanted: int, sharding: Sharding, devices: int, world_size: int) -> int:
    if sharding is not Sharding.hsdp:
        if wanted:
            raise ValueError(
                f"trainer.shard_size: got {wanted} with trainer.sharding={sharding.value}; only hsdp reads it"
            )
        return world_size if sharding is Sharding.fsdp else 1
    size = wanted or devices
    if world_size % size or size == world_size:
        raise ValueError(
            f"trainer.shard_size: got {size} for {world_size} processes, expected a divisor below their "
            "number: hsdp shards within groups of that size and replicates across them; fsdp shards over all"
        )
    return size


class ShardedDataParallel(ModelParallelStrategy):
    """FSDP2; the module shards itself over `device_mesh` in `configure_model`.

    The mesh has one axis, all ranks, or two, replicas and the ranks that shard each: fully_shard reads two as
    HSDP.
    """

    def __init__(self, layout: Layout, timeout: timedelta) -> None:
        super().__init__(layout.world_size, tensor_parallel_size=1, timeout=timeout)
        self.layout = layout

    def setup_environment(self) -> None:
        """As upstream's, but for the mesh, which is always two axes of data and tensors there."""
        self._setup_distributed()
        shards, replicas = self.layout.shard_size, self.layout.world_size // self.layout.shard_size
        sizes: tuple[int, ...] = (shards,) if replicas == 1 else (replicas, shards)
        names = ("replicate", "shard")[-len(sizes) :]
        self._device_mesh = init_device_mesh(self.root_device.type, sizes, mesh_dim_names=names)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Lightning enters this for all but the last batch of a step (upstream it knows DDP alone)."""
        assert self.model is not None
        sharded = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)


class Replicated(DDPStrategy):
    """One process a device, each with all weights. Processes and group are DDP's; the module is not wrapped:
    its gradients lie in one buffer and are averaged once a step (`FlatGradients`).
    """

    def configure_ddp(self) -> None:
        """No wrapper: weights are the same everywhere, drawn from the seed or read from a checkpoint."""


def build_strategy(layout: Layout, timeout_minutes: float) -> Strategy:
    """The Lightning strategy of a layout."""
    timeout = timedelta(minutes=timeout_minutes)
    if layout.sharding in (Sharding.fsdp, Sharding.hsdp):
        return ShardedDataParallel(layout, timeout)
    if layout.sharding is Sharding.ddp:
        return Replicated(timeout=timeout)
    return SingleDeviceStrategy("cuda:0" if layout.device_type == "cuda" else "cpu")


def shard(network: nn.Module, mesh: DeviceMesh, gathered: torch.dtype) -> nn.Module:
    """Shard a network in place over a mesh, each block of its stacks by itself.

    `gathered` is the dtype in which a block's linear layers travel and lie unsharded: that of its products,
    so nothing is lost that `Linear` would not drop itself. What a block reads in float32 (norms, the factors
    of PairBias: a thousandth of it) stays whole on every rank, averaged by `ShardedGradients`. Shards, sums
    of gradients and everything outside blocks are float32.
    """
    narrow = MixedPrecisionPolicy(gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    blocks = [block for stack in network.modules() if isinstance(stack, Stack) for block in stack.blocks]
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=narrow, ignored_params=_read_in_float32(block))
        if isinstance(block, ConditionedBlock):
            register_fsdp_forward_method(block, "condition")
    fully_shard(network, mesh=mesh)
    for method in ("sample", "sample_judged", "pose", "predict_affinity"):
        if hasattr(network, method):
            register_fsdp_forward_method(network, method)
    return network


def _read_in_float32(block: nn.Module) -> set[nn.Parameter]:
    linear = {p for module in block.modules() if isinstance(module, Linear) for p in module.parameters()}
    return {*block.parameters()} - linear


_LOST = ("gloo", "Application timeout", "NCCL")  # backends raise plain RuntimeErrors, too


class LostRankError(RuntimeError):
    """Another rank died, or did not come to a collective in time."""


@contextmanager
def lost_ranks_named(timeout_minutes: float) -> Generator[None, None, None]:
    """Turns what a collective raises for want of another rank into a LostRankError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        is_lost = isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)
        if not (dist.is_initialized() and is_lost):
            raise
        raise LostRankError(
            f"rank {dist.get_rank()} of {dist.get_world_size()} waited in vain for another one, which died "
            f"or did nothing for trainer.timeout_minutes={timeout_minutes:g} ({str(error).splitlines()[0]}); "
            "look for its last words in its own log, then give the same command: the run resumes at its "
            "newest checkpoint"
        ) from error


def reshard(network: nn.Module) -> None:
    """Give back what a forward without backward leaves gathered: the root group, which FSDP2 keeps for it."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def launched_rank() -> int:
    """This process's rank as its launcher tells it, before there is a process group."""
    return int(getattr(rank_zero.rank_zero_only, "rank", 0))


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def data_position(tensor_parallel: int) -> tuple[int, int]:
    """This rank's number among those that work on different examples, and how many they are."""
    return rank() // tensor_parallel, world_size() // tensor_parallel


def tensor_group(size: int) -> dist.ProcessGroup:
    """The group of `size` neighbouring ranks that this one is in. Collective over all ranks."""
    starts = range(0, dist.get_world_size(), size)
    groups = [dist.new_group(list(range(start, start + size))) for start in starts]
    return groups[rank() // size]


def barrier(group: dist.ProcessGroup | None = None) -> None:
    if is_distributed():
        dist.barrier(group)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over all ranks, the same on each."""
    if not is_distributed():
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one rank; every rank gets the same answer."""
    if not is_distributed():
        return flag
    vote = torch.tensor(int(flag), device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return bool(vote.item())


def from_first_rank(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, in order of rank; `group` is another one of all ranks than the default."""
    if not is_distributed():
        return [value]
    boxes: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(boxes, value, group)
    return boxes
