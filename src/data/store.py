# SPDX-License-Identifier: Apache-2.0
"""The store: prepared entries, alignments and components in one LMDB file beside Parquet tables.

    STORE/arrays.lmdb        meta, entry/<id>, component/<code>; msa/<id>/<entity> and its blocks of columns
                             msa/<id>/<entity>/<number>; template/<id>/<entity>; pairing/<id>, the species
                             of paired rows; plddt/<id> of a predicted entry's residues; done/<id> and
                             made/<code> hold what a preparation needs to know what is up to date
    STORE/manifest.parquet   one row an entry
    STORE/items.parquet      one row a chain or interface, the units of sampling
    STORE/report.*           what was kept and what was rejected, with reasons (`report`)

Readers open it read-only and without locks, anew in every process that uses it. A store of another schema
version is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa

from foldwright.data.arrays import decode
from foldwright.data.msa import Msa
from foldwright.data.msa_blocks import decode_msa
from foldwright.data.records import Entry, decode_entry, decode_record
from foldwright.data.structure import Component, Floats, Ints
from foldwright.data.tables import read_table
from foldwright.data.templates import Templates

SCHEMA_VERSION = 3
ARRAYS, MANIFEST, ITEMS = "arrays.lmdb", "manifest.parquet", "items.parquet"
_MAP_SIZE = 2**41  # bytes of address space of the one writer; the file is only as large as its content
_GROWTH = 2**36  # bytes that a file may grow by under its readers; address space ends at 64 times _MAP_SIZE
_environments: dict[tuple[str, int], lmdb.Environment] = {}


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
        missing = [name for name in (ARRAYS, MANIFEST, ITEMS) if not (self.path / name).is_file()]
        if missing:
            raise ValueError(
                f"got {self.path}, which lacks {', '.join(missing)}; expected a prepared store: make one "
                "with `prepare_data.py --structures DIR --out STORE`"
            )
        check_schema(self._get(b"meta"), self.path)
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
        found = decode_entry(self._get(entry_key(entry)))
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
                self._get(msa_key(entry, entity)),
                lambda number, entity=entity: self._get(msa_block_key(entry, entity, number)),  # type: ignore[misc]
                None if columns is None else columns[entity],
            )
            for entity in entities
        }

    def paired_species(self, entry: str) -> list[str]:
        """The species of the paired rows that the alignments of an entry's proteins share, in their order."""
        arrays, _ = decode(self._get(pairing_key(entry)))
        return [str(name) for name in arrays["species"]]

    def plddt(self, entry: str) -> Floats | None:
        """[S] pLDDT of every residue of a predicted entry, 0 to 100; None for an experimental one."""
        data = self._find(plddt_key(entry))
        return None if data is None else np.asarray(decode(data)[0]["plddt"], np.float32)

    def templates(self, entry: str, entities: Iterable[int]) -> dict[int, Templates]:
        """The templates of the given entities of an entry; KeyError for an entity without any."""
        return {
            entity: decode_record(Templates, self._get(template_key(entry, entity))) for entity in entities
        }

    def component(self, code: str) -> Component:
        """Raises KeyError for a component that no entry uses, ValueError for damaged bytes."""
        found = decode_record(Component, self._get(component_key(code)))
        if found.code != code:
            raise _damaged(self.path, f"it gives {found.code} for {code}")
        return found

    def component_codes(self) -> list[str]:
        """Codes of all components of the store."""
        with _environment(self.path / ARRAYS).begin() as transaction:
            return [key.decode().split("/", 1)[1] for key in keys_with_prefix(transaction, b"component/")]

    def _find(self, key: bytes) -> bytes | None:
        try:
            with _environment(self.path / ARRAYS).begin() as transaction:
                value: bytes | None = transaction.get(key)
        except lmdb.Error as error:
            raise _damaged(self.path, str(error)) from error
        return value

    def _get(self, key: bytes) -> bytes:
        value = self._find(key)
        if value is None:
            raise KeyError(f"{key.decode()} is not in the store {self.path}")
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


def read_value(file: Path, key: bytes) -> bytes | None:
    """One value of an LMDB file, or None where it is not there."""
    with _environment(file).begin() as transaction:
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


def _environment(file: Path) -> lmdb.Environment:
    """The process's own read-only environment: LMDB allows one a file and process, and none across a fork."""
    key = (str(file.resolve()), file.stat().st_ino)
    if key not in _environments:
        room = file.stat().st_size + _GROWTH
        environment = lmdb.open(
            str(file), subdir=False, readonly=True, lock=False, readahead=False, map_size=room
        )
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if file.stat().st_size < needed:  # reading beyond the end would kill the process
            environment.close()
            raise _damaged(file.parent, f"{file.name} has {file.stat().st_size} bytes, expected {needed}")
        _environments[key] = environment
    return _environments[key]


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"the store {path} is damaged: {what}; copy it again or prepare it again")


def _close_environments() -> None:
    while _environments:
        _environments.popitem()[1].close()


os.register_at_fork(before=_close_environments)  # parent and child open the file anew when they next read it


def open_for_writing(file: Path) -> lmdb.Environment:
    """A writable environment, made if missing, in place of this process's readers; one writer at a time."""
    for key in [key for key in _environments if key[0] == str(file.resolve())]:
        _environments.pop(key).close()
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


def keys_with_prefix(transaction: lmdb.Transaction, prefix: bytes) -> list[bytes]:
    return [key for key, _ in _pairs(transaction, prefix)]
