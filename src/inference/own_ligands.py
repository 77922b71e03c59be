# SPDX-License-Identifier: Apache-2.0
"""Ligands that only their prediction's file describes, as components of one store.

A ligand given as SMILES or SDF has a code that means something in its own input alone (`LIG_L`). Of all
predictions together it needs one that says what it is: a digest of atoms, bonds and ideal positions. So equal
ligands of several predictions, and those of a later run, are one component.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np

from foldwright.data.ccd import Definition, Dictionary, described_components
from foldwright.data.write_mmcif import write_chemistry


def own_ligands(path: Path, dictionary: Dictionary) -> dict[str, Definition]:
    """Components that a prediction's file describes and the dictionary lacks, by their code in it."""
    return {code: found for code, found in described_components(path).items() if code not in dictionary}


def code_of(definition: Definition) -> str:
    """A code for what a component is, whatever it is called: `OWN_` and ten digits of a digest."""
    state = hashlib.sha256()
    state.update(" ".join(definition.atom_name.tolist()).encode())
    for values in (definition.atom_element, definition.atom_charge, definition.bonds, definition.bond_order):
        state.update(values.astype("<i8").tobytes())
    state.update(np.round(definition.ideal, 2).tobytes())
    return f"OWN_{state.hexdigest()[:10].upper()}"


def copy_renamed(source: Path, target: Path, codes: Mapping[str, str]) -> None:
    """Copy an mmCIF file with other component codes, wherever it names a component."""
    document = gemmi.cif.read(str(source))
    for block in document:
        for name in block.get_mmcif_category_names():
            table = block.find_mmcif_category(name)
            for number, tag in enumerate(table.tags):
                if not _names_component(tag):
                    continue
                for row in table:
                    row[number] = codes.get(gemmi.cif.as_string(row[number]), row[number])
    document.write_file(str(target))


def _names_component(tag: str) -> bool:
    item = tag.rpartition(".")[2]
    return tag == "_chem_comp.id" or item.endswith(("comp_id", "mon_id"))


def write_components(definitions: Mapping[str, Definition], path: Path) -> None:
    """A components.cif of the definitions under the given codes."""
    document = gemmi.cif.Document()
    for code, definition in sorted(definitions.items()):
        block = document.add_new_block(code)
        block.set_pair("_chem_comp.id", code)
        block.set_pair("_chem_comp.type", gemmi.cif.quote(definition.type))
        write_chemistry(block, [replace(definition, code=code)])
    document.write_file(str(path))
