# SPDX-License-Identifier: Apache-2.0
"""The prepare command: a directory of mmCIF files, with alignments and template hits, to a store.

Work goes on in OUT.partial, which replaces OUT when it is complete: a reader never sees half a store. An
interrupted run goes on where it stopped, and a run over an existing OUT only does what changed: entries are
known by a digest of their files and of the configuration. `sources` says how files are named.

With --shard a run makes one of OUT's shards in this way, as a store by itself (`shards`); the run that finds
all of them made joins them (`join`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foldwright.data import store
from foldwright.data.carry_over import carry_clusters, carry_splits
from foldwright.data.ccd import DEFAULT_CACHE
from foldwright.data.dask_pool import run_on_dask
from foldwright.data.entry_templates import TemplateConfig
from foldwright.data.filters import FilterConfig
from foldwright.data.group_writer import GroupWriter
from foldwright.data.join import join, unready
from foldwright.data.locks import claimed, lock_of
from foldwright.data.pool import Failure, run_tasks
from foldwright.data.preparation import (
    BareComponents,
    PrepareConfig,
    Prepared,
    Rejected,
    Source,
    Unchanged,
    Workbench,
    open_workbench,
    prepare_component,
    prepare_entry,
)
from foldwright.data.records import encode_record
from foldwright.data.report import Report
from foldwright.data.shards import Shard, parse_shard, require_count, require_no_shards
from foldwright.data.sources import EntryFiles, Sources, find_sources
from foldwright.data.structure import Component
from foldwright.data.tables import write_table
from foldwright.data.weights import Item, item_table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 if nothing could be prepared."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.templates and not arguments.template_structures:
            raise ValueError(
                "--templates: got hits, expected --template-structures DIR with the mmCIF files too"
            )
        sources = find_sources(arguments.structures, arguments.msas, arguments.templates)
        shard = parse_shard(arguments.shard) if arguments.shard else None
        pool = pool_of(arguments.workers, arguments.dask)
        report = prepare(sources, arguments.out, _config(arguments), pool, shard)
        missing = unready(arguments.out) if shard else ""
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report.show(Console())
    if shard:
        print(f"shard {shard} is made; {missing or f'{arguments.out} is complete'}")
    return 0


_FILTERS = {  # what FilterConfig's limits are, which are options of the same names
    "released_before": "ISO date; later entries are rejected",
    "max_resolution": "in Å",
    "require_resolution": "reject entries that report none, as those of NMR",
    "max_polymer_chains": "larger assemblies are rejected",
    "min_resolved_residues": "polymer chains with fewer are dropped",
    "clash_distance": "in Å",
    "clash_fraction": "of a chain's atoms near another chain, above which one of them is dropped",
    "max_ca_gap": "in Å between neighbours; protein chains with a larger one are dropped",
    "max_chains": "larger assemblies are cut down to an interface",
    "interface_distance": "in Å, of the token centres at which such an interface is sought",
    "drop_asymmetric_bonds": "of a ligand with some copies of a polymer but not all",
    "drop_crystallisation_aids": "of crystal structures (16 components)",
    "seed": "of the choice of that interface",
}


def _config(arguments: argparse.Namespace) -> PrepareConfig:
    filters = FilterConfig(**{name: getattr(arguments, name) for name in _FILTERS})
    return PrepareConfig(
        filters=filters,
        predicted=arguments.predicted,
        components=arguments.components,
        ligands=arguments.ligands,
        dictionary_cache=arguments.dictionary_cache,
        max_msa_rows=arguments.max_msa_rows,
        template_structures=arguments.template_structures,
        templates=TemplateConfig(released_until=arguments.templates_until),
        n_conformers=arguments.n_conformers,
        conformer_seed=arguments.conformer_seed,
        entry_limit_s=arguments.entry_limit,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_data.py",
        description="Turn directories of mmCIF files, alignments and template hits into the store that "
        "training reads.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    filters, config = FilterConfig(), PrepareConfig()
    add = parser.add_argument
    add(
        "--structures",
        type=Path,
        required=True,
        help="directory of .cif or .cif.gz files, searched below too",
    )
    add(
        "--msas",
        type=Path,
        help="directory of <entry>_<chain>.a3m, .sto or .csv files (.gz), searched below too; "
        "<entry>_<chain>.pairing.a3m holds rows to pair by species",
    )
    add("--templates", type=Path, help="directory of <entry>_<chain>.hhr, .a3m or .sto files of hits (.gz)")
    add("--template-structures", type=Path, help="directory of the mmCIF files that hits are looked up in")
    add("--templates-until", default="", help="ISO date; structures released later are no templates")
    add(
        "--predicted",
        action="store_true",
        help="the structures are predictions, whose B factors are the pLDDT, 0 to 100",
    )
    add("--out", type=Path, required=True, help="the store to make or to bring up to date")
    add(
        "--shard",
        default="",
        help="NUMBER/COUNT, as 3/64: make this part of the store alone, beside jobs that make the others",
    )
    add("--components", type=Path, help="a components.cif whose entries go before the dictionary's")
    add(
        "--ligands",
        type=Path,
        help="ligands without an entry: a CSV of code,smiles, or a folder of SDF files",
    )
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--dask", default="", help="a cluster instead: tcp://HOST:PORT, a scheduler file, or ssh:HOST,HOST")
    for name, text in _FILTERS.items():
        default, flag = getattr(filters, name), "--" + name.replace("_", "-")
        if isinstance(default, bool):
            add(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            add(flag, type=type(default), default=default, help=text)
    add("--max-msa-rows", type=int, default=config.max_msa_rows, help="rows kept of each alignment")
    add(
        "--n-conformers", type=int, default=config.n_conformers, help="reference conformers of each component"
    )
    add("--conformer-seed", type=int, default=config.conformer_seed, help="of the conformers")
    add("--entry-limit", type=float, default=config.entry_limit_s, help="seconds one entry may take")
    return parser


Pool = Callable[..., Iterator[tuple[Any, Any]]]  # function, setup, tasks, limit_s -> tasks with results


def pool_of(workers: int, dask: str = "") -> Pool:
    """Where the work is done: processes here, or those of a Dask cluster (`run_on_dask`)."""
    if dask:
        return partial(run_on_dask, where=dask)
    return partial(run_tasks, workers=max(workers, 1))


def prepare(
    sources: Sources, out: Path, config: PrepareConfig, pool: Pool, shard: Shard | None = None
) -> Report:
    """Make or update the store `out`, or one shard of it, and join the shards if all are made.

    Workers hand what they make to this process, which writes an entry, and that it is done, in one
    transaction, and commits several of these at a time (`GroupWriter`): whenever the run is killed, an entry
    is there as a whole or not at all, and those of the last group are to be made again.

    Raises:
        ValueError: `out` is something else than a store, or has other shards; another process is at it; the
            folder of template structures is missing; or not one entry could be kept (a shard may be empty).
    """
    out = out.absolute()
    if shard is None:
        require_no_shards(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with claimed(lock_of(out)):
            return _prepare_store(sources, out, config, pool, min_kept=1)
    require_count(out, shard)
    folder = shard.below(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed(lock_of(folder)):
        require_count(out, shard)  # again: the lock tells jobs of another number that we are here
        report = _prepare_store(sources.of_shard(shard), folder, config, pool, min_kept=0)
    join(out)
    return report


def _prepare_store(sources: Sources, out: Path, config: PrepareConfig, pool: Pool, min_kept: int) -> Report:
    bench = open_workbench(config)  # parse the dictionary once, before the workers want it
    folder = _working_folder(out)
    report = Report(sources.unmatched)
    environment = store.open_for_writing(folder / store.ARRAYS)
    try:
        report.unchanged = _prepare_entries(environment, sources.of_entry, config, pool)
        records = _current_records(environment, sources.of_entry)
        report.account(records.items())
        done = {entry: record for entry, record in records.items() if "rejected" not in record}
        if len(done) < min_kept:
            raise ValueError(f"not one of {len(sources.of_entry)} entries could be kept: {report.summary()}")
        codes = {code for record in done.values() for code in record["codes"]}
        _prepare_components(environment, sorted(codes), config, pool, report)
        _write_tables(folder, out, done, report)
        _describe(environment, bench, records, sources.unmatched)
        environment.copy(str(folder / "compact.lmdb"), compact=True)
    finally:
        environment.close()
    report.settings = {key: value for key, value in asdict(config).items() if key != "dictionary_cache"}
    report.write(folder)
    _publish(folder, out)
    return report


def _describe(
    environment: lmdb.Environment,
    bench: Workbench,
    records: Mapping[str, dict[str, Any]],
    unmatched: list[str],
) -> None:
    """Write what the store says of itself: its schema, a digest of its settings and one of all it holds."""
    config = bench.config.entry_hash()
    settings = _digest([config, bench.config.component_hash(), bench.library_digest])
    held = [[entry, record["digest"], record.get("rejected")] for entry, record in records.items()]
    meta = {
        "schema_version": store.SCHEMA_VERSION,
        "config": config,
        "settings": settings,
        "stamp": _digest([settings, held, unmatched]),
    }
    with environment.begin(write=True) as transaction:
        transaction.put(b"meta", _json(meta))
        transaction.put(b"unmatched", _json(unmatched))


def _working_folder(out: Path) -> Path:
    """OUT.partial: as an interrupted run left it, or a copy of OUT to bring up to date, or new."""
    folder, old = (out.with_name(out.name + ending) for ending in (".partial", ".old"))
    if old.is_dir() and not out.exists():  # a run was killed between the two renames of _publish
        os.rename(old, out)
    if out.exists() and not (out / store.ARRAYS).is_file():
        raise ValueError(f"--out: {out} exists and is no store; give another path or remove it")
    if not folder.exists():
        folder.mkdir(parents=True)
        if out.exists():
            shutil.copyfile(out / store.ARRAYS, folder / store.ARRAYS)
    (folder / "compact.lmdb").unlink(missing_ok=True)
    return folder


def _prepare_entries(
    environment: lmdb.Environment,
    sources: Mapping[str, EntryFiles],
    config: PrepareConfig,
    pool: Pool,
) -> int:
    """Make what is not up to date; how many entries were."""
    with environment.begin() as transaction:
        known = store.records_with_prefix(transaction, b"done/")
    tasks = [Source(entry, files, known.get(entry, {}).get("digest", "")) for entry, files in sources.items()]
    results = pool(prepare_entry, partial(open_workbench, config), tasks, limit_s=config.entry_limit_s)
    unchanged = 0
    with _progress() as progress, GroupWriter(environment) as writer:
        bar = progress.add_task("entries", total=len(tasks), note="")
        for source, result in results:
            if isinstance(result, Failure):  # no digest: it is tried again by the next run
                result = Rejected(source.entry, "", result.reason, result.detail)
            if isinstance(result, Unchanged):
                unchanged += 1
            else:
                _replace(writer, source.entry, _records_of(result))
            progress.update(bar, advance=1, note=f"{source.entry}")
    return unchanged


def _records_of(result: Prepared | Rejected) -> dict[bytes, bytes]:
    """Keys and values of one entry's outcome; the done record comes with them in one transaction."""
    if isinstance(result, Rejected):
        rejection = {"digest": result.digest, "rejected": [result.reason, result.detail]}
        return {store.done_key(result.entry): _json(rejection)}
    record: dict[str, Any] = {
        "digest": result.digest,
        "row": result.row,
        "items": result.items,
        "codes": result.codes,
        "changes": result.changes,
        "notes": result.notes,
        "seconds": result.seconds,
    }
    own = {store.entry_key(result.entry): result.data, store.done_key(result.entry): _json(record)}
    return own | result.arrays


def _current_records(environment: lmdb.Environment, sources: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Done records by entry, sorted; entries whose files are gone are deleted."""
    with environment.begin() as transaction:
        records = store.records_with_prefix(transaction, b"done/")
    wanted = set(sources)
    with GroupWriter(environment) as writer:
        for entry in records.keys() - wanted:
            _replace(writer, entry, {})
    return {entry: record for entry, record in sorted(records.items()) if entry in wanted}


def _prepare_components(
    environment: lmdb.Environment, codes: Sequence[str], config: PrepareConfig, pool: Pool, report: Report
) -> None:
    """Make the components that the store lacks, or has from another configuration; drop those out of use."""
    digest = config.component_hash()
    with environment.begin() as transaction:
        made = store.records_with_prefix(transaction, b"made/")
    current = {code for code, record in made.items() if record["digest"] == digest}
    with environment.begin(write=True) as transaction:
        for code in set(made) - set(codes):
            transaction.delete(store.component_key(code))
            transaction.delete(f"made/{code}".encode())
    tasks = [code for code in codes if code not in current]
    limit = 4 * config.conformer_timeout_s + 60
    results = pool(prepare_component, partial(open_workbench, config), tasks, limit_s=limit)
    bare = BareComponents(open_workbench(config).dictionary)
    with _progress() as progress, GroupWriter(environment) as writer:
        bar = progress.add_task("components", total=len(tasks), note="")
        for code, result in results if tasks else ():
            component: Component = bare[code] if isinstance(result, Failure) else result
            made[code] = {"digest": digest, "source": component.conformer_source}
            data = encode_record(component)
            with writer.unit(len(data)) as transaction:
                transaction.put(store.component_key(code), data)
                transaction.put(f"made/{code}".encode(), _json(made[code]))
            progress.update(bar, advance=1, note=code)
    report.components = {code: made[code]["source"] for code in codes}


def _write_tables(folder: Path, old: Path, done: Mapping[str, dict[str, Any]], report: Report) -> None:
    """Manifest, items and splits of the new store, with what can be kept of the one that it replaces."""
    manifest = pa.Table.from_pylist([record["row"] for record in done.values()])
    items = item_table([Item(**item) for record in done.values() for item in record["items"]])
    manifest, items, report.unclustered = carry_clusters(old, manifest, items)
    for path in folder.glob("split_*.parquet"):  # of an interrupted run
        path.unlink()
    report.dropped_splits = carry_splits(old, folder, items)
    write_table(manifest, folder / store.MANIFEST)
    write_table(items, folder / store.ITEMS)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value)).hexdigest()


def _replace(writer: GroupWriter, entry: str, values: Mapping[bytes, bytes]) -> None:
    """Write `values` in the place of all that the store holds of an entry."""
    with writer.unit(sum(map(len, values.values()))) as transaction:
        old = [
            store.plddt_key(entry),
            store.pairing_key(entry),
            store.entry_key(entry),
            store.done_key(entry),
        ]
        for kind in ("msa", "template"):
            old += store.keys_with_prefix(transaction, f"{kind}/{entry}/".encode())
        for key in old:
            transaction.delete(key)
        for key, value in values.items():
            transaction.put(key, value)


def _publish(folder: Path, out: Path) -> None:
    """Put the finished folder in the place of OUT; the old one, if any, goes last."""
    os.replace(folder / "compact.lmdb", folder / store.ARRAYS)
    (folder / (store.ARRAYS + "-lock")).unlink(missing_ok=True)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(folder, out)
    shutil.rmtree(old, ignore_errors=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
