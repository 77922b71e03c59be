# SPDX-License-Identifier: Apache-2.0
"""Preparing one entry, in a worker process: mmCIF and a3m files in, the store's bytes and table rows out.

A file that cannot be used is a Rejected with a reason to count, never a lost run. An alignment that does not
fit its chain is left out and noted; the entry stays.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foldwright.data.arrays import encode
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.conformers import make_component
from foldwright.data.entry_alignments import EntryMsas, read_msas
from foldwright.data.entry_templates import TemplateConfig, read_templates
from foldwright.data.filters import FilterConfig, Rejection, clean
from foldwright.data.ligands import read_ligands
from foldwright.data.mmcif import read_structure
from foldwright.data.msa_blocks import encode_msa
from foldwright.data.predicted import mean_plddt, read_plddt
from foldwright.data.records import Entry, encode_entry, encode_record
from foldwright.data.reference import atom_reference
from foldwright.data.sources import EntryFiles, Note, file_digest
from foldwright.data.store import SCHEMA_VERSION, msa_block_key, msa_key, pairing_key, plddt_key, template_key
from foldwright.data.structure import Component, Floats, Structure
from foldwright.data.template_structures import TemplateLibrary
from foldwright.data.templates import Templates
from foldwright.data.tokenize import tokenize
from foldwright.data.weights import chain_clusters, make_items
from foldwright.vocabulary import MoleculeType


@dataclass(frozen=True)
class PrepareConfig:
    """What decides an entry's stored bytes, and the limits on making them."""

    filters: FilterConfig = field(default_factory=FilterConfig)
    predicted: bool = False  # the structures are predictions: their B factors are pLDDTs
    components: Path | None = None  # a components.cif of one's own, before the dictionary
    ligands: Path | None = None  # SMILES or SDF of ligands (`ligands.read_ligands`), before both
    dictionary_cache: Path = DEFAULT_CACHE
    max_msa_rows: int = 16384
    template_structures: Path | None = None  # folder of mmCIF files that hits are looked up in
    templates: TemplateConfig = field(default_factory=TemplateConfig)
    n_conformers: int = 5
    conformer_seed: int = 0
    conformer_timeout_s: float = 20.0
    entry_limit_s: float = 300.0

    def entry_hash(self) -> str:
        """Digest of all that decides an entry's bytes apart from its files."""
        parts = {"filters": asdict(self.filters), "templates": asdict(self.templates)}
        return self._hash({**parts, "max_msa_rows": self.max_msa_rows, "predicted": self.predicted})

    def component_hash(self) -> str:
        """Digest of all that decides a component's bytes."""
        return self._hash(
            {"n": self.n_conformers, "seed": self.conformer_seed, "limit": self.conformer_timeout_s}
        )

    def _hash(self, values: dict[str, Any]) -> str:
        own = file_digest(self.components) if self.components else ""
        if self.ligands:
            files = [self.ligands] if self.ligands.is_file() else sorted(self.ligands.glob("*.s*"))
            files += sorted(self.ligands.parent.glob("*.sdf")) if self.ligands.is_file() else []
            own += "".join(f" {path.name} {file_digest(path)}" for path in files)
        text = json.dumps([SCHEMA_VERSION, own, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Source(NamedTuple):
    """The files of one entry. `known` is the digest of files and configuration at its last preparation."""

    entry: str
    files: EntryFiles
    known: str


class Prepared(NamedTuple):
    """An entry for the store: its bytes, its row of the manifest, its items, its component codes."""

    entry: str
    digest: str
    data: bytes
    arrays: dict[bytes, bytes]  # alignments and templates by their keys in the store
    row: dict[str, Any]
    items: list[dict[str, Any]]
    codes: list[str]
    changes: dict[str, int]
    notes: list[Note]
    seconds: float  # of wall-clock time that it took


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
    library: TemplateLibrary | None
    library_digest: str


def open_workbench(config: PrepareConfig) -> Workbench:
    """Open the component dictionary (made when first needed)."""
    dictionary = Dictionary.open(config.dictionary_cache, config.components)
    if config.ligands:
        dictionary = Dictionary(dictionary.folder, dictionary.own | read_ligands(config.ligands))
    library = TemplateLibrary(config.template_structures) if config.template_structures else None
    return Workbench(dictionary, config, config.entry_hash(), library, library.digest() if library else "")


def prepare_entry(bench: Workbench, source: Source) -> Prepared | Rejected | Unchanged:
    """Read, clean, tokenise and serialise one entry, unless it is unchanged."""
    parts = [bench.config_hash, source.files.digest(), bench.library_digest if source.files.hits else ""]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if digest == source.known:
        return Unchanged(source.entry)
    start = time.perf_counter()
    changes: Counter[str] = Counter()
    try:
        structure = read_structure(
            source.files.structure, bench.dictionary, bench.config.filters.max_polymer_chains, changes
        )
        structure, dropped = clean(structure, bench.config.filters)
        plddt = read_plddt(source.files.structure, structure) if bench.config.predicted else None
    except Rejection as rejection:
        return Rejected(source.entry, digest, rejection.reason, rejection.detail)
    except ValueError as error:
        return Rejected(source.entry, digest, "unreadable", str(error))
    structure = replace(structure, entry_id=source.entry)
    changes.update(dropped)
    outcome = _assemble(bench, source, structure, plddt, digest, changes)
    if isinstance(outcome, Prepared):
        outcome = outcome._replace(seconds=round(time.perf_counter() - start, 4))
    return outcome


def _assemble(
    bench: Workbench,
    source: Source,
    structure: Structure,
    plddt: Floats | None,
    digest: str,
    changes: Counter[str],
) -> Prepared | Rejected:
    components = BareComponents(bench.dictionary)
    tokens = tokenize(structure, components)
    if not structure.atom_resolved[tokens.token_centre].any():
        return Rejected(source.entry, digest, "unresolved", "no token centre of the entry is resolved")
    msas = read_msas(structure, source.files, bench.config.max_msa_rows)
    templates, notes = _templates(bench, source.files, structure, changes)
    entry = Entry(
        structure,
        tokens,
        atom_reference(structure, components),
        msa_entities=np.array(sorted(msas.of_entity), np.int32),
        template_entities=np.array(sorted(templates), np.int32),
    )
    data, arrays = encode_entry(entry), _stored(source.entry, msas, templates, plddt)
    row = _manifest_row(entry, msas, templates, file_digest(source.files.structure), bench.config_hash)
    return Prepared(
        entry=source.entry,
        digest=digest,
        data=data,
        arrays=arrays,
        row={
            **row,
            "n_bytes": len(data) + sum(map(len, arrays.values())),
            "mean_plddt": None if plddt is None else mean_plddt(plddt, structure),
        },
        items=[asdict(item) for item in make_items(structure)],
        codes=[str(code) for code in np.unique(structure.residue_component)],
        changes=dict(changes),
        notes=msas.notes + notes,
        seconds=0.0,
    )


def _templates(
    bench: Workbench, files: EntryFiles, structure: Structure, changes: Counter[str]
) -> tuple[dict[int, Templates], list[Note]]:
    if bench.library is None:
        return {}, []
    return read_templates(structure, files.hits, bench.library, bench.config.templates, changes)


def _stored(
    entry: str, msas: EntryMsas, templates: Mapping[int, Templates], plddt: Floats | None
) -> dict[bytes, bytes]:
    """Alignments, the species of paired rows, templates and pLDDT, as the store keeps them."""
    stored = {pairing_key(entry): encode({"species": np.array(msas.paired_species, np.str_)})}
    for entity, msa in msas.of_entity.items():
        stored[msa_key(entry, entity)], blocks = encode_msa(msa)
        stored |= {msa_block_key(entry, entity, number): block for number, block in enumerate(blocks)}
    if plddt is not None:
        stored[plddt_key(entry)] = encode({"plddt": np.rint(plddt).astype(np.uint8)})
    return stored | {template_key(entry, entity): encode_record(found) for entity, found in templates.items()}


def _manifest_row(
    entry: Entry, msas: EntryMsas, templates: Mapping[int, Templates], file: str, config: str
) -> dict[str, Any]:
    structure, tokens = entry.structure, entry.tokens
    entities = structure.chain_entity.tolist()
    return {
        "entry": structure.entry_id,
        "n_tokens": len(tokens.token_residue),
        "n_atoms": len(structure.atom_name),
        "n_resolved_atoms": int(structure.atom_resolved.sum()),
        "n_chains": len(structure.chain_name),
        "chain_names": structure.chain_name.tolist(),
        "chain_types": [MoleculeType(int(kind)).name for kind in structure.chain_type],
        "chain_clusters_100": chain_clusters(structure),
        "chain_msa_depths": [msas.depth(entity) for entity in entities],
        "n_paired_rows": len(msas.paired_species),
        "chain_templates": [
            len(templates[entity].names) if entity in templates else 0 for entity in entities
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
            automorphisms=np.arange(n_atoms, dtype=np.int32)[None],
        )

    def __contains__(self, code: object) -> bool:
        return code in self._dictionary

    def __iter__(self) -> Iterator[str]:
        return iter(self._dictionary)

    def __len__(self) -> int:
        return len(self._dictionary)
