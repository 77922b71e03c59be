# SPDX-License-Identifier: Apache-2.0
"""The store: prepared entries, alignments and components in one LMDB file beside Parquet tables.

    STORE/arrays.lmdb        meta, entry/<id>, component/<code>; msa/<id>/<entity> and its blocks of columns
                             msa/<id>/<entity>/<number>; template/<id>/<entity>; pairing/<id>, the species
                             of paired rows; plddt/<id> of a predicted entry's residues; done/<id> and
                             made/<code> hold what a preparation needs to know what is up to date
    STORE/shards/            instead of arrays.lmdb: shards, each a store with such a file (`shards`)
    STORE/manifest.parquet   one row an entry
    STORE/items.parquet      one row a chain or interface, the units of sampling
    STORE/report.*           what was kept and what was rejected, with reasons (`report`)

Readers open it read-only and without locks, anew in every process that uses it. A store of another schema
version is refused.
"""

from __future__ import annotations

import json
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foldwright.data.arrays import decode
from foldwright.data.msa import Msa
from foldwright.data.msa_blocks import decode_msa
from foldwright.data.records import Entry, decode_entry, decode_record
from foldwright.data.shards import (
    MAX_SHARDS,
    Shard,
    missing_shards,
    rerun,
    shard_number,
    shards_of,
    shards_under_way,
)
from foldwright.data.structure import Component, Floats, Ints
from foldwright.data.tables import read_table
from foldwright.data.templates import Templates

SCHEMA_VERSION = 3
ARRAYS, MANIFEST, ITEMS = "arrays.lmdb", "manifest.parquet", "items.parquet"
_MAP_SIZE = 2**41  # bytes of address space of the one writer; the file is only as large as its content
GROWTH = 2**36  # bytes that a file not yet complete may grow by under its readers
_STAMPS = b"shards"  # in the metadata of a sharded store's tables: the stamps of the shards they are made of
_environments: OrderedDict[tuple[int, int], lmdb.Environment] = OrderedDict()  # by inode; last used is last


def entry_key(entry: str) -> bytes:
    return f"entry/{entry}".encode()


def msa_key(entry: str, entity: int) -> bytes:
    return f"msa/{entry}/{entity}".encode()


def msa_block_key(entry: str, entity: int, number: int) -> bytes:
    return f"msa/{entry}/{entity}/{number}".encode()


def pairing_key(entry: str) -> bytes:
    return f"pairing/{entry}".encode()


def template_key(entry: str, entity: int) -> bytes:
    return f"template/{entry}/{entity}".encode()


def component_key(code: str) -> bytes:
    return f"component/{code}".encode()


def plddt_key(entry: str) -> bytes:
    return f"plddt/{entry}".encode()


def done_key(entry: str) -> bytes:
    return f"done/{entry}".encode()


class Store:
    """Reads a prepared store. Cheap to make, pickles as its path, and opens the file where it is first used.

    Raises:
        ValueError: the folder is missing or no complete store, or its schema version is not this code's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        shards = shards_of(self.path)
        missing = [name for name in (ARRAYS, MANIFEST, ITEMS) if not (self.path / name).is_file()]
        if missing and not shards:
            raise ValueError(
                f"got {self.path}, which lacks {', '.join(missing)}; expected a prepared store: make one "
                "with `prepare_data.py --structures DIR --out STORE`"
            )
        self._files = array_files(self.path, shards)
        metas = [read_meta(file) for file in self._files]
        if shards and (fault := unjoined(self.path, shards, metas)):
            raise ValueError(fault)
        self._last = 0  # the shard last read of, where the components of what was read are
        self.components = ComponentTable(self)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def manifest(self) -> pa.Table:
        """One row an entry; ValueError if the file is damaged."""
        return read_table(self.path / MANIFEST)

    def items(self) -> pa.Table:
        """One row a chain or interface; ValueError if the file is damaged."""
        return read_table(self.path / ITEMS)

    def entry(self, entry: str) -> Entry:
        """Raises KeyError for an unknown entry, ValueError for damaged bytes."""
        found = decode_entry(self._get(entry_key(entry), entry))
        if found.structure.entry_id != entry:
            raise _damaged(self.path, f"it gives {found.structure.entry_id} for {entry}")
        return found

    def msas(
        self, entry: str, entities: Iterable[int], columns: Mapping[int, Ints] | None = None
    ) -> dict[int, Msa]:
        """The alignments of the given entities of an entry, with those columns that `columns` names or all.

        Raises KeyError for an entity without alignment, ValueError for damaged bytes.
        """
        return {
            entity: decode_msa(
                self._get(msa_key(entry, entity), entry),
                lambda number, entity=entity: self._get(msa_block_key(entry, entity, number), entry),  # type: ignore[misc]
                None if columns is None else columns[entity],
            )
            for entity in entities
        }

    def paired_species(self, entry: str) -> list[str]:
        """The species of the paired rows that the alignments of an entry's proteins share, in their order."""
        arrays, _ = decode(self._get(pairing_key(entry), entry))
        return [str(name) for name in arrays["species"]]

    def plddt(self, entry: str) -> Floats | None:
        """[S] pLDDT of every residue of a predicted entry, 0 to 100; None for an experimental one."""
        data = self._find(plddt_key(entry), self._shard(entry))
        return None if data is None else np.asarray(decode(data)[0]["plddt"], np.float32)

    def templates(self, entry: str, entities: Iterable[int]) -> dict[int, Templates]:
        """The templates of the given entities of an entry; KeyError for an entity without any."""
        return {
            entity: decode_record(Templates, self._get(template_key(entry, entity), entry))
            for entity in entities
        }

    def component(self, code: str) -> Component:
        """Raises KeyError for a component that no entry uses, ValueError for damaged bytes."""
        shards = (self._last, *range(len(self._files)))
        values = (self._find(component_key(code), shard) for shard in shards)
        data = next((value for value in values if value is not None), None)
        if data is None:
            raise _unknown(component_key(code), self.path)
        found = decode_record(Component, data)
        if found.code != code:
            raise _damaged(self.path, f"it gives {found.code} for {code}")
        return found

    def component_codes(self) -> list[str]:
        """Codes of all components of the store."""
        keys: set[bytes] = set()
        for file in self._files:
            with _environment(file).begin() as transaction:
                keys |= set(keys_with_prefix(transaction, b"component/"))
        return [key.decode().split("/", 1)[1] for key in sorted(keys)]

    def _shard(self, entry: str) -> int:
        """The index of the shard that has an entry."""
        self._last = shard_number(entry, len(self._files)) - 1
        return self._last

    def _find(self, key: bytes, shard: int) -> bytes | None:
        try:
            return read_value(self._files[shard], key)
        except lmdb.Error as error:
            raise _damaged(self.path, str(error)) from error

    def _get(self, key: bytes, entry: str) -> bytes:
        value = self._find(key, self._shard(entry))
        if value is None:
            raise _unknown(key, self.path)
        return value


class ComponentTable(Mapping[str, Component]):
    """The store's components by code; each is decoded once a process and kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoded: dict[str, Component] = {}

    def __getitem__(self, code: str) -> Component:
        if code not in self._decoded:
            self._decoded[code] = self._store.component(code)
        return self._decoded[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.component_codes())

    def __len__(self) -> int:
        return len(self._store.component_codes())


def is_store(path: Path) -> bool:
    """Whether a folder is a store, of one file of arrays or of shards, complete or not."""
    return (path / ARRAYS).is_file() or bool(shards_of(path))


def array_files(path: Path, shards: Sequence[Shard]) -> list[Path]:
    """The files of a store's arrays: one, or that of each shard; ValueError if a shard is not there."""
    if fault := missing_shards(path, shards):
        raise ValueError(fault)
    return [shard.below(path) / ARRAYS for shard in shards] or [path / ARRAYS]


def read_meta(file: Path) -> dict[str, Any]:
    """The meta record of a file of arrays; ValueError if its schema version is not this code's."""
    try:
        data = read_value(file, b"meta")
    except (lmdb.Error, FileNotFoundError) as error:
        raise _damaged(file.parent, str(error)) from error
    check_schema(data or b"", file.parent)
    meta: dict[str, Any] = json.loads(data or b"")
    return meta


def at_odds(path: Path, shards: Sequence[Shard], metas: Sequence[Mapping[str, Any]]) -> str:
    """Which shards were made with other settings than most, with what to do; "" if none was."""
    settings = [meta.get("settings", "") for meta in metas]
    usual, _ = Counter(settings).most_common(1)[0]
    odd = [shard for shard, own in zip(shards, settings, strict=True) if own != usual]
    return rerun(path, "shards made with other settings than most", odd) if odd else ""


def unjoined(path: Path, shards: Sequence[Shard], metas: Sequence[Mapping[str, Any]]) -> str:
    """Why the tables of a sharded store are not those of its shards, with what to do; "" if they are."""
    if fault := at_odds(path, shards, metas):
        return fault
    stamps = [meta.get("stamp", "") for meta in metas]
    for name in (MANIFEST, ITEMS):
        known = _stamps(path / name)
        changed = [shard for shard, a, b in zip(shards, stamps, known, strict=False) if a != b]
        if changed or len(known) != len(stamps):
            blocking = shards_under_way(path, shards) or changed or shards
            return rerun(path, f"{name} is not of its shards as they are now", blocking)
    return ""


def _stamps(table: Path) -> list[str]:
    """Stamps of the shards that a table was made of; none if there is no such table."""
    metadata = (pq.read_schema(table).metadata or {}) if table.is_file() else {}
    stamps: list[str] = json.loads(metadata.get(_STAMPS, b"[]"))
    return stamps


def stamped(table: pa.Table, stamps: list[str]) -> pa.Table:
    """The table of a sharded store with the stamps of the shards that it was made of."""
    return table.replace_schema_metadata({_STAMPS: json.dumps(stamps)})


def read_value(file: Path, key: bytes, growth: int = 0) -> bytes | None:
    """One value of an LMDB file, or None where it is not there.

    `growth`: bytes that a writer may add while readers have the file open; a finished one takes none, so that
    thousands of shards fit the address space.
    """
    with _environment(file, growth).begin() as transaction:
        value: bytes | None = transaction.get(key)
    return value


def check_schema(meta: bytes, path: Path) -> None:
    """Raise ValueError unless a store's meta record carries this code's schema version."""
    try:
        version = json.loads(meta)["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "its meta record cannot be read") from error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"the store {path} has schema version {version}, this code reads {SCHEMA_VERSION}; prepare "
            "it again into a new folder, or use the version of foldwright that made it"
        )


def _environment(file: Path, growth: int = 0) -> lmdb.Environment:
    """The process's own read-only environment: LMDB allows one a file and process, and none across a fork."""
    status = file.stat()
    key = (status.st_dev, status.st_ino)
    if key in _environments:
        _environments.move_to_end(key)
    else:
        while len(_environments) >= MAX_SHARDS:
            _environments.popitem(last=False)[1].close()
        room = status.st_size + growth
        environment = lmdb.open(
            str(file), subdir=False, readonly=True, lock=False, readahead=False, map_size=room
        )
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if status.st_size < needed:  # reading beyond the end would kill the process
            environment.close()
            raise _damaged(file.parent, f"{file.name} has {status.st_size} bytes, expected {needed}")
        _environments[key] = environment
    return _environments[key]


def _unknown(key: bytes, path: Path) -> KeyError:
    return KeyError(f"{key.decode()} is not in the store {path}")


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"the store {path} is damaged: {what}; copy it again or prepare it again")


def _close_environments() -> None:
    while _environments:
        _environments.popitem()[1].close()


os.register_at_fork(before=_close_environments)  # parent and child open the file anew when they next read it


def open_for_writing(file: Path) -> lmdb.Environment:
    """A writable environment, made if missing, in place of this process's readers; one writer at a time."""
    if file.exists() and (reader := _environments.pop((file.stat().st_dev, file.stat().st_ino), None)):
        reader.close()
    return lmdb.open(str(file), subdir=False, map_size=_MAP_SIZE, readahead=False)


def _pairs(transaction: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = transaction.cursor()
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not bytes(key).startswith(prefix):
                return
            yield bytes(key), bytes(value)


def records_with_prefix(transaction: lmdb.Transaction, prefix: bytes) -> dict[str, Any]:
    """JSON values of all keys that start with `prefix`, by the rest of the key."""
    return {key[len(prefix) :].decode(): json.loads(value) for key, value in _pairs(transaction, prefix)}


def read_records(file: Path, prefix: bytes) -> Iterator[tuple[str, Any]]:
    """The same of a finished file, one after another, sorted."""
    with _environment(file).begin() as transaction:
        for key, value in _pairs(transaction, prefix):
            yield key[len(prefix) :].decode(), json.loads(value)


def keys_with_prefix(transaction: lmdb.Transaction, prefix: bytes) -> list[bytes]:
    return [key for key, _ in _pairs(transaction, prefix)]
