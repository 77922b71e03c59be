# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one format for one process, DDP and FSDP2, on any number of ranks.

A checkpoint is a directory `step-00000120` of torch.distributed.checkpoint's sharded files (weights, their
average, Adam's moments) and `checkpoint.json` (step, config, versions, size and CRC-32 of every file). It is
written under a `.partial` name and renamed last, so a directory under its final name is complete. Finding the
newest one verifies it, and passes over whatever is damaged. Only `.metadata` is a pickle, and DCP's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from foldwright.training.parallel import barrier, from_first_rank, gather, is_distributed, rank

FORMAT = "foldwright-checkpoint/1"
RECORD = "checkpoint.json"
PARTIAL = ".partial"
BEST = "best"
_NAMES_SHOWN = 5


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this model or code; the message says what differs."""


@dataclass
class CheckpointConfig:
    """Save every so many steps (and at the end, and on SIGTERM); keep the newest `keep_last`.

    The best by validation is saved and kept as well; `checkpoints/best` leads to it. `asynchronous`: train on
    while a copy is written (`checkpoint_writer`).
    """

    every_steps: int = 500
    keep_last: int = 3
    asynchronous: bool = True


@dataclass
class Record:
    """What `checkpoint.json` says. `files`: name -> [bytes, CRC-32]; `config` is the resolved one."""

    step: int
    seed: int
    config: dict[str, Any]
    skipped_steps: int = 0
    world_size: int = 1
    format: str = FORMAT
    version: str = ""
    commit: str = ""
    torch: str = str(torch.__version__)
    files: dict[str, list[int]] = field(default_factory=dict)


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def state_tensors(
    network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """All tensors of a training state by name, sharing memory with their owners."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = tensor
    return tensors


def save(
    root: Path,
    tensors: dict[str, Tensor],
    record: Record,
    keep_last: int,
    best_step: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write a checkpoint of `record.step` under `root`; drop all but the newest `keep_last` up to it and the
    best. Later ones are damaged, or the run would have gone on from them: they stand for nothing.

    Collective over `group`, all ranks. The link `best` leads to the checkpoint of `best_step`.
    """
    final = root / step_name(record.step)
    partial = final.with_name(final.name + PARTIAL)
    if rank() == 0:
        for stale in root.glob(f"*{PARTIAL}"):
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
    barrier(group)
    writer = dcp.FileSystemWriter(partial, sync_files=True)
    dcp.save(dict(tensors), storage_writer=writer, process_group=group, no_dist=not is_distributed())
    own = [path for path in sorted(partial.iterdir()) if _is_written_by(path, rank())]
    sums = gather({path.name: [path.stat().st_size, _crc32(path)] for path in own}, group)
    if rank() == 0:
        record.files = {name: entry for part in sums for name, entry in part.items()}
        record.version, record.commit = code_version()
        _write_record(partial, record)
        if final.exists():  # damaged: a sound one would have been resumed from
            shutil.rmtree(final)
        partial.rename(final)
        _sync_directory(root)
        _link_best(root, best_step)
        _prune(root, final, keep_last)
    barrier(group)
    return final


def load(directory: Path, tensors: dict[str, Tensor]) -> Record:
    """Read a verified checkpoint into the given tensors, in place, resharding as needed. Collective.

    Raises CheckpointError naming the first missing, unexpected and mis-shaped tensors, before any is written.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_same(directory, stored_shapes(directory), wanted)
    read(directory, tensors)
    return read_record(directory)


def stored_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a checkpoint, by name."""
    entries = dcp.FileSystemReader(directory).read_metadata().state_dict_metadata
    return {
        name: tuple(entry.size) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)
    }


def read(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Read the named tensors in place, whatever else the checkpoint holds. Collective."""
    if tensors:
        reader = dcp.FileSystemReader(directory)
        with warnings.catch_warnings():  # that one process reads is what no_dist says
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(dict(tensors), storage_reader=reader, no_dist=not is_distributed())


def complete(root: Path) -> list[Path]:
    """All checkpoints under `root` that were written to their end, damaged ones included, oldest first."""
    return sorted(path for path in root.glob("step-*") if not path.name.endswith(PARTIAL))


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint under `root`, and why each newer one was passed over. Collective."""
    return from_first_rank(_newest(root) if rank() == 0 else (None, []))


def read_record(directory: Path) -> Record:
    """Read `checkpoint.json`; CheckpointError where another format wrote it."""
    fields = json.loads((directory / RECORD).read_text())
    if fields.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory}: got format {fields.get('format')!r}, expected {FORMAT!r}; "
            "train on with the code that wrote it, or start another run with run_name=NAME"
        )
    return Record(**fields)


def digest(directory: Path) -> str:
    """What tells a checkpoint from all others: 16 hex digits of its record, with the CRC of each file."""
    return hashlib.sha256((directory / RECORD).read_bytes()).hexdigest()[:16]


def fault(directory: Path) -> str | None:
    """Why a checkpoint cannot be used (unreadable record, missing, cut or altered file), or None if sound."""
    try:
        files = json.loads((directory / RECORD).read_text())["files"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"{RECORD} is unreadable ({error})"
    try:
        return _fault_of_files(directory, files)
    except OSError as error:  # rights, or a disk that fails: the one before may still be read
        return f"a file is unreadable ({error})"


def _fault_of_files(directory: Path, files: dict[str, list[int]]) -> str | None:
    for name, (size, crc) in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _crc32(path) != crc:
            return f"{name} was altered since it was written (CRC-32 differs)"
    return None


def code_version() -> tuple[str, str]:
    """Package version and git commit of the running code; an empty string for what cannot be told."""
    try:
        package = version("foldwright")
    except PackageNotFoundError:
        package = ""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return package, commit


def _newest(root: Path) -> tuple[Path | None, list[str]]:
    passed_over: list[str] = []
    for directory in sorted(root.glob("step-*"), reverse=True):
        reason = "was never finished" if directory.name.endswith(PARTIAL) else fault(directory)
        if reason is None:
            return directory, passed_over
        passed_over.append(f"{directory}: {reason}")
    return None, passed_over


def check_same(
    directory: Path, stored: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    """CheckpointError naming the first tensors in which two sets of shapes differ."""
    differences = {
        "missing in the checkpoint": sorted(wanted.keys() - stored.keys()),
        "unexpected in the checkpoint": sorted(stored.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(stored[name])} instead of {list(wanted[name])}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name] != wanted[name]
        ],
    }
    lines = difference_lines(differences)
    if lines:
        raise CheckpointError(
            f"{directory} holds another model:\n" + "\n".join(lines) + "\n"
            "Give the model settings it was trained with, or start another run with run_name=NAME."
        )


def difference_lines(differences: dict[str, list[str]]) -> list[str]:
    """A line for each kind of difference that has any names: how many, and the first few."""
    return [
        f"  {len(names)} {what}: {', '.join(names[:_NAMES_SHOWN])}" + ", ..." * (len(names) > _NAMES_SHOWN)
        for what, names in differences.items()
        if names
    ]


def _is_written_by(path: Path, writer: int) -> bool:
    """DCP names data files `__RANK_NUMBER.distcp`; the metadata is rank 0's."""
    return path.name.startswith(f"__{writer}_") or (writer == 0 and path.name == ".metadata")


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _write_record(directory: Path, record: Record) -> None:
    with (directory / RECORD).open("w") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_best(root: Path, step: int | None) -> None:
    """Point the link `best` to a step's checkpoint, at once."""
    best = root / step_name(step or 0)
    if step is not None and best.is_dir():
        link = root / f"{BEST}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(best.name)
        link.replace(root / BEST)


def _prune(root: Path, newest: Path, keep_last: int) -> None:
    """Delete old checkpoints but the best, record first, so that one half deleted never looks complete."""
    best = (root / BEST).resolve()
    for directory in [path for path in complete(root) if path <= newest][:-keep_last]:
        if directory.resolve() == best:
            continue
        (directory / RECORD).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
