# SPDX-License-Identifier: Apache-2.0
"""A rank that dies, or hangs, ends the others with a message, without anyone who watches over them."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "seconds"),
    [(signal.SIGKILL, 15), pytest.param(signal.SIGSTOP, 60, marks=pytest.mark.thorough)],
)
def test_the_other_rank_ends_with_a_message(runs, uninterrupted, number, seconds):
    """No agent is there to kill the survivor. The time-out is 15 s. Then one resumes."""
    name = f"lost_{number.name}"
    settings = ("trainer.timeout_minutes=0.25", "trainer.sharding=fsdp")
    ranks = runs.start_ranks(2, name, *settings)
    try:
        runs.wait_for_step(ranks[0], name, 4)
        os.killpg(ranks[1].pid, number)
        output = ranks[0].wait(timeout=seconds)
        assert ranks[0].returncode == 1, output
        assert "error: rank 0 of 2 waited in vain for another one" in output
        assert "Traceback" not in output.split("error: rank 0")[1]
    finally:
        runs.kill(*ranks)
    if number == signal.SIGKILL:
        runs.here(name, "trainer.max_steps=8")
        runs.assert_close(runs.metrics(name), runs.metrics(uninterrupted))
