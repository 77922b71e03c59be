# SPDX-License-Identifier: Apache-2.0
"""Many devices: the strategies (one device, DDP, FSDP2), sharding, and the few collectives a step needs.

FSDP2 runs through Lightning's ModelParallelStrategy, whose automatic mesh would mean tensor parallelism: ours
is data-parallel over all ranks, and leaves gradients unreduced until the last batch of a step.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities import rank_zero
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from foldwright.layers.stack import Recompute, Stack

T = TypeVar("T")


class Sharding(Enum):
    """`auto` is one device where there is one, else DDP."""

    auto = "auto"
    single = "single"
    ddp = "ddp"
    fsdp = "fsdp"


class Accelerator(Enum):
    """`auto` takes the GPUs where there are any."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


@dataclass
class TrainerConfig:
    """What the run uses of the machine. `devices` = 0 takes every GPU of the node, or one CPU process.

    `batch_per_device` examples go through the network at once; the rest of the global batch is accumulated.
    `max_steps` (default: the end of the last phase) stops early, and a rerun with a larger one goes on.
    """

    accelerator: Accelerator = Accelerator.auto
    devices: int = 0
    num_nodes: int = 1
    sharding: Sharding = Sharding.auto
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
    """Resolved processes: `device_type` cuda or cpu, one process a device."""

    device_type: str
    devices: int
    num_nodes: int
    sharding: Sharding

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    def accumulation(self, global_batch: int, batch_per_device: int) -> int:
        """Batches a process runs for one step; ValueError where the global batch does not divide."""
        at_once = self.world_size * batch_per_device
        if global_batch % at_once:
            raise ValueError(
                f"global_batch: got {global_batch}, expected a multiple of {at_once} "
                f"({self.world_size} processes x trainer.batch_per_device={batch_per_device}); "
                f"take global_batch={-(-global_batch // at_once) * at_once} or other trainer settings"
            )
        return global_batch // at_once


def resolve(config: TrainerConfig) -> Layout:
    """Decide device, process count and sharding; ValueError where the machine cannot serve the request."""
    has_gpu = torch.cuda.is_available()
    if config.accelerator is Accelerator.gpu and not has_gpu:
        raise ValueError("trainer.accelerator: got gpu, but this machine shows none; use trainer=cpu or auto")
    use_gpu = has_gpu and config.accelerator is not Accelerator.cpu
    devices = config.devices or (torch.cuda.device_count() if use_gpu else 1)
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
            f"trainer.sharding: got single for {world_size} processes; take ddp or fsdp, or trainer.devices=1"
        )
    return Layout("cuda" if use_gpu else "cpu", devices, config.num_nodes, sharding)


class ShardedDataParallel(ModelParallelStrategy):
    """FSDP2 over all ranks; the module shards itself in `configure_model`."""

    def __init__(self, world_size: int) -> None:
        super().__init__(data_parallel_size=world_size, tensor_parallel_size=1)

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


def build_strategy(layout: Layout) -> Strategy:
    """The Lightning strategy of a layout."""
    if layout.sharding is Sharding.fsdp:
        return ShardedDataParallel(layout.world_size)
    if layout.sharding is Sharding.ddp:
        return Replicated()
    return SingleDeviceStrategy("cuda:0" if layout.device_type == "cuda" else "cpu")


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a network in place over the mesh's data-parallel axis, each block of its stacks by itself."""
    data_parallel = mesh["data_parallel"]
    for module in network.modules():
        if isinstance(module, Stack):
            for block in module.blocks:
                fully_shard(block, mesh=data_parallel)
    fully_shard(network, mesh=data_parallel)
    for method in ("sample", "sample_judged", "pose", "predict_affinity"):
        if hasattr(network, method):
            register_fsdp_forward_method(network, method)
    return network


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


def barrier() -> None:
    if is_distributed():
        dist.barrier()


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


def gather(value: T) -> list[T]:
    """Every rank's value, in order of rank."""
    if not is_distributed():
        return [value]
    boxes: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(boxes, value)
    return boxes
