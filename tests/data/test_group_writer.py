# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys

import lmdb
import pytest

from foldwright.data import group_writer
from foldwright.data.group_writer import GroupWriter

KILLED = """
import os, signal, sys
from foldwright.data import group_writer
from foldwright.data.store import open_for_writing

group_writer.MAX_UNITS, group_writer.MAX_SECONDS = 4, 1e9
environment, last = open_for_writing(__import__("pathlib").Path(sys.argv[1])), int(sys.argv[2])
with group_writer.GroupWriter(environment) as writer:
    for n in range(10):
        with writer.unit() as transaction:
            transaction.put(b"data/%d" % n, bytes(50_000))
            if n == last:
                os.kill(os.getpid(), signal.SIGKILL)
            transaction.put(b"done/%d" % n, b"1")
"""


def keys(environment):
    """What a reader sees: that which is committed."""
    with environment.begin() as transaction:
        return {bytes(key).decode() for key, _ in transaction.cursor()}


@pytest.fixture
def environment(tmp_path):
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, map_size=2**28) as environment:
        yield environment


def put(writer, name, n_bytes=0):
    with writer.unit(n_bytes) as transaction:
        transaction.put(name.encode(), b"x")


@pytest.mark.parametrize("last", [3, 6, 8])
def test_a_kill_costs_at_most_the_open_group_and_leaves_nothing_half_written(tmp_path, last):
    file = tmp_path / "killed.lmdb"
    process = subprocess.run([sys.executable, "-c", KILLED, file, str(last)], check=False)
    assert process.returncode == -signal.SIGKILL
    whole = last // 4 * 4  # units of the groups before
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as environment:
        assert keys(environment) == {f"{kind}/{n}" for n in range(whole) for kind in ("data", "done")}


def test_an_exception_undoes_its_unit_and_keeps_the_others(environment):
    def interrupted():
        with GroupWriter(environment) as writer:
            put(writer, "first")
            with writer.unit() as transaction:
                transaction.put(b"half", b"x")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert keys(environment) == {"first"}


@pytest.mark.parametrize(("limit", "value"), [("MAX_UNITS", 2), ("MAX_BYTES", 20), ("MAX_SECONDS", 0.0)])
def test_groups_are_bounded(environment, monkeypatch, limit, value):
    for name in ("MAX_UNITS", "MAX_BYTES", "MAX_SECONDS"):
        monkeypatch.setattr(group_writer, name, 10**9)
    with GroupWriter(environment) as writer:
        put(writer, "a", 10)
        put(writer, "b", 10)
        assert keys(environment) == set()
        monkeypatch.setattr(group_writer, limit, value)
        put(writer, "c", 10)
        assert keys(environment) == {"a", "b", "c"}
        put(writer, "d")
    assert keys(environment) == {"a", "b", "c", "d"}
