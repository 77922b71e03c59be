# SPDX-License-Identifier: Apache-2.0
"""Legs of training on several gloo processes, forked, so that imports are paid for once (conftest.Ranks).

Reads a line of JSON a leg: how many ranks, overrides, where what they print goes, and, for one to be killed,
its metrics.csv and the number of rows at which all ranks get SIGKILL. Answers with the exit codes.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from lightning.pytorch.utilities import rank_zero

from foldwright.training.cli import train
from foldwright.training.config import compose_config


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(rank: int, count: int, port: int, overrides: list[str], log: str) -> int:
    """Fork one rank, with the environment that torchrun would give it; its process id."""
    if process := os.fork():
        return process
    places = {
        "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count
    }  # fmt: skip
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked_ranks"}
    os.environ.update({name: str(value) for name, value in (places | addresses).items()})
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    rank_zero.rank_zero_only.rank = rank
    code = 1
    try:
        train(compose_config(overrides))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def rows(path: Path) -> int:
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def run(
    count: int, overrides: list[str], log: str, metrics: str | None = None, kill_at: int = 0
) -> list[int]:
    port = free_port()
    ranks = [start(rank, count, port, overrides, log) for rank in range(count)]
    while metrics and rows(Path(metrics)) < kill_at:
        time.sleep(0.01)
        if any(os.waitid(os.P_PID, rank, os.WEXITED | os.WNOHANG | os.WNOWAIT) for rank in ranks):
            break
    if metrics:
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


if __name__ == "__main__":
    compose_config([])  # what it imports, too
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
