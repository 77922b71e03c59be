# SPDX-License-Identifier: Apache-2.0
"""Complexes of a target and a ligand as entries of a store: series of poses, and ligands without a pose.

A series is a folder with protein.pdb and ligands.sdf (either .gz). Caps, water and ions of the protein are
left out. Missing residues become unknown ones where the numbering has a gap, so that the chain is not closed
over it. A ligand without a pose is there with its atoms unresolved: a trained model places it.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pyarrow as pa

from foldwright.data import store
from foldwright.data.ccd import Dictionary
from foldwright.data.mmcif import read_structure
from foldwright.data.records import Entry, encode_entry, encode_record
from foldwright.data.reference import atom_reference
from foldwright.data.structure import Component, Floats, Structure, keep_chains
from foldwright.data.tables import write_table
from foldwright.data.tokenize import tokenize
from foldwright.data.weights import chain_clusters, item_table, make_items
from foldwright.vocabulary import UNKNOWN_RESTYPE, MoleculeType

_RENAMED = {
    **dict.fromkeys(("HIE", "HID", "HIP", "HSD", "HSE", "HSP"), "HIS"),
    **dict.fromkeys(("CYX", "CYM"), "CYS"),
    **{"ASH": "ASP", "GLH": "GLU", "LYN": "LYS", "ARN": "ARG"},
}
_MAX_GAP = 40  # residues of a gap that are filled in as unknown


@dataclass(frozen=True)
class Complex:
    """An entry of the store and its one ligand chain. `entry` is the name in the store."""

    entry: str
    structure: Structure
    component: Component


def series_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Folders below `root` (or itself) that hold a series, by name: the files of protein and ligands."""
    found = {}
    for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
        protein = next((p for p in (folder / "protein.pdb", folder / "protein.pdb.gz") if p.exists()), None)
        ligands = next((p for p in (folder / "ligands.sdf", folder / "ligands.sdf.gz") if p.exists()), None)
        if protein and ligands:
            found[folder.name] = (protein, ligands)
    if not found:
        raise ValueError(
            f"--poses: {root} holds no folder with protein.pdb and ligands.sdf (.gz); give another"
        )
    return found


def read_protein(path: Path, dictionary: Dictionary) -> Structure:
    """The protein chains of a PDB file, as prepared structures are; ValueError if there is none."""
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    model = gemmi.read_pdb_string(text)
    model.remove_alternative_conformations()
    model.remove_hydrogens()
    model.remove_waters()
    model.assemblies.clear()  # remark 350 may name chains that the file no longer has
    for chain in model[0]:
        _keep_polymer(chain, dictionary)
    model.remove_empty_chains()
    if not len(model) or not len(model[0]):
        raise ValueError(f"{path}: got no protein chain, expected a PDB file of one; look at the file")
    model.setup_entities()
    for entity in model.entities:
        entity.full_sequence = _sequence(model[0], entity)
    model.assign_label_seq_id(True)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "protein.cif"
        model.make_mmcif_document().write_file(str(target))
        structure = read_structure(target, dictionary)
    return keep_chains(structure, structure.chain_type == MoleculeType.PROTEIN)


def _keep_polymer(chain: gemmi.Chain, dictionary: Dictionary) -> None:
    for index in reversed(range(len(chain))):
        residue = chain[index]
        residue.name = _RENAMED.get(residue.name, residue.name)
        names = {atom.name for atom in residue}
        if not {"N", "CA", "C"} <= names or residue.name not in dictionary:
            del chain[index]
            continue
        residue.het_flag = "A"
        residue.entity_type = gemmi.EntityType.Polymer


def _sequence(model: gemmi.Model, entity: gemmi.Entity) -> list[str]:
    """Residue names of an entity's first chain, with UNK for the numbers that are missing."""
    span = next(s for chain in model for s in chain.subchains() if s.subchain_id() in entity.subchains)
    names: list[str] = []
    previous: gemmi.Residue | None = None
    for residue in span:
        if previous is not None:
            gap = (residue.seqid.num or 0) - (previous.seqid.num or 0) - 1
            apart = previous["C"][0].pos.dist(residue["N"][0].pos) > 2.0
            names += ["UNK"] * (min(gap, _MAX_GAP) if apart and gap > 0 else 0)
        names.append(residue.name)
        previous = residue
    return names


def with_ligand(
    protein: Structure, component: Component, entry: str, coords: Floats | None = None
) -> Complex:
    """The protein with the component as a ligand chain "LIG"; unresolved without `coords` [L, 3] Å."""
    n_atoms, n_residues = len(component.atom_name), len(protein.residue_chain)
    n_chains = len(protein.chain_name)
    resolved = np.full(n_atoms, coords is not None)
    added: dict[str, Any] = {
        "chain_name": ["LIG"], "chain_entity": [protein.chain_entity.max() + 1], "chain_sym": [0],
        "chain_type": [MoleculeType.LIGAND],
        "residue_chain": [n_chains], "residue_index": [1], "residue_component": [component.code],
        "residue_restype": [UNKNOWN_RESTYPE[MoleculeType.LIGAND]], "residue_atomised": [True],
        "atom_residue": np.full(n_atoms, n_residues), "atom_name": component.atom_name,
        "atom_slot": np.zeros(n_atoms), "atom_element": component.atom_element,
        "atom_charge": component.atom_charge, "atom_resolved": resolved,
        "atom_coords": np.zeros((n_atoms, 3)) if coords is None else coords,
    }  # fmt: skip
    joined: dict[str, Any] = {}
    for name, value in added.items():
        own = getattr(protein, name)
        new = np.array(value, np.str_) if own.dtype.kind == "U" else np.array(value).astype(own.dtype)
        joined[name] = np.concatenate([own, new])
    return Complex(entry, replace(protein, entry_id=entry, **joined), component)


def write_store(
    path: Path, complexes: Iterable[Complex], components: Mapping[str, Component]
) -> list[dict[str, Any]]:
    """A store of complexes, readable like any; the rows of its manifest.

    `components` gives what the proteins are made of. ValueError if `path` is there already.
    """
    if path.exists():
        raise ValueError(f"--store: {path} exists; remove it, or give another path for the complexes")
    folder = path.with_name(path.name + ".partial")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / store.ARRAYS).unlink(missing_ok=True)
    environment = store.open_for_writing(folder / "growing.lmdb")
    rows, items, needed = [], [], set[str]()
    for item in complexes:
        known = _Joined(components, item.component)
        entry = _entry(item.structure, known)
        rows.append(_row(entry))
        items += make_items(item.structure)
        codes = {str(code) for code in np.unique(item.structure.residue_component)}
        needed |= codes - {item.component.code}
        with environment.begin(write=True) as transaction:
            transaction.put(store.entry_key(item.entry), encode_entry(entry))
            transaction.put(store.component_key(item.component.code), encode_record(item.component))
    with environment.begin(write=True) as transaction:
        for code in sorted(needed):
            transaction.put(store.component_key(code), encode_record(components[code]))
        transaction.put(b"meta", json.dumps({"schema_version": store.SCHEMA_VERSION}).encode())
    environment.copy(str(folder / store.ARRAYS), compact=True)
    environment.close()
    for leftover in folder.glob("growing.lmdb*"):
        leftover.unlink()
    write_table(pa.Table.from_pylist(rows), folder / store.MANIFEST)
    write_table(item_table(items), folder / store.ITEMS)
    folder.rename(path)
    return rows


class _Joined(Mapping[str, Component]):
    """Components with one more."""

    def __init__(self, components: Mapping[str, Component], own: Component) -> None:
        self.components, self.own = components, own

    def __getitem__(self, code: str) -> Component:
        return self.own if code == self.own.code else self.components[code]

    def __contains__(self, code: object) -> bool:
        return code == self.own.code or code in self.components

    def __iter__(self) -> Any:
        yield self.own.code
        yield from self.components

    def __len__(self) -> int:
        return len(self.components) + 1


def _entry(structure: Structure, components: Mapping[str, Component]) -> Entry:
    nothing = np.zeros(0, np.int32)
    tokens = tokenize(structure, components)
    return Entry(structure, tokens, atom_reference(structure, components), nothing, nothing)


def _row(entry: Entry) -> dict[str, Any]:
    structure = entry.structure
    return {
        "entry": structure.entry_id,
        "n_tokens": len(entry.tokens.token_residue),
        "n_atoms": len(structure.atom_name),
        "n_chains": len(structure.chain_name),
        "chain_names": structure.chain_name.tolist(),
        "chain_types": [MoleculeType(int(kind)).name for kind in structure.chain_type],
        "chain_clusters_100": chain_clusters(structure),
        "schema_version": store.SCHEMA_VERSION,
    }


def ligand_chain(structure: Structure, code: str, chains: Sequence[str] = ()) -> str | None:
    """Name of the first chain that is one molecule of a component; None if there is none.

    `chains`: names to prefer, should they be there.
    """
    found = []
    for number in np.flatnonzero(structure.chain_type == MoleculeType.LIGAND):
        if structure.sequence(int(number)) == [code]:
            found.append(str(structure.chain_name[number]))
    return next((name for name in found if name in chains), found[0] if found else None)
