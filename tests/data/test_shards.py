# SPDX-License-Identifier: Apache-2.0
"""A store made in shards, by jobs in any order that are killed in between, is the store made as a whole."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from foldwright.data import store as store_module
from foldwright.data.carry_over import carry_clusters
from foldwright.data.clusters import clustered_items, with_column
from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.inspect import main as inspect_main
from foldwright.data.locks import claimed, lock_of
from foldwright.data.pool import Failure
from foldwright.data.preparation import PrepareConfig
from foldwright.data.prepare import prepare
from foldwright.data.sample import store_path as sample_path
from foldwright.data.sampler import SampleRequest
from foldwright.data.shards import Shard, parse_shard, shard_number, shards_of
from foldwright.data.sources import Sources, find_sources
from foldwright.data.splits import split_entries, split_path
from foldwright.data.staging import stage
from foldwright.data.store import ITEMS, MANIFEST, Store
from foldwright.data.tables import read_table, write_table
from foldwright.data.write_mmcif import write_structure

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"
CONFIG = PrepareConfig(n_conformers=1)


class Killed(BaseException):
    """What ends a job in the middle, as nothing catches it."""


def pool(function: Callable, setup: Callable, tasks: list, limit_s: float) -> Iterator[tuple[Any, Any]]:
    """All tasks, in this process."""
    state = setup()
    return ((task, function(state, task)) for task in tasks)


def killed_after(n: int) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """A pool whose n-th result never comes."""
    left = [n]

    def run(*arguments: Any, **named: Any) -> Iterator[tuple[Any, Any]]:
        for result in pool(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            yield result

    return run


@pytest.fixture(scope="module")
def sources(tmp_path_factory, writer_of) -> Sources:
    """Small entries of the sample, one that is rejected, and alignments, one of them of no structure."""
    folder, store = tmp_path_factory.mktemp("raw"), Store(sample_path())
    for row in store.manifest().to_pylist():
        if row["n_tokens"] < 250:
            s = store.entry(row["entry"]).structure
            write_structure(s, s.atom_coords, folder / f"{row['entry']}.cif", mask=s.atom_resolved)
    writer_of["modr"]().write(folder)
    twins = [writer_of["dimr"]().write(folder).rename(folder / f"twin{n}.cif") for n in range(4)]
    writer_of["dimr"]().write(folder)
    assert len({shard_number(path.stem, 3) for path in twins}) > 1, "chains of a cluster in several shards"
    (folder / "junk.cif").write_text("this is no mmCIF file\n")
    (folder / "dimr_A.a3m").write_text(">q\nGASVLAGSTAVL\n>a\nGASVLAGSTA--\n")
    (folder / "none_A.a3m").write_text(">q\nGASVLAGSTAVL\n")
    return find_sources(folder, folder)


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "store"
    prepare(sources, out, CONFIG, pool)
    return out


@pytest.fixture(scope="module")
def sharded(sources, tmp_path_factory) -> Path:
    """Of three shards."""
    out = tmp_path_factory.mktemp("sharded") / "store"
    make_shards(sources, out, 3)
    return out


def make_shards(sources: Sources, out: Path, count: int) -> None:
    for number in range(1, count + 1):
        prepare(sources, out, CONFIG, pool, Shard(number, count))


def arrays_of(store: Path) -> list[Path]:
    return store_module.array_files(store, shards_of(store))


def records(store: Path) -> dict[str, bytes]:
    """All records of all shards by their keys."""
    found: dict[str, bytes] = {}
    for file in arrays_of(store):
        with store_module._environment(file).begin() as transaction:
            for key, value in transaction.cursor():
                name = bytes(key).decode()
                if name.startswith("done/"):
                    value = json.dumps({**json.loads(value), "seconds": 0}).encode()
                if "/" in name:
                    assert found.setdefault(name, value) == value, f"two values of {name}"
    return found


def report_of(store: Path) -> dict[str, Any]:
    report = json.loads((store / "report.json").read_text())
    del report["unchanged_since_last_run"], report["quantiles_0_10_50_90_100"]["seconds"]
    return report


def assert_same(a: Path, b: Path) -> None:
    assert records(a) == records(b)
    for name in (MANIFEST, ITEMS):
        assert read_table(a / name).schema.remove_metadata() == read_table(b / name).schema.remove_metadata()
        assert read_table(a / name).to_pylist() == read_table(b / name).to_pylist()
    assert list(Store(a).components) == list(Store(b).components)
    assert [component.code for component in Store(a).components.values()] == list(Store(b).components)
    assert report_of(a) == report_of(b)


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to))


def cluster(store: Path) -> None:
    """Two clusters of all protein sequences, by their names."""
    manifest, items = Store(store).manifest(), Store(store).items()
    exact = manifest["chain_clusters_100"].to_pylist()
    names = [[f"P{shard_number(n, 2)}" if n[:8] == "PROTEIN:" else n for n in row] for row in exact]
    by_entry = dict(zip(manifest["entry"].to_pylist(), names, strict=True))
    write_table(with_column(manifest, "chain_clusters", pa.array(names)), store / MANIFEST)
    write_table(clustered_items(items, by_entry), store / ITEMS)


def examples(store: Path, n: int = 6) -> list[dict[str, Any]]:
    config = DataConfig(root=str(store), n_templates=1, allow_missing_clusters=True)
    dataset = StoreDataset(config, seed=5)
    return [dict(vars(dataset[SampleRequest(number, 1, 48, 500, 8)])) for number in range(n)]


def assert_same_examples(a: Path, b: Path) -> None:
    for first, second in zip(examples(a), examples(b), strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (3, 1), (7, 2), (7, 3)])
def test_any_number_of_shards_in_any_order_with_kills_is_the_whole(sources, whole, tmp_path, count, seed):
    rng, out, kills = random.Random(seed), tmp_path / "store", 0
    jobs = [Shard(number, count) for number in range(1, count + 1)]
    rng.shuffle(jobs)
    while jobs:
        shard = jobs.pop(0)
        try:
            if kills < count and rng.random() < 0.6:
                kills += 1
                prepare(sources, out, CONFIG, killed_after(rng.randrange(12)), shard)
            else:
                prepare(sources, out, CONFIG, pool, shard)
        except Killed:
            jobs.insert(rng.randrange(len(jobs) + 1), shard)
        if jobs:
            with pytest.raises(ValueError, match=rf"run prepare_data\.py with --shard \d/{count}"):
                Store(out)
    assert_same(out, whole)
    assert_same_examples(out, whole)
    for store in (out, copied(whole, tmp_path / "whole")):
        cluster(store)
    assert_same(out, tmp_path / "whole")
    assert_same_examples(out, tmp_path / "whole")


def test_files_come_and_go_and_only_their_shard_is_made_again(sources, sharded, tmp_path, writer_of):
    out = copied(sharded, tmp_path / "store")
    cluster(out)
    shutil.copyfile(out / ITEMS, out / "split_all.parquet")
    before = {file: file.stat().st_ino for file in arrays_of(out)}
    late = writer_of["new"]("late").protein("A", ["TRP"] * 12, 0.0).write(tmp_path)
    more = Sources({**sources.of_entry, **find_sources(tmp_path, None).of_entry}, sources.unmatched)
    shard = Shard(shard_number(late.stem, 3), 3)
    report = prepare(more, out, CONFIG, pool, shard)
    assert report.unchanged == len(more.of_shard(shard).of_entry) - 1
    assert "late" in Store(out).manifest()["entry"].to_pylist()
    joined = json.loads((out / "report.json").read_text())
    assert (joined["sequences_without_cluster"], joined["splits_dropped"]) == (1, [])
    others = [file for file in before if file.parent != shard.below(out)]
    assert [file.stat().st_ino for file in others] == [before[file] for file in others]
    prepare(sources, out, CONFIG, pool, shard)
    assert "late" not in Store(out).manifest()["entry"].to_pylist()
    assert records(out) == records(sharded)
    gone = {entry: files for entry, files in sources.of_entry.items() if entry != "modr"}
    prepare(Sources(gone, []), out, CONFIG, pool, Shard(shard_number("modr", 3), 3))
    assert json.loads((out / "report.json").read_text())["splits_dropped"] == ["all"]
    assert not list(out.glob("split_*"))


def test_clusters_and_splits_made_on_the_union_are_read_from_it(sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    cluster(out)
    items = Store(out).items()
    assert {"P1", "P2"} <= set(items["cluster"].to_pylist())
    write_table(
        items.append_column("split", pa.array(["train"] * len(items))), split_path(Store(out), "mine")
    )
    assert split_entries(Store(out), "mine", False, "key")["train"] == sorted(set(items["entry"].to_pylist()))
    again = carry_clusters(out, Store(out).manifest(), items)
    assert again[2] == 0


def test_a_job_killed_before_the_join_is_said_and_joins_when_run_again(sources, sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    (out / ITEMS).unlink()
    with pytest.raises(ValueError, match=r"items\.parquet is not of its shards.*--shard 1/3"):
        Store(out)
    assert prepare(sources, out, CONFIG, pool, Shard(1, 3)).unchanged > 0
    assert_same(out, sharded)


def test_a_change_that_was_not_joined_is_said_with_its_shard(sources, sharded, tmp_path, monkeypatch):
    out, fewer = copied(sharded, tmp_path / "store"), dict(sources.of_entry)
    del fewer["modr"]
    shard = Shard(shard_number("modr", 3), 3)
    monkeypatch.setattr("foldwright.data.prepare.join", lambda out: None)
    prepare(Sources(fewer, []), out, CONFIG, pool, shard)
    with pytest.raises(ValueError, match=f"manifest.parquet is not .*: {shard}; .* --shard {shard}"):
        Store(out)
    monkeypatch.undo()
    other = Shard(shard.number % 3 + 1, 3)  # half-made: the join waits for it, and readers name it
    with pytest.raises(Killed):
        prepare(sources, out, CONFIG, killed_after(0), other)
    prepare(Sources(fewer, []), out, CONFIG, pool, shard)
    with pytest.raises(ValueError, match=f"--shard {other}"):
        Store(out)
    prepare(Sources(fewer, []), out, CONFIG, pool, other)
    assert "modr" not in Store(out).manifest()["entry"].to_pylist()


def test_missing_and_half_made_shards_are_named(sources, sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    shutil.rmtree(Shard(2, 3).below(out))
    with pytest.raises(ValueError, match=r"lacks 1 of its shards: 2/3; run .* with --shard 2/3$"):
        Store(out)
    with pytest.raises(Killed):
        prepare(sources, out, CONFIG, killed_after(1), Shard(2, 3))
    with pytest.raises(ValueError, match=r"2/3 \(half-made or under way\)"):
        Store(out)
    with pytest.raises(ValueError, match="lacks 1 of its shards"):
        stage(out, tmp_path / "disk")
    assert inspect_main(["dimr", "--store", str(out), "--out", str(tmp_path)]) == 1


def test_another_number_of_shards_is_refused(sources, sharded, whole, tmp_path):
    with pytest.raises(ValueError, match=r"got 1/4, but .* is made of 3 shards; give --shard NUMBER/3"):
        prepare(sources, sharded, CONFIG, pool, Shard(1, 4))
    with pytest.raises(ValueError, match="made of 3 shards; give --shard NUMBER/3"):
        prepare(sources, sharded, CONFIG, pool)
    with pytest.raises(ValueError, match="is not empty and has no shards"):
        prepare(sources, whole, CONFIG, pool, Shard(1, 3))
    Shard(1, 2).below(tmp_path / "mixed").mkdir(parents=True)
    Shard(1, 3).below(tmp_path / "mixed").mkdir()
    with pytest.raises(ValueError, match="shards of 2 and of 3"):
        Store(tmp_path / "mixed")


def test_shards_of_other_settings_are_refused(sources, sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    tables = (out / MANIFEST).read_bytes(), (out / ITEMS).read_bytes()
    prepare(sources, out, PrepareConfig(n_conformers=1, max_msa_rows=1), pool, Shard(3, 3))
    assert ((out / MANIFEST).read_bytes(), (out / ITEMS).read_bytes()) == tables
    with pytest.raises(ValueError, match=r"other settings than most: 3/3; run .* --shard 3/3"):
        Store(out)
    prepare(sources, out, CONFIG, pool, Shard(3, 3))
    assert_same(out, sharded)


def test_a_shard_under_another_name_is_refused(sources, sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    for number, name in ((1, "kept"), (2, "001-of-003"), (1, "002-of-003")):
        source = out / "shards" / "kept" if name == "002-of-003" else Shard(number, 3).below(out)
        source.rename(source.with_name(name))
    with pytest.raises(ValueError, match=r"not of its shards.*: 1/3, 2/3;"):
        Store(out)
    with pytest.raises(ValueError, match=r"a shard holds .* not its own: 2/3"):
        prepare(sources, out, CONFIG, pool, Shard(1, 3))


def _hold(path: Path, held: Any, end: Any) -> None:
    with claimed(path):
        held.set()
        end.wait(20)


def test_the_second_job_at_a_shard_is_refused_and_a_dead_one_is_not_in_the_way(sources, sharded, tmp_path):
    out, context = copied(sharded, tmp_path / "store"), multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    lock = lock_of(Shard(2, 3).below(out))
    job = context.Process(target=_hold, args=(lock, held, end))
    job.start()
    assert held.wait(20)
    with pytest.raises(ValueError, match=r"another process is at .*002-of-003; let it end"):
        prepare(sources, out, CONFIG, pool, Shard(2, 3))
    prepare(sources, out, CONFIG, pool, Shard(1, 3))
    job.kill()
    job.join()
    assert lock.exists()
    prepare(sources, out, CONFIG, pool, Shard(2, 3))
    assert not lock.exists()


def test_a_staged_copy_has_all_shards_and_nothing_else(sources, sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    with pytest.raises(Killed):
        prepare(sources, out, CONFIG, killed_after(0), Shard(2, 3))
    copy = stage(out, tmp_path / "disk")
    assert_same(copy, sharded)
    assert sorted(path.name for path in (copy / "shards").iterdir()) == [f"00{n}-of-003" for n in (1, 2, 3)]
    assert stage(sharded, tmp_path / "disk") == copy


def test_tasks_that_fail_are_reported_by_the_union_and_tried_again(sources, tmp_path):
    def failing(function: Callable, setup: Callable, tasks: list, limit_s: float) -> Iterator[tuple]:
        for task, result in pool(function, setup, tasks, limit_s):
            is_bad = getattr(task, "entry", "") == "modr"
            yield task, Failure("time_limit", "took more than 1 s") if is_bad else result

    out = tmp_path / "store"
    for number in (1, 2):
        prepare(sources, out, CONFIG, failing, Shard(number, 2))
    assert report_of(out)["rejected"]["time_limit"]["examples"] == ["modr: took more than 1 s"]
    prepare(sources, out, CONFIG, pool, Shard(shard_number("modr", 2), 2))
    assert "time_limit" not in report_of(out)["rejected"]
    assert Store(out).entry("modr").structure.entry_id == "modr"


def test_few_files_of_a_process_are_open_at_a_time(sources, tmp_path, monkeypatch):
    make_shards(sources, tmp_path / "store", 7)
    monkeypatch.setattr(store_module, "MAX_SHARDS", 2)
    store_module._close_environments()
    store = Store(tmp_path / "store")
    entries = store.manifest()["entry"].to_pylist()
    for entry in entries * 2:
        assert store.entry(entry).structure.entry_id == entry
        assert len(store_module._environments) <= 2
    assert {environment.info()["map_size"] for environment in store_module._environments.values()} <= {
        file.stat().st_size for file in arrays_of(tmp_path / "store")
    }


def test_entries_fall_to_shards_evenly_and_for_good():
    assert [shard_number(name, 64) for name in ("1ubi", "4hhb", "dimr")] == [7, 31, 5]
    counts = np.bincount([shard_number(f"{n:x}", 64) for n in range(20_000)], minlength=65)[1:]
    assert counts.min() > 312.5 - 6 * 17.7  # six sigma of a Poisson
    assert counts.max() < 312.5 + 6 * 17.7
    assert parse_shard("3/64") == Shard(3, 64)
    for text in ("0/3", "4/3", "3", "a/b", "-1/3", "1/0", "1/513"):
        with pytest.raises(ValueError, match=f"--shard: got '{text}', expected NUMBER/COUNT, as 3/64"):
            parse_shard(text)


@pytest.mark.thorough
def test_two_processes_one_killed_make_the_whole(sources, whole, tmp_path):
    """The command itself: both shards at once, the second killed with SIGKILL and run again."""
    folder, out = next(iter(sources.of_entry.values())).structure.parent, tmp_path / "store"
    fixed = ["--structures", folder, "--msas", folder, "--out", out, "--workers", "1", "--n-conformers", "1"]

    def start(number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, SCRIPT, *fixed, "--shard", f"{number}/2"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip

    first, second = start(1), start(2)
    partial = out / "shards" / "002-of-002.partial"
    while not partial.is_dir() and second.poll() is None:
        time.sleep(0.005)
    os.killpg(second.pid, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL, "it ended before it was killed"
    said = first.communicate()[0]
    assert (
        "lacks 1 of its shards: 2/2 (half-made or under way); run prepare_data.py with --shard 2/2"
        in said.replace("\n", " ")
    )
    assert f"shard 2/2 is made; {out} is complete" in start(2).communicate()[0]
    assert_same(out, whole)


def test_a_damaged_shard_is_named(sharded, tmp_path):
    out = copied(sharded, tmp_path / "store")
    file = arrays_of(out)[1]
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"002-of-003 is damaged: .* prepare it again"):
        Store(out)
    file.unlink()
    with pytest.raises(ValueError, match=r"002-of-003 is damaged: .* prepare it again"):
        Store(out)


def test_shards_without_any_entry_are_no_store(sources, tmp_path):
    junk = Sources({"junk": sources.of_entry["junk"]}, [])
    number = shard_number("junk", 2)
    prepare(junk, tmp_path / "store", CONFIG, pool, Shard(number, 2))
    with pytest.raises(ValueError, match=r"not one entry of .* could be kept: unreadable x 1 \(e.g. junk: "):
        prepare(junk, tmp_path / "store", CONFIG, pool, Shard(3 - number, 2))
