# SPDX-License-Identifier: Apache-2.0
"""Where weights are read from: a run, one of its checkpoints, or a single safetensors file exported from one.

The file keeps the checkpoint's names (`network.*`, and the average's, `average.*`) and its record (step,
configuration, versions) as JSON in the metadata; it holds no optimiser state. It is written whole or not at
all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from omegaconf import OmegaConf
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from foldwright.kernels import Ops
from foldwright.model import AlphaFold3, ModelConfig
from foldwright.training import checkpoint
from foldwright.training.checkpoint import RECORD, CheckpointError, Record
from foldwright.training.ema import local_tensor

FORMAT = "foldwright-weights/1"
SUFFIX = ".safetensors"


class Weights(Enum):
    """The exponential moving average, or the weights as the optimiser left them."""

    ema = "ema"
    raw = "raw"

    @property
    def prefix(self) -> str:
        """Of the names of their tensors."""
        return "average." if self is Weights.ema else "network."


def locate(path: Path, key: str) -> Path:
    """The checkpoint or file that a path to a run, checkpoint or file means; `key` is the setting it came
    from.

    Raises CheckpointError if there is no sound one.
    """
    if path.suffix == SUFFIX and path.is_file():
        _metadata(path)
        return path.resolve()
    if (path / RECORD).is_file():
        reason = checkpoint.fault(path)
        if reason is not None:
            raise CheckpointError(f"{key}: {path} cannot be used: {reason}; name another checkpoint")
        return path.resolve()
    directory, passed_over = checkpoint.newest(path / "checkpoints")
    if directory is None:
        raise CheckpointError(
            f"{key}: got {path}, expected a run directory, a checkpoint in one, or a {SUFFIX} file; "
            + ("; ".join(passed_over) or "there is no checkpoint below it")
        )
    return directory.resolve()


def read_record(source: Path) -> Record:
    """The record of a located source."""
    if source.is_dir():
        return checkpoint.read_record(source)
    return Record(**json.loads(_metadata(source)["record"]))


def digest(source: Path) -> str:
    """What tells a located source from all others: 16 hex digits; a file has those of its checkpoint."""
    return checkpoint.digest(source) if source.is_dir() else _metadata(source)["digest"]


def stored_shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a located source, by name."""
    if source.is_dir():
        return checkpoint.stored_shapes(source)
    with safe_open(source, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def read(source: Path, tensors: dict[str, Tensor]) -> None:
    """Read the named tensors of a located source in place, each rank its part. Collective."""
    if source.is_dir():
        checkpoint.read(source, tensors)
        return
    with safe_open(source, framework="pt") as file:
        for name, tensor in tensors.items():
            value = file.get_tensor(name)
            if isinstance(tensor, DTensor):
                on_device = value.to(tensor.device)
                value = distribute_tensor(
                    on_device, tensor.device_mesh, tensor.placements, src_data_rank=None
                ).to_local()
            local_tensor(tensor).copy_(value)


def model_config(record: Record) -> ModelConfig:
    """The architecture and precision that a source was trained with."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), record.config["model"]))
    assert isinstance(config, ModelConfig)
    return config


def load_network(source: Path, weights: Weights, config: ModelConfig, ops: Ops) -> AlphaFold3:
    """A network with the weights of a located source, on the CPU, frozen and in evaluation mode.

    The source may hold more. Raises CheckpointError where it lacks these weights or holds another model.
    """
    with torch.random.fork_rng(devices=[]):
        network = AlphaFold3(config, ops).requires_grad_(False).eval()
    stored = stored_shapes(source)
    require(source, weights, stored)
    tensors = {weights.prefix + name: tensor for name, tensor in network.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    checkpoint.check_same(source, {name: stored[name] for name in shapes if name in stored}, shapes)
    read(source, tensors)
    return network


def require(source: Path, weights: Weights, stored: dict[str, tuple[int, ...]]) -> None:
    """CheckpointError where a source, a file exported with other weights alone, does not hold these."""
    if not any(name.startswith(weights.prefix) for name in stored):
        other = Weights.raw if weights is Weights.ema else Weights.ema
        raise CheckpointError(
            f"{source} holds no {weights.value} weights, only {other.value} ones; ask for those, or export "
            f"it again with --weights {weights.value} or both"
        )


def export(path: Path, out: Path, weights: Sequence[Weights]) -> Record:
    """Write weights of a run's newest sound checkpoint, or of a checkpoint, to one file; its record.

    Raises CheckpointError where there is none, ValueError for a name without the suffix.
    """
    if out.suffix != SUFFIX:
        raise ValueError(f"got {out}, expected a file name that ends in {SUFFIX}")
    source = locate(path, "RUN")
    if not source.is_dir():
        raise ValueError(f"got {path}, expected a run or checkpoint: this file was exported from one already")
    record = read_record(source)
    prefixes = tuple(kind.prefix for kind in weights)
    entries = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(prefixes) and isinstance(entry, TensorStorageMetadata)
    }
    checkpoint.read(source, tensors)
    kept = asdict(record) | {"files": {}}
    metadata = {"format": FORMAT, "digest": checkpoint.digest(source), "record": json.dumps(kept)}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    save_file(tensors, partial, metadata)
    partial.replace(out)
    return record


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); export it again") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: got format {metadata.get('format')!r}, expected {FORMAT!r}; export it again with "
            "scripts/export_checkpoint.py"
        )
    return metadata


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the weights of a run or checkpoint to one safetensors file, which init_from.path accepts."""
    parser = argparse.ArgumentParser(prog="export_checkpoint.py", description=main.__doc__)
    parser.add_argument("run", type=Path, help="run directory (its newest sound checkpoint) or checkpoint")
    parser.add_argument("out", type=Path, help=f"file to write, NAME{SUFFIX}")
    parser.add_argument(
        "--weights", choices=["ema", "raw", "both"], default="both", help="averaged, as trained, or both"
    )
    flags = parser.parse_args(arguments)
    weights = list(Weights) if flags.weights == "both" else [Weights(flags.weights)]
    try:
        record = export(flags.run, flags.out, weights)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    size = flags.out.stat().st_size / 2**20
    names = " and ".join(kind.value for kind in weights)
    Console().print(f"step {record.step:,}: {names} weights, {size:,.1f} MiB, in {flags.out}")
    return 0
