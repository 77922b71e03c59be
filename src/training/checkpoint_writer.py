# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written while training goes on.

Tensors are copied to host memory, which is all that a step waits for; a thread writes the copy and publishes
it as `checkpoint.save` does, meeting the other ranks in a process group of its own. At most one is under way.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointConfig, Record
from foldwright.training.parallel import is_distributed


class WriteError(RuntimeError):
    """A checkpoint could not be written; the message says where, why, and what to do."""


class CheckpointWriter:
    """Writes the checkpoints of a run. All methods but `check` are collective.

    `timeout` is how long a rank waits for the others.
    """

    def __init__(self, root: Path, config: CheckpointConfig, timeout: timedelta | None = None) -> None:
        self.root, self.config, self.timeout = root, config, timeout
        self.latest: Path | None = None
        self._group: dist.ProcessGroup | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def write(self, tensors: dict[str, Tensor], record: Record, best_step: int | None = None) -> None:
        """Begin a checkpoint of the tensors as they are now; first finish the one before."""
        self.finish()
        if is_distributed() and self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=self.timeout)
        if self.config.asynchronous:
            # a stager for each checkpoint: torch 2.11's closes itself after the first
            staged = DefaultStager(StagingOptions(False, False, False, False)).stage(dict(tensors))
            assert isinstance(staged, dict)
            tensors = staged
        self._pending = self._thread.submit(
            checkpoint.save, self.root, tensors, record, self.config.keep_last, best_step, self._group
        )
        if not self.config.asynchronous:
            self.finish()

    def check(self) -> None:
        """Raise WriteError if the checkpoint on its way has failed."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is on its way; WriteError if it failed."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        error = pending.exception()
        if error is not None:
            free = shutil.disk_usage(self.root).free / 2**20
            raise WriteError(
                f"a checkpoint could not be written to {self.root} ({free:.0f} MiB are free there): "
                f"{_reason(error)}; the run stops, since it could not be resumed: see to the disk, then give "
                "the same command"
            ) from error
        self.latest = pending.result()


def _reason(error: BaseException) -> str:
    """In one line; of what DCP gathered from its ranks, the first rank's own error."""
    if isinstance(error, CheckpointException):
        error = next((first for first, _ in error.failures.values()), error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
