# SPDX-License-Identifier: Apache-2.0
"""Preparation killed with SIGKILL, on a Dask cluster, and brought up to date: always the same store."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foldwright.data.carry_over import carry_clusters
from foldwright.data.dask_pool import run_on_dask
from foldwright.data.pool import Failure
from foldwright.data.prepare import main
from foldwright.data.sample import store_path as sample_path
from foldwright.data.store import ARRAYS, ITEMS, MANIFEST, Store
from foldwright.data.write_mmcif import write_structure

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture(scope="module")
def structures(tmp_path_factory):
    """The sample's entries as mmCIF files, less the largest."""
    folder, store = tmp_path_factory.mktemp("mmcif"), Store(sample_path())
    for row in store.manifest().to_pylist():
        if row["n_tokens"] < 500:
            structure = store.entry(row["entry"]).structure
            write_structure(
                structure, structure.atom_coords, folder / f"{row['entry']}.cif", mask=structure.atom_resolved
            )
    return folder


def arguments(structures: Path, out: Path, *more: object) -> list[str]:
    fixed = ["--structures", structures, "--out", out, "--workers", 1, "--n-conformers", 1]
    return [str(argument) for argument in (*fixed, *more)]


@pytest.fixture(scope="module")
def whole(structures, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "store"
    assert main(arguments(structures, out)) == 0
    return out


def content(store: Path) -> dict[str, object]:
    """Every key with its value, the tables and the report, less how long things took."""
    found: dict[str, object] = {}
    environment = lmdb.open(str(store / ARRAYS), subdir=False, readonly=True, lock=False)
    with environment.begin() as transaction:
        for key, value in transaction.cursor():
            name = bytes(key).decode()
            found[name] = {**json.loads(value), "seconds": 0} if name.startswith("done/") else bytes(value)
    environment.close()
    report = json.loads((store / "report.json").read_text())
    del report["unchanged_since_last_run"], report["quantiles_0_10_50_90_100"]["seconds"]
    tables = {name: pq.read_table(store / name).to_pylist() for name in (MANIFEST, ITEMS)}
    return found | tables | {"report": report}


def n_done(partial: Path) -> int:
    try:
        environment = lmdb.open(str(partial / ARRAYS), subdir=False, readonly=True, lock=False)
    except lmdb.Error:
        return 0
    with environment.begin() as transaction:
        keys = [bytes(key) for key, _ in transaction.cursor()]
    environment.close()
    return sum(key.startswith((b"done/", b"made/")) for key in keys)


def test_killed_twice_it_goes_on_and_ends_with_the_same_store(structures, whole, tmp_path):
    out, counts = tmp_path / "store", [0]
    for wanted in (3, 20):  # among the entries, then among the components
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *arguments(structures, out)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while n_done(tmp_path / "store.partial") < wanted and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert not out.exists()
        counts.append(n_done(tmp_path / "store.partial"))
        assert counts[-1] >= max(wanted, counts[-2])
    assert main(arguments(structures, out)) == 0
    n_entries = len(list(structures.iterdir()))
    assert json.loads((out / "report.json").read_text())["unchanged_since_last_run"] == min(
        counts[-1], n_entries
    )
    assert content(out) == content(whole)


def work(state: int, task: object) -> object:
    if task == "hang":
        time.sleep(60)
    if task == "die":
        os._exit(7)
    return state + int(str(task))


def make_state() -> int:
    return 10


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
    with distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_dask_gives_every_task_its_result_or_why_it_has_none(cluster):
    tasks = [1, 2, "die", 3, "hang", 4]
    results = dict(run_on_dask(work, make_state, tasks, cluster, 2.0, batch=4))
    assert {task: result for task, result in results.items() if isinstance(task, int)} == {
        n: 10 + n for n in range(1, 5)
    }
    assert results["hang"] == Failure("time_limit", "took more than 2 s")
    assert results["die"].reason == "worker_crashed"
    assert list(run_on_dask(work, make_state, [], cluster, 2.0)) == []


def test_dask_makes_the_same_store(structures, whole, cluster, tmp_path):
    assert main(arguments(structures, tmp_path / "store", "--dask", cluster)) == 0
    assert content(tmp_path / "store") == content(whole)


def test_a_cluster_that_is_none_is_said(structures, tmp_path, capsys):
    assert main(arguments(structures, tmp_path / "store", "--dask", "nowhere")) == 1
    assert "expected tcp://HOST:PORT, a scheduler file or ssh:HOST,HOST" in capsys.readouterr().err


def test_hosts_that_do_not_answer_are_said(structures, tmp_path, capsys):
    pytest.importorskip("asyncssh", reason="needs the extra foldwright[dask]")
    where = "ssh:nowhere.invalid,nowhere.invalid"
    assert main(arguments(structures, tmp_path / "store", "--dask", where)) == 1
    assert "--dask: no cluster on nowhere.invalid: " in capsys.readouterr().err


def with_clusters(store: Path) -> None:
    """Name every chain's cluster after its sequence's; make a split of all items and one of an entry's."""
    manifest = pq.read_table(store / MANIFEST)
    chains = [[f"of {name}" for name in row] for row in manifest["chain_clusters_100"].to_pylist()]
    pq.write_table(manifest.append_column("chain_clusters", pa.array(chains)), store / MANIFEST)
    items = pq.read_table(store / ITEMS)
    pq.write_table(items, store / "split_all.parquet")
    pq.write_table(items.filter([entry == "dimr" for entry in items["entry"].to_pylist()]),
                   store / "split_dimr.parquet")  # fmt: skip


def test_files_added_and_taken_away_leave_the_clusters_of_the_others(tmp_path, writer_of, capsys):
    structures, out = tmp_path / "mmcif", tmp_path / "store"
    writer_of["dimr"]().write(structures)
    gone = writer_of["modr"]().write(structures)
    assert main(arguments(structures, out)) == 0
    with_clusters(out)
    writer_of["new"]("late").protein("A", ["TRP"] * 12, 0.0).ligand("B", "ZN", (9.0, 9.0, 0.0)).write(
        structures
    )
    assert main(arguments(structures, out)) == 0
    rows = {row["entry"]: row for row in Store(out).manifest().to_pylist()}
    for entry in ("dimr", "modr"):
        assert rows[entry]["chain_clusters"] == [f"of {name}" for name in rows[entry]["chain_clusters_100"]]
    late = rows["late"]
    assert late["chain_clusters"] == [late["chain_clusters_100"][0], "of LIGAND:ZN"]
    items = {row["cluster"]: row["cluster_size"] for row in Store(out).items().to_pylist()}
    assert items["of LIGAND:ZN"] == 2
    report = json.loads((out / "report.json").read_text())
    assert (report["unchanged_since_last_run"], report["sequences_without_cluster"]) == (2, 1)
    assert "unclustered" in capsys.readouterr().out
    assert {path.name for path in out.glob("split_*")} == {"split_all.parquet", "split_dimr.parquet"}
    gone.unlink()
    assert main(arguments(structures, out)) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["splits_dropped"], report["sequences_without_cluster"]) == (["all"], 0)
    assert {path.name for path in out.glob("split_*")} == {"split_dimr.parquet"}


def test_killed_while_it_publishes_it_loses_nothing(tmp_path, writer_of, monkeypatch):
    structures, out = tmp_path / "mmcif", tmp_path / "store"
    writer_of["dimr"]().write(structures)
    assert main(arguments(structures, out)) == 0
    with_clusters(out)
    before = content(out)
    real, calls = os.rename, []

    def interrupt(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(arguments(structures, out))
    monkeypatch.setattr(os, "rename", real)
    assert not out.exists()
    assert main(arguments(structures, out)) == 0
    assert "chain_clusters" in before[MANIFEST][0]
    assert {**content(out), "report": 0, ITEMS: 0} == {**before, "report": 0, ITEMS: 0}


def test_a_store_that_was_never_clustered_stays_so(whole, tmp_path):
    tables = pq.read_table(whole / MANIFEST), pq.read_table(whole / ITEMS)
    assert carry_clusters(whole, *tables) == (*tables, None)
    assert carry_clusters(tmp_path, *tables) == (*tables, None)
