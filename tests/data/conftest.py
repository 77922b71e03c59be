# SPDX-License-Identifier: Apache-2.0
"""Small mmCIF files written line by line, and a store prepared from them once a session."""

from pathlib import Path

import numpy as np
import pytest

from foldwright.data.prepare import main

_BACKBONE = {"N": (-1.2, 0.6, 0.0), "CA": (0.0, 0.0, 0.0), "C": (1.2, 0.6, 0.3), "O": (1.3, 1.5, 1.0)}
_LIGANDS = {"BEN": ("C1", "C2", "C3", "C4", "C5", "C6", "C", "N1", "N2"), "ZN": ("ZN",)}
_ATOM_SITE = """_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_comp_id
_atom_site.auth_asym_id
_atom_site.auth_atom_id
_atom_site.pdbx_PDB_model_num""".splitlines()
_PARTNER = "label_asym_id label_seq_id auth_seq_id label_comp_id label_atom_id"
_STRUCT_CONN = ["loop_", "_struct_conn.id", "_struct_conn.conn_type_id"] + [
    f"_struct_conn.ptnr{partner}_{tag}" for partner in (1, 2) for tag in _PARTNER.split()
]


class EntryWriter:
    """Collects the rows of one mmCIF file. Proteins run along x, 3.8 Å a residue, at a given y and z."""

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.atoms: list[str] = []
        self.entities: dict[tuple[str, ...], int] = {}
        self.asyms: list[tuple[str, int]] = []
        self.coords: dict[tuple[str, int, str], tuple[float, float, float]] = {}
        self.polymers: set[int] = set()
        self.links: list[str] = []

    def protein(self, chain: str, sequence: list[str], y: float, z: float = 0.0, unresolved=()):
        entity = self._entity(chain, tuple(sequence))
        self.polymers.add(entity)
        for number, code in enumerate(sequence, 1):
            atoms = _BACKBONE | ({} if code == "GLY" else {"CB": (0.0, -0.9, -1.2)})
            for name, (dx, dy, dz) in atoms.items():
                if number not in unresolved:
                    xyz = (3.8 * number + dx, y + dy, z + dz)
                    self._atom(chain, entity, code, number, name, name[0], xyz)
        return self

    def ligand(self, chain: str, code: str, origin: tuple[float, float, float], names: tuple[str, ...] = ()):
        entity = self._entity(chain, (code,))
        for i, name in enumerate(names or _LIGANDS[code]):
            element = name.rstrip("0123456789")
            angle = i * 2 * np.pi / 9
            xyz = (origin[0] + 2 * np.cos(angle), origin[1] + 2 * np.sin(angle), origin[2])
            self._atom(chain, entity, code, None, name, element, xyz)
        return self

    def bond(self, first: str, second: str):
        """A covalent bond between two of "chain label_seq_id auth_seq_id component atom"."""
        self.links.append(f"covale{len(self.links) + 1} covale {first} {second}")
        return self

    def _entity(self, chain: str, sequence: tuple[str, ...]) -> int:
        entity = self.entities.setdefault(sequence, len(self.entities) + 1)
        self.asyms.append((chain, entity))
        return entity

    def _atom(self, chain, entity, code, number, name, element, xyz):
        self.coords[chain, number or 1, name] = xyz
        group = "ATOM" if number else "HETATM"
        x, y, z = xyz
        self.atoms.append(
            f"{group} {len(self.atoms) + 1} {element} {name} . {code} {chain} {entity} {number or '.'} ? "
            f"{x:.3f} {y:.3f} {z:.3f} 1.00 20.0 {number or 1} {code} {chain} {name} 1"
        )

    def write(self, folder: Path) -> Path:
        kinds = [(n, "polymer" if n in self.polymers else "non-polymer") for n in self.entities.values()]
        lines = [
            f"data_{self.entry}", f"_entry.id {self.entry}", "_exptl.method 'X-RAY DIFFRACTION'",
            "_refine.ls_d_res_high 1.80", "loop_", "_entity.id", "_entity.type",
            *(f"{n} {kind}" for n, kind in kinds),
            "loop_", "_entity_poly.entity_id", "_entity_poly.type",
            *(f"{n} 'polypeptide(L)'" for n in sorted(self.polymers)),
            "loop_", "_entity_poly_seq.entity_id", "_entity_poly_seq.num", "_entity_poly_seq.mon_id",
            *(f"{n} {i} {code}" for sequence, n in self.entities.items() if n in self.polymers
              for i, code in enumerate(sequence, 1)),
            "loop_", "_struct_asym.id", "_struct_asym.entity_id", *(f"{c} {n}" for c, n in self.asyms),
            "loop_",
            *_ATOM_SITE,
            *self.atoms, *(_STRUCT_CONN if self.links else ()), *self.links, "#",
        ]  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.entry}.cif"
        path.write_text("\n".join(lines) + "\n")
        return path


SEQUENCE = ["GLY", "ALA", "SER", "VAL", "LEU", "ALA", "GLY", "SER", "THR", "ALA", "VAL", "LEU"]
SHORT = ["ALA", "SEP", "GLY", "VAL", "ALA", "LEU"]


def dimer() -> EntryWriter:
    """Two copies of a 12-residue chain 6 Å apart, a ligand of 9 atoms beside them, and an ion far away."""
    writer = EntryWriter("dimr")
    writer.protein("A", SEQUENCE, y=0.0, unresolved=(12,)).protein("B", SEQUENCE, y=6.0)
    return writer.ligand("C", "BEN", (12.0, -6.0, 0.0)).ligand("D", "ZN", (200.0, 0.0, 0.0))


def modified() -> EntryWriter:
    """A chain with a phosphoserine, of which the backbone and CB are seen."""
    return EntryWriter("modr").protein("A", SHORT, y=0.0)


@pytest.fixture(scope="session")
def writer_of():
    return {"dimr": dimer, "modr": modified, "new": EntryWriter}


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """mmcif/ and msa/ of two entries; the alignment of dimr's chain B serves its chain A too."""
    folder = tmp_path_factory.mktemp("raw")
    for make in (dimer, modified):
        make().write(folder / "mmcif")
    (folder / "msa").mkdir()
    rows = [
        "GASVLAGSTAVL",
        "GASVLAGSTAVI",
        "GAS--AGSTAVL",
        "-ASVkkLAGSTAVL",
        "GASVLAGSTAVLqq",
        "GASVLAGSTAVL",
    ]
    text = "".join(f">s{i}\n{row}\n" for i, row in enumerate(rows))
    (folder / "msa" / "dimr_B.a3m").write_text(text)
    return folder


@pytest.fixture(scope="session")
def store_path(raw, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "store"
    arguments = ["--structures", raw / "mmcif", "--msas", raw / "msa", "--out", out, "--workers", 1,
                 "--n-conformers", 2]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    return out
