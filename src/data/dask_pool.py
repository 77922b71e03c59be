# SPDX-License-Identifier: Apache-2.0
"""The pool of `pool.py` on a Dask cluster: batches of tasks go to its workers, each result comes back here.

A Dask worker runs its batch in a process of its own, so that time limits and crashes cost a task alone, as on
one machine. A worker that is lost has its batch done again elsewhere. Needs `dask.distributed`, and files and
folders that all workers see under the same names.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from foldwright.data.pool import Failure, run_tasks

State = TypeVar("State")
Task = TypeVar("Task")
Result = TypeVar("Result")
_RETRIES = 2


def run_on_dask(
    function: Callable[[State, Task], Result],
    setup: Callable[[], State],
    tasks: Iterable[Task],
    where: str,
    limit_s: float,
    batch: int = 16,
) -> Iterator[tuple[Task, Result | Failure]]:
    """As `run_tasks`, on the cluster `where`.

    Args:
        function, setup, tasks, limit_s: see `run_tasks`.
        where: a scheduler's address ("tcp://host:8786"), the scheduler file that `dask scheduler` and its
            workers share (as under Slurm), or "ssh:HOST,HOST,...", the first of which schedules.
        batch: tasks that travel together.

    Raises:
        ValueError: Dask is not installed, or `where` is none of the above.
    """
    left = list(tasks)
    batches = [left[start : start + batch] for start in range(0, len(left), batch)]
    if not batches:
        return
    with _client(where) as client:
        from distributed import as_completed

        futures = {
            client.submit(
                _run_batch, function, setup, members, limit_s, retries=_RETRIES, pure=False
            ): members
            for members in batches
        }
        for future in as_completed(futures):
            if future.status == "finished":
                yield from future.result()
            else:
                reason = Failure("worker_crashed", f"on the Dask cluster: {future.exception()}")
                yield from ((task, reason) for task in futures[future])
            del futures[future]
            future.release()


@contextmanager
def _client(where: str) -> Iterator[Any]:
    """A client of the cluster, which is taken down again if it was started here."""
    try:
        import distributed
    except ImportError as error:
        raise ValueError(
            "--dask: dask.distributed is not installed; install it with `pip install foldwright[dask]`"
        ) from error
    if where.startswith("ssh:"):
        with _ssh_cluster(where) as cluster, distributed.Client(cluster) as client:
            yield client
        return
    if not Path(where).is_file() and "://" not in where:
        raise ValueError(
            f"--dask: got {where!r}, expected tcp://HOST:PORT, a scheduler file or ssh:HOST,HOST,..."
        )
    try:
        client = (
            distributed.Client(scheduler_file=where) if Path(where).is_file() else distributed.Client(where)
        )
    except OSError as error:
        raise ValueError(f"--dask: no scheduler answers at {where} ({error})") from error
    with client:
        yield client


def _ssh_cluster(where: str) -> Any:
    """A scheduler on the first host and a worker of as many threads as CPUs on each; hosts may repeat."""
    hosts = [host for host in where.removeprefix("ssh:").split(",") if host]
    if not hosts:
        raise ValueError(f"--dask: got {where!r}, expected ssh:HOST,HOST,...")
    try:
        import asyncssh
        import distributed
    except ImportError as error:
        raise ValueError(
            "--dask: ssh needs asyncssh; install it with `pip install foldwright[dask]`"
        ) from error
    try:
        return distributed.SSHCluster([hosts[0], *hosts])
    except (OSError, RuntimeError, asyncssh.Error) as error:  # Dask wraps what failed on a host
        cause = error.__cause__ or error
        raise ValueError(
            f"--dask: no cluster on {', '.join(dict.fromkeys(hosts))}: {cause}; `ssh HOST python` must work "
            "without a password, see ~/.ssh/config"
        ) from error


def _run_batch(
    function: Callable[[Any, Any], Any], setup: Callable[[], Any], tasks: list[Any], limit_s: float
) -> list[tuple[Any, Any]]:
    """Runs in a Dask worker, whose process may not have children unless it is told that it may."""
    multiprocessing.current_process().daemon = False
    return list(run_tasks(function, setup, tasks, 1, limit_s))
