# SPDX-License-Identifier: Apache-2.0
"""What biotite reads of an mmCIF file's assembly 1, in numbers to compare with ours."""

import gzip
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from biotite import InvalidFileError
from biotite.structure import BadStructureError
from biotite.structure.io import pdbx

WATERS = ("HOH", "DOD", "WAT", "H2O")
COVALENT = ("covale", "covale_base", "covale_phosphate", "covale_sugar")


class Reading(NamedTuple):
    """copies: of each label_asym_id; atoms: heavy atoms of each, over all copies; sequences by asym;
    bonds: covalent links within the asymmetric unit, as pairs of (asym, residue, atom)."""

    copies: dict[str, int]
    atoms: dict[str, int]
    sequences: dict[str, list[str]]
    bonds: set[frozenset[tuple[str, str, str]]]


def read(path: Path) -> Reading:
    with gzip.open(path, "rt") as file:
        cif = pdbx.CIFFile.read(file)
    block = cif.block
    unit = pdbx.get_structure(cif, model=1, use_author_fields=False, altloc="occupancy")
    try:
        atoms = pdbx.get_assembly(cif, model=1, use_author_fields=False, altloc="occupancy")
    except (BadStructureError, InvalidFileError, KeyError):
        atoms = unit
    per_unit = Counter(unit.chain_id.tolist())
    total = Counter(atoms.chain_id.tolist())
    copies = {asym: total[asym] // per_unit[asym] for asym in total}
    heavy = ~np.isin(atoms.res_name, WATERS) & ~np.isin(atoms.element, ("H", "D"))
    return Reading(copies, Counter(atoms.chain_id[heavy].tolist()), _sequences(block), _bonds(block))


def _column(category, name: str, size: int | None = None) -> np.ndarray:
    if name not in category:
        return np.full(size or 0, "?")
    return category[name].as_array(str)


def _sequences(block) -> dict[str, list[str]]:
    if "entity_poly_seq" not in block or "struct_asym" not in block:
        return {}
    rows = block["entity_poly_seq"]
    of_entity: dict[str, dict[int, str]] = {}
    for entity, number, name in zip(
        *(_column(rows, tag) for tag in ("entity_id", "num", "mon_id")), strict=True
    ):
        of_entity.setdefault(entity, {}).setdefault(int(number), name)
    asyms = zip(*(_column(block["struct_asym"], tag) for tag in ("id", "entity_id")), strict=True)
    return {a: [of_entity[e][i] for i in sorted(of_entity[e])] for a, e in asyms if e in of_entity}


def _bonds(block) -> set[frozenset[tuple[str, str, str]]]:
    if "struct_conn" not in block:
        return set()
    rows = block["struct_conn"]
    size = rows.row_count
    kind = _column(rows, "conn_type_id", size)
    found = set()
    ends = []
    for partner in "12":
        tags = ("label_asym_id", "label_seq_id", "auth_seq_id", "label_atom_id", "symmetry")
        ends.append([_column(rows, f"ptnr{partner}_{tag}", size) for tag in tags])
    for i in range(size):
        if kind[i].lower() in COVALENT and ends[0][4][i] == ends[1][4][i]:
            pair = [(e[0][i], e[1][i] if e[1][i] not in "?." else e[2][i], e[3][i]) for e in ends]
            found.add(frozenset(pair))
    return found
