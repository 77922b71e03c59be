# SPDX-License-Identifier: Apache-2.0
"""Preparing one entry, in a worker process: mmCIF and a3m files in, the store's bytes and table rows out.

A file that cannot be used is a Rejected with a reason to count, never a lost run. An alignment that does not
fit its chain is left out and noted; the entry stays.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.conformers import make_component
from foldwright.data.filters import FilterConfig, Rejection, clean
from foldwright.data.mmcif import read_structure
from foldwright.data.msa import MIN_CHAIN_LENGTH, Msa, check_query, make_msa, read_a3m
from foldwright.data.records import Entry, encode_entry, encode_record
from foldwright.data.reference import atom_reference
from foldwright.data.store import SCHEMA_VERSION
from foldwright.data.structure import Component, Structure
from foldwright.data.tokenize import tokenize
from foldwright.data.weights import chain_clusters, make_items
from foldwright.vocabulary import MoleculeType

_ALIGNED = (MoleculeType.PROTEIN, MoleculeType.RNA)  # AF3 SI 2.2: no alignments for DNA and ligands


@dataclass(frozen=True)
class PrepareConfig:
    """What decides an entry's stored bytes, and the limits on making them."""

    filters: FilterConfig = field(default_factory=FilterConfig)
    components: Path | None = None  # a components.cif of one's own, before the dictionary
    dictionary_cache: Path = DEFAULT_CACHE
    max_msa_rows: int = 16384
    n_conformers: int = 5
    conformer_seed: int = 0
    conformer_timeout_s: float = 20.0
    entry_limit_s: float = 300.0

    def entry_hash(self) -> str:
        """Digest of all that decides an entry's bytes apart from its files."""
        return self._hash({"filters": asdict(self.filters), "max_msa_rows": self.max_msa_rows})

    def component_hash(self) -> str:
        """Digest of all that decides a component's bytes."""
        return self._hash(
            {"n": self.n_conformers, "seed": self.conformer_seed, "limit": self.conformer_timeout_s}
        )

    def _hash(self, values: dict[str, Any]) -> str:
        own = file_digest(self.components) if self.components else ""
        text = json.dumps([SCHEMA_VERSION, own, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Source(NamedTuple):
    """The files of one entry. `known` is the digest of files and configuration at its last preparation."""

    entry: str
    structure: Path
    msas: tuple[tuple[str, Path], ...]  # chain name, alignment
    known: str


class Note(NamedTuple):
    """Something left out of an entry: a reason to count and what was found."""

    reason: str
    detail: str


class Prepared(NamedTuple):
    """An entry for the store: its bytes, its row of the manifest, its items, its component codes."""

    entry: str
    digest: str
    data: bytes
    msas: dict[int, bytes]
    row: dict[str, Any]
    items: list[dict[str, Any]]
    codes: list[str]
    changes: dict[str, int]
    notes: list[Note]


class Rejected(NamedTuple):
    """An entry left out as a whole."""

    entry: str
    digest: str
    reason: str
    detail: str


class Unchanged(NamedTuple):
    """An entry whose files and configuration are those of its last preparation."""

    entry: str


class Workbench(NamedTuple):
    """A worker's state."""

    dictionary: Dictionary
    config: PrepareConfig
    config_hash: str  # of the configuration, for entries


def open_workbench(config: PrepareConfig) -> Workbench:
    """Open the component dictionary (made when first needed)."""
    dictionary = Dictionary.open(config.dictionary_cache, config.components)
    return Workbench(dictionary, config, config.entry_hash())


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare_entry(bench: Workbench, source: Source) -> Prepared | Rejected | Unchanged:
    """Read, clean, tokenise and serialise one entry, unless it is unchanged."""
    files = [file_digest(source.structure)]
    files += [f"{chain} {file_digest(path)}" for chain, path in source.msas]
    digest = hashlib.sha256("\n".join([bench.config_hash, *files]).encode()).hexdigest()
    if digest == source.known:
        return Unchanged(source.entry)
    changes: Counter[str] = Counter()
    try:
        structure = read_structure(
            source.structure, bench.dictionary, bench.config.filters.max_polymer_chains, changes
        )
        structure, dropped = clean(structure, bench.config.filters)
    except Rejection as rejection:
        return Rejected(source.entry, digest, rejection.reason, rejection.detail)
    except ValueError as error:
        return Rejected(source.entry, digest, "unreadable", str(error))
    structure = replace(structure, entry_id=source.entry)
    changes.update(dropped)
    return _assemble(bench, source, structure, digest, files[0], changes)


def _assemble(
    bench: Workbench, source: Source, structure: Structure, digest: str, file: str, changes: Mapping[str, int]
) -> Prepared | Rejected:
    components = BareComponents(bench.dictionary)
    tokens = tokenize(structure, components)
    if not structure.atom_resolved[tokens.token_centre].any():
        return Rejected(source.entry, digest, "unresolved", "no token centre of the entry is resolved")
    msas, notes = _read_msas(structure, source, bench.config.max_msa_rows)
    entry = Entry(structure, tokens, atom_reference(structure, components), np.array(sorted(msas), np.int32))
    return Prepared(
        entry=source.entry,
        digest=digest,
        data=encode_entry(entry),
        msas={entity: encode_record(msa) for entity, msa in msas.items()},
        row=_manifest_row(entry, msas, file, bench.config_hash),
        items=[asdict(item) for item in make_items(structure)],
        codes=[str(code) for code in np.unique(structure.residue_component)],
        changes=dict(changes),
        notes=notes,
    )


def _read_msas(structure: Structure, source: Source, max_rows: int) -> tuple[dict[int, Msa], list[Note]]:
    """The alignment of every entity that has one; a file names a chain and serves all copies of it."""
    msas: dict[int, Msa] = {}
    notes = []
    for name, path in source.msas:
        chains = np.flatnonzero(structure.chain_name == name)
        if len(chains) == 0:
            notes.append(
                Note("msa_without_chain", f"{path.name}: there is no chain {name!r} after the filters")
            )
            continue
        entity = int(structure.chain_entity[chains[0]])
        if entity in msas:
            continue
        try:
            msa = _read_msa(structure, int(chains[0]), path, max_rows)
        except ValueError as error:
            notes.append(Note("msa_mismatch", f"{path.name}: {error}"))
            continue
        if msa is None:
            notes.append(Note("msa_not_used", f"{path.name}: chain {name!r} is a ligand, DNA or very short"))
        else:
            msas[entity] = msa
    return msas, notes


def _read_msa(structure: Structure, chain: int, path: Path, max_rows: int) -> Msa | None:
    kind = MoleculeType(int(structure.chain_type[chain]))
    mine = structure.residue_chain == chain
    restypes = structure.residue_restype[mine]
    if kind not in _ALIGNED or len(restypes) < MIN_CHAIN_LENGTH:
        return None
    rows, deletions = read_a3m(path, kind)
    check_query(rows[0], restypes, structure.residue_atomised[mine], kind)
    return make_msa(rows, deletions, restypes, max_rows)


def _manifest_row(entry: Entry, msas: Mapping[int, Msa], file: str, config: str) -> dict[str, Any]:
    structure, tokens = entry.structure, entry.tokens
    return {
        "entry": structure.entry_id,
        "n_tokens": len(tokens.token_residue),
        "n_atoms": len(structure.atom_name),
        "n_resolved_atoms": int(structure.atom_resolved.sum()),
        "n_chains": len(structure.chain_name),
        "chain_names": structure.chain_name.tolist(),
        "chain_types": [MoleculeType(int(kind)).name for kind in structure.chain_type],
        "chain_clusters_100": chain_clusters(structure),
        "chain_msa_depths": [
            len(msas[entity].rows) if entity in msas else 0 for entity in structure.chain_entity.tolist()
        ],
        "method": structure.method,
        "resolution": float(structure.resolution),
        "release_date": structure.release_date,
        "file_sha256": file,
        "config_hash": config,
        "schema_version": SCHEMA_VERSION,
    }


def prepare_component(bench: Workbench, code: str) -> Component:
    """The component with its conformers."""
    config = bench.config
    return make_component(
        code, bench.dictionary, config.conformer_seed, config.n_conformers, config.conformer_timeout_s
    )


class BareComponents(Mapping[str, Component]):
    """The dictionary's components without conformers: all that tokenisation needs."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary

    def __getitem__(self, code: str) -> Component:
        definition = self._dictionary[code]
        n_atoms = len(definition.atom_name)
        return Component(
            code=code,
            atom_name=definition.atom_name,
            atom_element=definition.atom_element,
            atom_charge=definition.atom_charge,
            atom_leaving=definition.atom_leaving,
            bonds=definition.bonds,
            bond_order=definition.bond_order,
            conformers=np.zeros((1, n_atoms, 3), np.float32),
            conformer_mask=np.zeros(n_atoms, np.bool_),
            conformer_source="none",
        )

    def __contains__(self, code: object) -> bool:
        return code in self._dictionary

    def __iter__(self) -> Iterator[str]:
        return iter(self._dictionary)

    def __len__(self) -> int:
        return len(self._dictionary)
