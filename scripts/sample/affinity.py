#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the built-in affinity sample from the built-in structures and affinity.tsv (docs/sample.md).

    python scripts/sample/affinity.py OUT

Targets are the protein chains of 1gbt (trypsin) and 4cup (BAZ2B) as the sample's store has them; ligands come
from the component dictionary and have no pose.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from foldwright.data.affinity_complexes import Complex, with_ligand, write_store
from foldwright.data.affinity_formats import read_records
from foldwright.data.ccd import Dictionary
from foldwright.data.conformers import make_component
from foldwright.data.prepare_affinity import prepare_affinity
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains

MEASURED = Path(__file__).parent / "affinity.tsv"
TARGETS = {"trypsin": "1gbt", "BAZ2B": "4cup"}


def complexes(store: Store, dictionary: Dictionary) -> Iterator[Complex]:
    """One complex a measurement."""
    for record in read_records(MEASURED):
        structure = store.entry(TARGETS[record.target]).structure
        protein = keep_chains(structure, structure.chain_name == "A")
        component = make_component(record.ligand, dictionary, n_conformers=1)
        yield with_ligand(protein, component, f"{record.target}:{record.ligand}")


def main(out: Path) -> None:
    store, dictionary = Store(store_path()), Dictionary.open()
    rows = write_store(out, complexes(store, dictionary), store.components)
    known = {tuple(str(row["entry"]).split(":")): f"{row['entry']}/LIG" for row in rows}
    report = prepare_affinity([MEASURED], out, dictionary, known=known)
    (out / "affinity_report.json").unlink()
    assert report.kept == report.with_complex == len(rows), report


if __name__ == "__main__":
    main(Path(sys.argv[1]))
