# SPDX-License-Identifier: Apache-2.0
"""A pool of worker processes in which every task has a wall-clock limit and no task can take others down.

A worker that runs over the limit, or dies (a crash inside a C library, out of memory, an unforeseen error),
is replaced; its task comes back as a Failure and all others go on.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

State = TypeVar("State")
Task = TypeVar("Task")
Result = TypeVar("Result")

_READY = "ready"
_CONTEXT = multiprocessing.get_context("forkserver")


class Failure(NamedTuple):
    """Why a task has no result: a reason to count ("time_limit", "worker_crashed"), and details."""

    reason: str
    detail: str


class _Worker(Generic[Task]):
    """One process, its pipe, and the task it is at."""

    def __init__(self, setup: Callable[[], Any], function: Callable[[Any, Any], Any]) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, setup, function))
        self.process.start()
        theirs.close()
        self.is_ready = False
        self.task: Task | None = None
        self.deadline = float("inf")

    def assign(self, task: Task, limit_s: float) -> None:
        self.task, self.deadline = task, time.monotonic() + limit_s
        self.pipe.send(task)

    def stop(self) -> int | None:
        """End the process if it still runs; its exit code."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def run_tasks(
    function: Callable[[State, Task], Result],
    setup: Callable[[], State],
    tasks: Iterable[Task],
    workers: int,
    limit_s: float,
) -> Iterator[tuple[Task, Result | Failure]]:
    """Yield every task with its result, in the order in which they end.

    Args:
        function: called as function(state, task) in a worker; module-level, arguments and result picklable.
        setup: makes a worker's state, once a process.
        tasks: what to do.
        workers: number of processes.
        limit_s: seconds of wall-clock time a task may take.

    Raises:
        RuntimeError: a worker died before it was ready, so that another would too.
    """
    waiting = list(tasks)
    if not waiting:
        return
    left = iter(waiting)
    pool: list[_Worker[Task]] = [_Worker(setup, function) for _ in range(min(max(workers, 1), len(waiting)))]
    try:
        exhausted = False
        while True:
            for worker in pool:
                if worker.is_ready and worker.task is None and not exhausted:
                    try:
                        worker.assign(next(left), limit_s)
                    except StopIteration:
                        exhausted = True
            if exhausted and all(worker.task is None for worker in pool):
                return
            yield from _collect(pool, setup, function, limit_s)
    finally:
        for worker in pool:
            worker.stop()


def _collect(
    pool: list[_Worker[Task]], setup: Callable[[], Any], function: Callable[[Any, Any], Any], limit_s: float
) -> Iterator[tuple[Task, Any]]:
    """Wait for the next answer, death or deadline, and deal with all that are due."""
    patience = max(min(worker.deadline for worker in pool) - time.monotonic(), 0)
    wait([worker.pipe for worker in pool], None if patience == float("inf") else patience)
    for position, worker in enumerate(pool):
        task = worker.task
        failure = None
        if worker.pipe.poll():
            try:
                answer = worker.pipe.recv()
            except EOFError:
                failure = Failure("worker_crashed", f"exit code {worker.stop()}; its error output is above")
            else:
                if worker.is_ready and task is not None:
                    worker.task, worker.deadline = None, float("inf")
                    yield task, answer
                worker.is_ready = True
        elif time.monotonic() >= worker.deadline:
            worker.stop()
            failure = Failure("time_limit", f"took more than {limit_s:g} s")
        if failure is not None:
            if task is None:
                raise RuntimeError(f"a worker process could not start: {failure.detail}")
            pool[position] = _Worker(setup, function)
            yield task, failure


def _serve(pipe: Connection, setup: Callable[[], Any], function: Callable[[Any, Any], Any]) -> None:
    """A worker's life: make the state, then answer tasks until the parent is gone."""
    state = setup()
    try:
        pipe.send(_READY)
        while True:
            pipe.send(function(state, pipe.recv()))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
