# SPDX-License-Identifier: Apache-2.0
"""Scripts that train, in processes of their own whose imports are paid for once: forked by multiprocessing's
server, which has them behind it.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["foldwright.training.cli", "foldwright.kernels.triton_transition"])
TRAIN = Path(__file__).parents[2] / "train.py"


class Forked:
    """`python SCRIPT ARGUMENTS` in a folder, leader of a session."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        script: Path = TRAIN,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = tempfile.NamedTemporaryFile(prefix="said-")  # noqa: SIM115 it goes with the object
        given = (str(script), list(arguments), str(folder), environment or {}, self._log.name)
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    returncode = property(poll)

    def said(self) -> str:
        """Standard output and error until now."""
        return Path(self._log.name).read_text()

    def wait(self, timeout: float) -> str:
        """Until its end, which is made after `timeout` seconds; what it said."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise AssertionError(f"still ran after {timeout} s; output:\n{self.said()}")
        return self.said()

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has no session yet
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
        self._process.join()


def _run(script: str, arguments: list[str], folder: str, environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a script; the server's children have its own
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    os.environ.update(environment)
    # as Lightning finds it out when it is imported
    rank_zero.rank_zero_only.rank = int(environment.get("RANK") or environment.get("LOCAL_RANK") or 0)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
