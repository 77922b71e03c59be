# SPDX-License-Identifier: Apache-2.0
"""An mmCIF file written by hand, holding one case of each rule of reading; and the shared dictionary."""

import functools
from pathlib import Path

import numpy as np

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.structure import Component

CORPUS = Path(__file__).parents[2].parent / "shared" / "data"
_ENTITIES = ["1 polymer", "2 polymer", "3 branched", "4 non-polymer", "5 non-polymer", "6 water"]
PROTEIN = ["GLY", "MSE", "ARG", "SEP", "ASN", "ALA"]
RNA = ["G", "A", "C"]


@functools.cache
def dictionary() -> Dictionary:
    return Dictionary.open(DEFAULT_CACHE)


@functools.cache
def bare_component(code: str) -> Component:
    """A component with its ideal coordinates as the only conformer."""
    d = dictionary()[code]
    mask = np.isfinite(d.ideal).all(axis=1)
    identity = np.arange(len(mask), dtype=np.int32)[None]
    return Component(code, d.atom_name, d.atom_element, d.atom_charge, d.atom_leaving, d.bonds, d.bond_order,
                     np.nan_to_num(d.ideal)[None], mask, "ideal", identity)  # fmt: skip


def components_of(structure):
    return {str(code): bare_component(str(code)) for code in np.unique(structure.residue_component)}


def _protein_atoms():
    """(name, x, y, z, altloc, occupancy) by residue; ALA 6 is unresolved."""
    backbone = [("N", 0, 0, 0), ("CA", 1.4, 0, 0), ("C", 2.5, 1.4, 0), ("O", 1.5, 2.5, 0)]
    return {
        1: [(n, x, y, z, "A", 0.4) for n, x, y, z in backbone]
        + [(n, x, y, z + 1, "B", 0.6) for n, x, y, z in backbone]
        + [("HA", 1, 1, 1, "", 1.0)],
        2: [*((*a, "", 1.0) for a in backbone), ("SE", 5, 5, 5, "", 1.0)],
        3: [
            *((*a, "", 1.0) for a in backbone),
            ("CD", 0, 3, 0, "", 1.0), ("CZ", 0, 4, 0, "", 1.0),
            ("NH1", 0, 6, 0, "", 1.0), ("NH2", 0, 5, 0, "", 1.0),
        ],
        4: [*((*a, "", 1.0) for a in backbone), ("P", 1, -3, 0, "", 1.0), ("XX", 9, 9, 9, "", 1.0)],
        5: [*((*a, "", 1.0) for a in backbone), ("ND2", 1, -2, 0, "", 1.0)],
    }  # fmt: skip


def _rows():
    rows = []

    def add(asym, entity, component, seq, author, name, xyz, alt="", occupancy=1.0):
        element = "SE" if name == "SE" else "ZN" if name == "ZN" else name[0]
        quoted = f'"{name}"' if "'" in name else name
        identity = (
            f"ATOM {len(rows) + 1} {element} {quoted} {alt or '.'} {component} {asym} {entity} {seq or '.'} ?"
        )
        rows.append(f"{identity} {xyz[0]:.3f} {xyz[1]:.3f} {xyz[2]:.3f} {occupancy} {author} 1")

    for number, atoms in _protein_atoms().items():
        for name, x, y, z, alt, occupancy in atoms:
            add("A", 1, PROTEIN[number - 1], number, number, name, (x + 4 * number, y, z), alt, occupancy)
    for number, component in enumerate(RNA, 1):
        for i, name in enumerate(("P", "O5'", "C4'", "C1'", "O3'")):
            if number > 1 or name != "P":
                add("B", 2, component, number, number, name, (6 * number + i, 20, 0))
    for number in (1, 2):
        for i, name in enumerate(("C1", "C2", "O4", "N2")):
            add("C", 3, "NAG", 0, number, name, (21 + i, -3.2 - 4 * (number - 1), 0))
    add("D", 4, "ZN", 0, 1, "ZN", (30, 30, 30))
    for i, name in enumerate(("C1", "C2")):
        add("E", 5, "UNL", 0, 1, name, (40 + i, 30, 30))
    add("F", 6, "HOH", 0, 1, "O", (0, 40, 0))
    rows.append(rows[0].removesuffix("1") + "2")  # a second model
    return rows


_LINKS = [
    ("covale", "A", 5, 5, "ND2", "C", ".", 1, "C1"),  # N-glycosidic
    ("covale", "C", ".", 1, "O4", "C", ".", 2, "C1"),  # 4.5 Å: too long
    ("covale", "A", 4, 4, "C", "A", 5, 5, "N"),  # backbone
    ("metalc", "A", 3, 3, "O", "D", ".", 1, "ZN"),
    ("covale", "A", 4, 4, "P", "B", 1, 1, "XX"),  # no such atom
]


def mmcif_text() -> str:
    chains = ((1, PROTEIN), (2, RNA))
    sequence = [f"{entity} {i} {code}" for entity, codes in chains for i, code in enumerate(codes, 1)]
    identity, shift = "1 0 0 0 1 0 0 0 1 0 0 0", "1 0 0 0 1 0 0 0 1 50 0 0"
    matrix = [f"matrix[{i}][{j}]" for i in "123" for j in "123"] + [f"vector[{i}]" for i in "123"]
    links = [
        f"{kind} {a} {s1} {n1} {x1} {b} {s2} {n2} {x2} 1_555 1_555"
        for kind, a, s1, n1, x1, b, s2, n2, x2 in _LINKS
    ]
    return "\n".join([
        "data_HAND", "_entry.id HAND", "_exptl.method 'X-RAY DIFFRACTION'", "_refine.ls_d_res_high 1.75",
        *_loop("_pdbx_audit_revision_history", "ordinal revision_date", ["1 2011-02-03", "2 2020-01-01"]),
        *_loop("_entity", "id type", _ENTITIES),
        *_loop("_entity_poly", "entity_id type", ["1 'polypeptide(L)'", "2 polyribonucleotide"]),
        *_loop("_entity_poly_seq", "entity_id num mon_id", sequence),
        *_loop("_struct_asym", "id entity_id", ["A 1", "B 2", "C 3", "D 4", "E 5", "F 6"]),
        *_loop("_pdbx_struct_assembly_gen", "assembly_id oper_expression asym_id_list",
               ["1 1,2 A,C,D,E,F", "1 1 B", "2 1 A"]),
        *_loop("_pdbx_struct_oper_list", "id " + " ".join(matrix), [f"1 {identity}", f"2 {shift}"]),
        *_loop("_struct_conn", "conn_type_id ptnr1_label_asym_id ptnr1_label_seq_id ptnr1_auth_seq_id "
               "ptnr1_label_atom_id ptnr2_label_asym_id ptnr2_label_seq_id ptnr2_auth_seq_id "
               "ptnr2_label_atom_id ptnr1_symmetry ptnr2_symmetry", links),
        *_loop("_atom_site", "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id "
               "label_asym_id label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z "
               "occupancy auth_seq_id pdbx_PDB_model_num", _rows()),
        "#", "",
    ])  # fmt: skip


def _loop(category, tags, rows):
    return ["#", "loop_", *(f"{category}.{tag}" for tag in tags.split()), *rows]
