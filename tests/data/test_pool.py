# SPDX-License-Identifier: Apache-2.0
import os
import time

import pytest

from foldwright.data.pool import Failure, run_tasks


def make_state() -> int:
    return 10


def broken_state() -> int:
    os._exit(3)


def work(state: int, task: object) -> object:
    if task == "hang":
        time.sleep(60)
    if task == "die":
        os._exit(7)
    if task == "raise":
        raise KeyError("unforeseen")
    return state * int(str(task))


def test_hanging_dying_and_raising_tasks_cost_only_themselves():
    tasks = [1, "hang", 2, "die", 3, "raise", 4, 5]
    start = time.monotonic()
    results = dict(run_tasks(work, make_state, tasks, workers=2, limit_s=2.0))
    assert time.monotonic() - start < 40
    assert {task: result for task, result in results.items() if isinstance(task, int)} == {
        n: 10 * n for n in range(1, 6)
    }
    assert results["hang"] == Failure("time_limit", "took more than 2 s")
    assert results["die"].reason == results["raise"].reason == "worker_crashed"
    assert "exit code 7" in results["die"].detail


def test_no_tasks_are_no_trouble():
    assert list(run_tasks(work, make_state, [], workers=1, limit_s=1.0)) == []


def test_a_worker_that_cannot_start_ends_the_run():
    with pytest.raises(RuntimeError, match=r"could not start.*exit code 3"):
        list(run_tasks(work, broken_state, [1], workers=1, limit_s=5.0))
