# SPDX-License-Identifier: Apache-2.0
"""The Chemical Component Dictionary: atoms, bonds, parents and coordinates of every component by its code.

Source: the wwPDB dictionary (AF3 SI 2.1, 2.8). biotite ships it as a BinaryCIF of 49,000 components that
costs about a gigabyte in every process that opens it, so it is read once into a folder of flat arrays that
all later processes map from disk. A user's own components come from a components.cif and take precedence.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from foldwright.data.structure import Bools, Bytes, Floats, Ints, Strings
from foldwright.vocabulary import AMINO_ACIDS, ATOMIC_NUMBER, ONE_LETTER, RESTYPE_INDEX

DEFAULT_CACHE = Path.home() / ".cache" / "foldwright"
CACHE_VERSION = 2
_ORDERS = {"SING": 1, "DOUB": 2, "TRIP": 3, "AROM": 1}
_HEADER = ("id", "type", "mon_nstd_parent_comp_id", "one_letter_code", "pdbx_modified_date")
_RNA_OF_LETTER = {letter: letter for letter in "AGCU"} | {"T": "U"}
_DNA_OF_LETTER = {letter: "D" + letter for letter in "AGCT"} | {"U": "DT"}
_PROTEIN_OF_LETTER = {ONE_LETTER[name]: name for name in AMINO_ACIDS} | {"B": "ASP", "Z": "GLU"}


@dataclass(frozen=True)
class Definition:
    """One dictionary entry: L atoms in the dictionary's order, E bonds. Coordinates in Å, NaN if missing."""

    code: str
    type: str  # upper case, e.g. "L-PEPTIDE LINKING", "NON-POLYMER"
    parent: str  # code of the standard residue it derives from, "" if none or several
    modified: str  # ISO date of the last modification, "" if unknown
    atom_name: Strings
    atom_old_name: Strings  # the dictionary's alternative name, which older files use
    atom_element: Bytes  # 0 for an unknown element, 1 for hydrogen and deuterium
    atom_charge: NDArray[np.int8]
    atom_leaving: Bools
    ideal: Floats  # [L, 3]
    model: Floats  # [L, 3]
    bonds: Ints  # [E, 2] atom indices
    bond_order: Bytes  # [E] Kekulé orders 1, 2, 3
    bond_aromatic: Bools  # [E]

    def heavy(self) -> Definition:
        """The same entry without hydrogens; bonds to hydrogens go too."""
        keep = self.atom_element != 1
        new_index = np.cumsum(keep, dtype=np.int32) - 1
        bond_kept = keep[self.bonds].all(axis=1)
        return Definition(
            self.code, self.type, self.parent, self.modified,
            self.atom_name[keep], self.atom_old_name[keep], self.atom_element[keep],
            self.atom_charge[keep], self.atom_leaving[keep],
            self.ideal[keep], self.model[keep], new_index[self.bonds[bond_kept]].astype(np.int32),
            self.bond_order[bond_kept], self.bond_aromatic[bond_kept],
        )  # fmt: skip


class Dictionary:
    """Component definitions by code, from a folder of mapped arrays and a mapping of the user's own.

    `dictionary[code]` gives heavy atoms only, `dictionary.with_hydrogens(code)` all atoms; both raise
    KeyError for a code in neither source. An instance pickles as its folder and the user's entries, so that
    worker processes map the same pages.
    """

    def __init__(self, folder: Path | None, own: Mapping[str, Definition] | None = None) -> None:
        if folder is None and not own:
            raise ValueError("got neither a cache folder nor components; give one of them")
        self.folder = folder
        self.own = dict(own or {})
        self._tables = _map_tables(folder) if folder is not None else {}
        self._heavy = lru_cache(maxsize=4096)(lambda code: self.with_hydrogens(code).heavy())

    @classmethod
    def open(cls, cache: Path = DEFAULT_CACHE, components: Path | None = None) -> Dictionary:
        """Open biotite's dictionary through the cache folder (made when first needed, a few seconds, 90 MB).

        `components`: a user's components.cif or .cif.gz, whose entries go before the dictionary's.
        """
        folder = cache / f"ccd-v{CACHE_VERSION}-biotite-{importlib.metadata.version('biotite')}"
        if not folder.is_dir():
            _write_tables(_read_biotite(), folder)
        return cls(folder, read_components(components) if components else None)

    @classmethod
    def from_cif(cls, path: Path) -> Dictionary:
        """A dictionary of one components.cif(.gz) alone."""
        return cls(None, read_components(path))

    def __reduce__(self) -> tuple[type[Dictionary], tuple[Path | None, dict[str, Definition]]]:
        return Dictionary, (self.folder, self.own)

    def __contains__(self, code: object) -> bool:
        return code in self.own or (isinstance(code, str) and self._row(code) is not None)

    def __getitem__(self, code: str) -> Definition:
        return self._heavy(code)

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        if self._tables:
            codes = (code.decode() for code in self._tables["code"])
            yield from (code for code in codes if code not in self.own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def with_hydrogens(self, code: str) -> Definition:
        """The whole entry, hydrogens included; KeyError if the code is unknown."""
        if code in self.own:
            return self.own[code]
        row = self._row(code)
        if row is None:
            raise KeyError(code)
        t = self._tables
        atoms = slice(t["atom_start"][row], t["atom_start"][row + 1])
        bonds = slice(t["bond_start"][row], t["bond_start"][row + 1])
        return Definition(
            code, t["type"][row].decode(), t["parent"][row].decode(), t["modified"][row].decode(),
            t["atom_name"][atoms].astype(np.str_), t["atom_old_name"][atoms].astype(np.str_),
            np.array(t["atom_element"][atoms]),
            np.array(t["atom_charge"][atoms]), np.array(t["atom_leaving"][atoms]),
            np.array(t["ideal"][atoms]), np.array(t["model"][atoms]), t["bonds"][bonds].astype(np.int32),
            np.array(t["bond_order"][bonds]), np.array(t["bond_aromatic"][bonds]),
        )  # fmt: skip

    def _row(self, code: str) -> int | None:
        if not self._tables or not code.isascii():
            return None
        codes = self._tables["code"]
        row = int(np.searchsorted(codes, code.encode()))
        return row if row < len(codes) and codes[row] == code.encode() else None


def parent_residue(parent: str, one_letter: str, kind: str) -> str:
    """Standard residue that a modified component derives from, "" if none (or several, as in chromophores).

    The dictionary's parent code decides; without a standard one, its one-letter code within the component's
    polymer type does.
    """
    if parent in RESTYPE_INDEX and parent not in ("UNK", "N", "DN", "-"):
        return parent
    if "," in parent:
        return ""
    letters = (_DNA_OF_LETTER if "DNA" in kind else _RNA_OF_LETTER if "RNA" in kind
               else _PROTEIN_OF_LETTER if "PEPTIDE" in kind else {})  # fmt: skip
    return letters.get(one_letter, "")


# --- a user's components.cif ---


def read_components(path: Path) -> dict[str, Definition]:
    """Read every component of a components.cif or .cif.gz; ValueError if the file is none."""
    if not path.is_file():
        raise ValueError(f"no component file at {path}; give a components.cif or components.cif.gz")
    try:
        document = gemmi.cif.read(str(path))
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no readable CIF of components: {error}") from error
    return _components_of(document, str(path))


def parse_components(text: str) -> dict[str, Definition]:
    """As `read_components`, from the text of such a file."""
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"got no readable CIF of components: {error}") from error
    return _components_of(document, "the text given")


def _components_of(document: gemmi.cif.Document, source: str) -> dict[str, Definition]:
    definitions = (_definition_of_block(block) for block in document)
    found = {definition.code: definition for definition in definitions if definition is not None}
    if not found:
        raise ValueError(
            f"{source} holds no _chem_comp_atom category; expected the format of the PDB's components.cif"
        )
    return found


def described_components(path: Path) -> dict[str, Definition]:
    """The components that a file of a structure describes itself, atom by atom (`_chem_comp_atom`); none is
    no error. Raises ValueError if it is no readable mmCIF.
    """
    try:
        block = gemmi.cif.read(str(path)).sole_block()
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no readable mmCIF: {error}") from error
    tables = [block.get_mmcif_category(f"_chem_comp{name}.") for name in ("", "_atom", "_bond")]
    types = dict(zip(tables[0].get("id", []), tables[0].get("type", []), strict=False))
    headers = {str(code): dict.fromkeys(_HEADER, "") | {"id": str(code), "type": str(kind or "")}
               for code, kind in types.items()}  # fmt: skip
    atoms, bonds = (_by_component(table) for table in tables[1:])
    return {code: _definition(headers[code], atoms[code], bonds.get(code, {}))
            for code in atoms if code in headers}  # fmt: skip


def _by_component(table: Mapping[str, list[Any]]) -> dict[str, dict[str, list[Any]]]:
    """The rows of a table, column by column, by the component that they belong to."""
    rows: dict[str, list[int]] = {}
    for row, code in enumerate(table.get("comp_id", [])):
        rows.setdefault(str(code), []).append(row)
    return {code: {tag: [column[row] for row in own] for tag, column in table.items()}
            for code, own in rows.items()}  # fmt: skip


def _definition_of_block(block: gemmi.cif.Block) -> Definition | None:
    atoms = block.get_mmcif_category("_chem_comp_atom.")
    if not atoms or "atom_id" not in atoms:
        return None
    header = {tag: _value(block, f"_chem_comp.{tag}") for tag in _HEADER}
    header["id"] = header["id"] or block.name
    return _definition(header, atoms, block.get_mmcif_category("_chem_comp_bond."))


def _definition(
    header: Mapping[str, str], atoms: Mapping[str, list[Any]], bonds: Mapping[str, list[Any]]
) -> Definition:
    """From the columns of the tables of one component."""
    names = [str(name) for name in atoms["atom_id"]]
    index = {name: i for i, name in enumerate(names)}
    tags = ("atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag")
    columns = [bonds.get(tag) or [None] * len(bonds.get("atom_id_1", [])) for tag in tags]
    rows = [row for row in zip(*columns, strict=True) if row[0] in index and row[1] in index]
    kind = header["type"].upper()
    return Definition(
        code=header["id"],
        type=kind,
        parent=parent_residue(header["mon_nstd_parent_comp_id"], header["one_letter_code"], kind),
        modified=header["pdbx_modified_date"],
        atom_name=np.array(names, dtype=np.str_),
        atom_old_name=np.array([str(name) for name in atoms.get("alt_atom_id", names)], dtype=np.str_),
        atom_element=np.array([ATOMIC_NUMBER.get(str(s).upper(), 0) for s in atoms["type_symbol"]], np.uint8),
        atom_charge=np.array([int(float(c or 0)) for c in atoms.get("charge", [0] * len(names))], np.int8),
        atom_leaving=np.array(
            [flag == "Y" for flag in atoms.get("pdbx_leaving_atom_flag", ["N"] * len(names))], np.bool_
        ),
        ideal=_coordinates(atoms, "pdbx_model_Cartn_{}_ideal"),
        model=_coordinates(atoms, "model_Cartn_{}"),
        bonds=np.array([[index[row[0]], index[row[1]]] for row in rows], np.int32).reshape(-1, 2),
        bond_order=np.array([_ORDERS.get(str(row[2]).upper(), 1) for row in rows], np.uint8),
        bond_aromatic=np.array([row[3] == "Y" or str(row[2]).upper() == "AROM" for row in rows], np.bool_),
    )


def _value(block: gemmi.cif.Block, tag: str) -> str:
    value = block.find_value(tag)
    return gemmi.cif.as_string(value) if value else ""


def _coordinates(atoms: Mapping[str, list[Any]], pattern: str) -> Floats:
    missing = [None] * len(atoms["atom_id"])
    columns = [atoms.get(pattern.format(axis), missing) for axis in "xyz"]
    rows = [[float(v) if v not in (None, False) else np.nan for v in column] for column in columns]
    return np.array(rows, np.float32).T.reshape(-1, 3)


# --- biotite's dictionary, as flat tables ---


def _read_biotite() -> dict[str, NDArray[Any]]:
    """biotite's packaged dictionary as flat arrays sorted by code; opens its file, past its cache."""
    from biotite.structure.io.pdbx import BinaryCIFFile

    spec = importlib.util.find_spec("biotite.structure.info")
    if spec is None or spec.origin is None:
        raise ValueError(
            "biotite is not installed; install foldwright[prepare] to read the component dictionary"
        )
    block = BinaryCIFFile.read(Path(spec.origin).parent / "components.bcif").block
    component, atom, bond = block["chem_comp"], block["chem_comp_atom"], block["chem_comp_bond"]
    codes = component["id"].as_array(np.str_)
    order = np.argsort(codes.astype("S"), kind="stable")
    codes = codes[order].astype("S")
    tables: dict[str, NDArray[Any]] = {"code": codes}
    tables["type"] = np.char.upper(component["type"].as_array(np.str_)[order]).astype("S")
    tables["modified"] = _known(component["pdbx_modified_date"].as_array(np.str_)[order])
    parents = np.char.replace(component["mon_nstd_parent_comp_id"].as_array(np.str_)[order], "?", "")
    letters = component["one_letter_code"].as_array(np.str_)[order]
    kinds = tables["type"].astype(np.str_)
    rows = zip(parents, letters, kinds, strict=True)
    tables["parent"] = np.array([parent_residue(*map(str, row)) for row in rows], dtype="S3")
    return tables | _atom_and_bond_tables(codes, atom, bond)


def _known(values: NDArray[np.str_]) -> NDArray[np.bytes_]:
    return np.where((values == "?") | (values == "."), "", values).astype("S")


def _atom_and_bond_tables(codes: NDArray[np.bytes_], atom: Any, bond: Any) -> dict[str, NDArray[Any]]:
    owner = np.searchsorted(codes, atom["comp_id"].as_array(np.str_).astype("S"))
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    names = atom["atom_id"].as_array(np.str_)[order].astype("S4")
    start = np.searchsorted(owner, np.arange(len(codes) + 1))
    symbols, inverse = np.unique(atom["type_symbol"].as_array(np.str_)[order], return_inverse=True)
    numbers = np.array([ATOMIC_NUMBER.get(str(symbol).upper(), 0) for symbol in symbols], np.uint8)
    tables: dict[str, NDArray[Any]] = {
        "atom_start": start.astype(np.int32),
        "atom_name": names,
        "atom_old_name": atom["alt_atom_id"].as_array(np.str_)[order].astype("S4"),
        "atom_element": numbers[inverse],
        "atom_charge": atom["charge"].as_array(np.int8)[order],
        "atom_leaving": atom["pdbx_leaving_atom_flag"].as_array(np.str_)[order] == "Y",
        "ideal": _xyz(atom, "pdbx_model_Cartn_{}_ideal")[order],
        "model": _xyz(atom, "model_Cartn_{}")[order],
    }
    bond_owner = np.searchsorted(codes, bond["comp_id"].as_array(np.str_).astype("S"))
    bond_order = np.argsort(bond_owner, kind="stable")
    bond_owner = bond_owner[bond_order]
    ends = [_atom_index(owner, names, bond_owner, bond[tag].as_array(np.str_)[bond_order].astype("S4"))
            - start[bond_owner] for tag in ("atom_id_1", "atom_id_2")]  # fmt: skip
    orders = bond["value_order"].as_array(np.str_)[bond_order]
    return tables | {
        "bond_start": np.searchsorted(bond_owner, np.arange(len(codes) + 1)).astype(np.int32),
        "bonds": np.stack(ends, axis=1).astype(np.uint16),
        "bond_order": (1 + (orders == "DOUB") + 2 * (orders == "TRIP")).astype(np.uint8),
        "bond_aromatic": bond["pdbx_aromatic_flag"].as_array(np.str_)[bond_order] == "Y",
    }


def _xyz(atom: Any, pattern: str) -> Floats:
    columns = []
    for axis in "xyz":
        column = atom[pattern.format(axis)]
        values = column.as_array(np.float32)
        if column.mask is not None:
            values = np.where(column.mask.array == 0, values, np.nan)
        columns.append(values)
    return np.stack(columns, axis=1).astype(np.float32)


def _atom_index(
    owner: NDArray[np.int64], names: NDArray[np.bytes_],
    bond_owner: NDArray[np.int64], bond_names: NDArray[np.bytes_],
) -> NDArray[np.int64]:  # fmt: skip
    """Row of each bond's atom in the atom table: a join on (component, atom name)."""

    def join_key(component: NDArray[np.int64], name: NDArray[np.bytes_]) -> NDArray[np.int64]:
        return component * 2**32 + np.ascontiguousarray(name).view(np.uint32).astype(np.int64)

    keys = join_key(owner, names)
    order = np.argsort(keys)
    wanted = join_key(bond_owner, bond_names)
    rows = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    if (keys[rows] != wanted).any():
        raise ValueError(
            "the component dictionary has bonds between atoms it does not list; reinstall biotite"
        )
    return rows


def _write_tables(tables: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Write the tables beside `folder` and rename: a reader sees all of them or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".ccd-", dir=folder.parent))
    for name, table in tables.items():
        np.save(temporary / f"{name}.npy", table, allow_pickle=False)
    try:
        os.rename(temporary, folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)
        if not folder.is_dir():
            raise


def _map_tables(folder: Path) -> dict[str, NDArray[Any]]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise ValueError(f"{folder} holds no dictionary tables; delete the folder and it is made anew")
    tables = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
    small = ("code", "type", "parent", "modified", "atom_start", "bond_start")
    return {name: np.array(table) if name in small else table for name, table in tables.items()}
