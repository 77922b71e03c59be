# SPDX-License-Identifier: Apache-2.0
"""The categories of one mmCIF file that a Structure is made of, as plain tables (AF3 SI 2.1).

All that knows the names of mmCIF items stands here: header, entities, sequences, atoms of the first model,
covalent links, and biological assembly 1. Values are read as the file gives them; only hydrogens and waters
are left out. A file without sequences (bare coordinates, as programs write them) is first completed by gemmi.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Floats, Strings

WATERS = ("HOH", "DOD", "WAT", "H2O")
_COVALENT = ("covale", "covale_base", "covale_phosphate", "covale_sugar")


@dataclass(frozen=True)
class Atoms:
    """Atoms of the first model without hydrogens and waters. Coordinates in Å, always finite."""

    asym: Strings
    component: Strings
    name: Strings
    residue_key: Strings  # label_seq_id in polymers; author number + insertion code where that is empty
    alternate: Strings  # "" when there is one position only
    occupancy: Floats
    b_factor: Floats  # in predictions the pLDDT
    coords: Floats  # [L, 3]


@dataclass(frozen=True)
class Link:
    """One covalent bond of struct_conn: (asym, residue key, atom name) of both partners."""

    first: tuple[str, str, str]
    second: tuple[str, str, str]


@dataclass(frozen=True)
class Placement:
    """One copy of a chain in the assembly: x -> rotation x + translation; `operator` names the copy."""

    asym: str
    operator: str
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """All that is read of one file. `sequences` lists the alternative components of each position."""

    entry_id: str
    method: str
    resolution: float
    release_date: str
    asym_entity: dict[str, str]
    asym_author: dict[str, str]  # chain name of the authors (auth_asym_id), by label_asym_id
    entity_type: dict[str, str]
    polymer_type: dict[str, str]
    sequences: dict[str, list[list[str]]]
    atoms: Atoms
    links: list[Link]
    placements: list[Placement]


def read_entry(path: Path) -> Entry:
    """Read one .cif or .cif.gz file; ValueError says what is wrong with it."""
    return entry_of_block(_read_block(path), path.name.split(".")[0])


def entry_of_block(block: gemmi.cif.Block, name: str) -> Entry:
    """As `read_entry`, from a parsed block; `name` is the entry's where the block has none."""
    if not _is_complete(block):
        block = _completed(block)
    atoms = _atoms(block)
    asym_entity = _asym_entities(block)
    method = ", ".join(row[0].upper() for row in _rows(block, "_exptl.", ["method"]))
    return Entry(
        entry_id=(_single(block, "_entry.id") or block.name or name).lower(),
        method=method,
        resolution=_resolution(block),
        release_date=_release_date(block),
        asym_entity=asym_entity,
        asym_author=_asym_authors(block),
        entity_type=dict(_pairs(block, "_entity.", "id", "type")),
        polymer_type=dict(_pairs(block, "_entity_poly.", "entity_id", "type")),
        sequences=_sequences(block),
        atoms=atoms,
        links=_links(block),
        placements=_placements(block, list(asym_entity)),
    )


def _read_block(path: Path) -> gemmi.cif.Block:
    if not path.is_file():
        raise ValueError("no such file")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        document = gemmi.cif.read_string(content)
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"cannot be read ({error}); is the file cut short?") from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"is no valid CIF: {error}") from error
    for block in document:
        if block.find_values("_atom_site.Cartn_x"):
            return block
    raise ValueError("has no _atom_site category with coordinates; expected an mmCIF structure file")


def _is_complete(block: gemmi.cif.Block) -> bool:
    needed = (
        "_entity_poly_seq.mon_id",
        "_entity.type",
        "_atom_site.label_asym_id",
        "_atom_site.label_seq_id",
    )
    return all(len(block.find_values(tag)) > 0 for tag in needed)


def _completed(block: gemmi.cif.Block) -> gemmi.cif.Block:
    """The file with entities, chains and sequences that gemmi infers from the residues present."""
    try:
        structure = gemmi.make_structure_from_block(block)
        structure.setup_entities()
        for entity in structure.entities:
            if entity.entity_type == gemmi.EntityType.Polymer and not entity.full_sequence:
                polymer = structure[0].get_subchain(entity.subchains[0])
                entity.full_sequence = [residue.name for residue in polymer.first_conformer()]
        structure.assign_label_seq_id(True)
        return structure.make_mmcif_document().sole_block()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"lacks its sequences, and they cannot be inferred: {error}") from error


# --- columns ---


def _rows(block: gemmi.cif.Block, category: str, tags: Sequence[str]) -> Iterator[list[str]]:
    """Rows of a small category, unquoted; "" for missing values and missing columns."""
    table = block.find(category, ["?" + tag if tag is not tags[0] else tag for tag in tags])
    for row in table:
        yield [row.str(i) if row.has(i) else "" for i in range(len(tags))]


def _pairs(block: gemmi.cif.Block, category: str, key: str, value: str) -> Iterator[tuple[str, str]]:
    return ((row[0], row[1].lower()) for row in _rows(block, category, [key, value]))


def _single(block: gemmi.cif.Block, tag: str) -> str:
    values = block.find_values(tag)
    return values.str(0) if len(values) else ""


def _text(block: gemmi.cif.Block, tag: str, size: int) -> Strings:
    """A whole column as unquoted strings, "" where missing."""
    column = block.find_values(tag)
    if not len(column):
        return np.full(size, "", np.str_)
    unique, inverse = np.unique(np.array(list(column), np.str_), return_inverse=True)
    return np.array([gemmi.cif.as_string(str(value)) for value in unique], np.str_)[inverse]


def _numbers(block: gemmi.cif.Block, tag: str, size: int, default: float) -> NDArray[np.float64]:
    """A whole column of numbers, NaN for "?" and "."; ValueError for anything else that is no number."""
    column = block.find_values(tag)
    if not len(column):
        return np.full(size, default)
    raw = list(column)
    try:
        return np.array(raw, np.float64)
    except ValueError:
        values = np.array([gemmi.cif.as_number(value) for value in raw])
        bad = [
            value for value, number in zip(raw, values, strict=True) if np.isnan(number) and value not in "?."
        ]
        if bad:
            raise ValueError(f"item {tag} holds {bad[0]!r}, expected a number") from None
        return values


# --- header ---


def _resolution(block: gemmi.cif.Block) -> float:
    """Å, the first reported of refinement, reconstruction and data collection; 0.0 if none is."""
    for tag in ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution", "_reflns.d_resolution_high"):
        for value in block.find_values(tag):
            number = gemmi.cif.as_number(value)
            if np.isfinite(number) and number > 0:
                return float(number)
    return 0.0


def _release_date(block: gemmi.cif.Block) -> str:
    """Earliest revision; files from before 2017 carry it in database_PDB_rev."""
    for tag in ("_pdbx_audit_revision_history.revision_date", "_database_PDB_rev.date"):
        column = block.find_values(tag)
        dates = sorted(date for date in (column.str(i)[:10] for i in range(len(column)))
                       if re.fullmatch(r"\d{4}-\d\d-\d\d", date))  # fmt: skip
        if dates:
            return dates[0]
    return ""


# --- chains, sequences, atoms ---


def _asym_entities(block: gemmi.cif.Block) -> dict[str, str]:
    """Entity of every label_asym_id, in the file's order."""
    table = {row[0]: row[1] for row in _rows(block, "_struct_asym.", ["id", "entity_id"])}
    if table:
        return table
    return {row[0]: row[1] for row in _rows(block, "_atom_site.", ["label_asym_id", "label_entity_id"])}


def _asym_authors(block: gemmi.cif.Block) -> dict[str, str]:
    """The authors' name of every label_asym_id of a polymer; of all with atoms if there is no scheme."""
    for category, tags in (
        ("_pdbx_poly_seq_scheme.", ["asym_id", "pdb_strand_id"]),
        ("_atom_site.", ["label_asym_id", "auth_asym_id"]),
    ):
        if table := {asym: author for asym, author in _rows(block, category, tags) if author}:
            return table
    return {}


def _sequences(block: gemmi.cif.Block) -> dict[str, list[list[str]]]:
    positions: dict[str, dict[int, list[str]]] = {}
    for entity, number, component in _rows(block, "_entity_poly_seq.", ["entity_id", "num", "mon_id"]):
        if not number.isdecimal():
            raise ValueError(f"_entity_poly_seq.num holds {number!r}, expected a positive number")
        positions.setdefault(entity, {}).setdefault(int(number), []).append(component)
    for entity, by_number in positions.items():
        if sorted(by_number) != list(range(1, len(by_number) + 1)):
            raise ValueError(
                f"the sequence of entity {entity} is not numbered 1..{len(by_number)} without gaps"
            )
    return {entity: [by_number[i] for i in sorted(by_number)] for entity, by_number in positions.items()}


def _atoms(block: gemmi.cif.Block) -> Atoms:
    size = len(block.find_values("_atom_site.Cartn_x"))
    axes = [_numbers(block, f"_atom_site.Cartn_{axis}", size, np.nan) for axis in "xyz"]
    coords = np.stack(axes, axis=1)
    component = _text(block, "_atom_site.label_comp_id", size)
    element = np.char.upper(_text(block, "_atom_site.type_symbol", size))
    model = _text(block, "_atom_site.pdbx_PDB_model_num", size)
    keep = np.isfinite(coords).all(axis=1) & (model == model[:1])
    keep &= ~np.isin(component, WATERS) & ~np.isin(element, ("H", "D"))
    if not keep.any():
        raise ValueError("has no atoms but hydrogens and waters with known coordinates")
    names = [
        "label_asym_id",
        "label_atom_id",
        "label_alt_id",
        "label_seq_id",
        "auth_seq_id",
        "pdbx_PDB_ins_code",
    ]
    asym, atom, alternate, seq, author, insertion = (
        _text(block, f"_atom_site.{name}", size)[keep] for name in names
    )
    occupancy = np.nan_to_num(_numbers(block, "_atom_site.occupancy", size, 1.0)[keep])
    key = residue_keys(seq, author, insertion)
    b_factor = np.nan_to_num(_numbers(block, "_atom_site.B_iso_or_equiv", size, 0.0)[keep])
    return Atoms(asym, component[keep], atom, key, alternate, occupancy.astype(np.float32),
                 b_factor.astype(np.float32), coords[keep].astype(np.float32))  # fmt: skip


def residue_keys(seq: Strings, author: Strings, insertion: Strings) -> Strings:
    """What tells residues of a chain apart: label_seq_id, else "author:" number and insertion code."""
    return np.where(seq == "", np.char.add(np.char.add("author:", author), insertion), seq)


# --- covalent links ---


def _links(block: gemmi.cif.Block) -> list[Link]:
    """Covalent connections within the asymmetric unit as given; those to a symmetry mate are left out."""
    parts = ["ptnr{}_label_asym_id", "ptnr{}_label_seq_id", "ptnr{}_auth_seq_id", "pdbx_ptnr{}_PDB_ins_code",
             "ptnr{}_label_atom_id", "ptnr{}_symmetry"]  # fmt: skip
    tags = ["conn_type_id"] + [part.format(partner) for partner in "12" for part in parts]
    links = []
    for row in _rows(block, "_struct_conn.", tags):
        symmetry = row[6] or "1_555", row[12] or "1_555"
        if row[0].lower() in _COVALENT and symmetry[0] == symmetry[1]:
            links.append(Link(_partner(row[1:7]), _partner(row[7:13])))
    return links


def _partner(row: Sequence[str]) -> tuple[str, str, str]:
    asym, seq, author, insertion, atom, _ = row
    return asym, seq or f"author:{author}{insertion}", atom


# --- assembly ---


def _placements(block: gemmi.cif.Block, asyms: list[str]) -> list[Placement]:
    """Chains of assembly 1 (the first listed if none is named 1); without the category, the file as it is."""
    generators = list(_rows(block, "_pdbx_struct_assembly_gen.",
                            ["assembly_id", "oper_expression", "asym_id_list"]))  # fmt: skip
    operators = _operators(block)
    if not generators or not operators:
        return [Placement(asym, "identity", np.eye(3), np.zeros(3)) for asym in asyms]
    identifiers = [row[0] for row in generators]
    wanted = "1" if "1" in identifiers else identifiers[0]
    found: dict[tuple[str, str], Placement] = {}
    for _, expression, asym_list in (row for row in generators if row[0] == wanted):
        members = set(asym_list.replace(" ", "").split(","))
        for names in operator_products(expression):
            rotation, translation = _compose(operators, names)
            for asym in (asym for asym in asyms if asym in members):
                copy = Placement(asym, "*".join(names), rotation, translation)
                found.setdefault((asym, copy.operator), copy)
    return list(found.values())


def _operators(block: gemmi.cif.Block) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    matrix = [f"matrix[{i}][{j}]" for i in (1, 2, 3) for j in (1, 2, 3)]
    tags = ["id", "type", *matrix, *(f"vector[{i}]" for i in (1, 2, 3))]
    operators = {}
    for name, kind, *entries in _rows(block, "_pdbx_struct_oper_list.", tags):
        if not any(entries) and kind == "identity operation":
            operators[name] = np.eye(3), np.zeros(3)
            continue
        try:
            numbers = np.array([float(value) for value in entries])
        except ValueError:
            raise ValueError(f"assembly operator {name} has an entry that is no number: {entries}") from None
        operators[name] = numbers[:9].reshape(3, 3), numbers[9:]
    return operators


def operator_products(expression: str) -> list[tuple[str, ...]]:
    """Operators of an oper_expression, e.g. "(1-2)(P,Q)" -> (1, P), (1, Q), (2, P), (2, Q).

    The rightmost operator of a product acts first.
    """
    compact = expression.replace(" ", "").replace("'", "")
    groups = [group for group in re.split(r"[()]", compact) if group] if "(" in compact else [compact]
    return list(itertools.product(*(_expand(group) for group in groups)))


def _expand(group: str) -> list[str]:
    names: list[str] = []
    for item in group.strip(",").split(","):
        span = re.fullmatch(r"(\d+)-(\d+)", item)
        names += [str(i) for i in range(int(span[1]), int(span[2]) + 1)] if span else [item]
    return names


def _compose(
    operators: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rotation, translation = np.eye(3), np.zeros(3)
    for name in reversed(names):
        if name not in operators:
            raise ValueError(
                f"the assembly uses operator {name!r}, which _pdbx_struct_oper_list does not define"
            )
        matrix, vector = operators[name]
        rotation, translation = matrix @ rotation, matrix @ translation + vector
    return rotation, translation
