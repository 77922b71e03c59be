# SPDX-License-Identifier: Apache-2.0
"""A rank that dies, or hangs, ends the others with a message, without anyone who watches over them."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 15), (signal.SIGSTOP, 60)])
def test_the_other_rank_ends_with_a_message(runs, uninterrupted, number, seconds):
    """Started as srun starts tasks: no agent kills the survivor. The time-out is 15 s. Then one resumes."""
    name = f"lost_{number.name}"
    settings = ("trainer.devices=2", "trainer.timeout_minutes=0.25", "trainer.sharding=fsdp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py", *runs.overrides(name, *settings)],
            env=os.environ | meeting | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in range(2)
    ]
    try:
        runs.wait_for_step(ranks[0], name, 4)
        os.killpg(ranks[1].pid, number)
        killed = time.monotonic()
        output = ranks[0].communicate(timeout=seconds)[0]
        assert time.monotonic() - killed < seconds
        assert ranks[0].returncode == 1, output
        assert "error: rank 0 of 2 waited in vain for another one" in output
        assert "Traceback" not in output.split("error: rank 0")[1]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                os.killpg(rank.pid, signal.SIGKILL)
            rank.communicate()
    if number == signal.SIGKILL:
        runs.here(name, "trainer.max_steps=8")
        runs.assert_close(runs.metrics(name), runs.metrics(uninterrupted))
