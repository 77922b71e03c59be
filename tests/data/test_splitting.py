# SPDX-License-Identifier: Apache-2.0
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foldwright.data.clusters import clustered_items
from foldwright.data.prepare import main as prepare
from foldwright.data.splits import require_disjoint
from foldwright.data.splitting import SplitConfig, main, make_split, split_store
from foldwright.data.store import Store
from foldwright.data.tables import read_table
from foldwright.vocabulary import RESTYPES

LETTERS = {letter: [str(c) for c in np.random.default_rng(i).choice(RESTYPES[:20], 18)]
           for i, letter in enumerate("PQRS")}  # fmt: skip
PEPTIDE = ["ALA", "SER", "VAL", "LEU", "GLY", "ALA"]
# entry: release date, chains (a letter a protein, p a peptide, B benzamidine, Z zinc)
ENTRIES = {
    "old1": ("2020-01-01", "PQ"), "old2": ("2021-09-29", "RB"), "old3": ("2010-01-01", "S"),
    "undated": ("", "PR"),
    "val1": ("2021-09-30", "PQ"),  # as old1: out
    "val2": ("2021-10-01", "PR"),  # P and R are known, but not together: in
    "val3": ("2022-04-30", "PP"),  # one P in old1, not two: in
    "val4": ("2022-01-01", "S"),   # a known monomer: out
    "val5": ("2022-01-01", "RB"),  # protein and ligand as in old2: out
    "val6": ("2022-02-01", "PB"),  # the ligand with another protein: in
    "val7": ("2022-02-01", "PR"),  # the same cluster of interfaces as val2: one of them
    "test1": ("2022-05-01", "QR"), "test2": ("2023-01-12", "Pp"), "late": ("2023-01-13", "QR"),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory, writer_of):
    """Entries of every case; chains of one letter are a cluster, given here instead of by MMseqs2."""
    folder = tmp_path_factory.mktemp("split")
    for entry, (_, chains) in ENTRIES.items():
        writer = writer_of["new"](entry)
        for i, letter in enumerate(chains):
            if letter == "B":
                writer.ligand("ABC"[i], "BEN", (12.0, 4.0, 0.0))
            else:
                writer.protein("ABC"[i], PEPTIDE if letter == "p" else LETTERS[letter], 4.5 * i)
        writer.write(folder / "mmcif")
    arguments = ["--structures", folder / "mmcif", "--out", folder / "store", "--workers", 1]
    assert prepare([*map(str, arguments), "--n-conformers", "1"]) == 0
    manifest = read_table(folder / "store" / "manifest.parquet")
    rows = manifest.to_pylist()
    for row in rows:
        row["release_date"] = ENTRIES[row["entry"]][0]
        row["chain_clusters"] = ["LIGAND:BEN" if c == "B" else c for c in ENTRIES[row["entry"]][1]]
    schema = manifest.schema.append(pa.field("chain_clusters", pa.list_(pa.string())))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "store" / "manifest.parquet")
    items = read_table(folder / "store" / "items.parquet")
    clusters = {row["entry"]: row["chain_clusters"] for row in rows}
    pq.write_table(clustered_items(items, clusters), folder / "store" / "items.parquet")
    return Store(folder / "store")


def sets_of(split: pa.Table) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for row in split.to_pylist():
        found[row["split"]].add(row["entry"])
    return found


def test_dates_and_homology_decide(store):
    split = make_split(store, SplitConfig())
    require_disjoint(split)
    found = sets_of(split)
    assert found["train"] == {"old1", "old2", "old3"}
    assert found["validation"] in ({"val2", "val3", "val6"}, {"val7", "val3", "val6"})
    assert found["test"] == {"test1"}  # test2's partner is a peptide
    validation = [row for row in split.to_pylist() if row["split"] == "validation"]
    assert Counter(row["cluster"] for row in validation) == {"P|R": 1, "P|P": 1, "LIGAND:BEN|P": 1}
    assert sum(row["split"] == "train" and row["entry"] == "old1" for row in split.to_pylist()) == 3


def test_thresholds_are_options(store):
    def entries(**changes):
        return sets_of(make_split(store, SplitConfig(**changes)))

    assert "test2" in entries(test_min_residues=6)["test"]
    assert entries(max_resolution=1.5)["validation"] == set()
    assert entries(validation_max_tokens=20)["validation"] == set()
    assert entries(validation_until="2021-10-01")["validation"] == {"val2"}
    assert entries(train_before="2020-06-01")["validation"] >= {"val5"}  # old2 is not in training
    assert "late" in entries(test_until="2023-01-13")["test"]
    sizes = {"PROTEIN-PROTEIN": 1, "LIGAND-PROTEIN": 0}
    assert len(entries(validation_sizes=sizes)["validation"]) == 1


def test_the_draw_depends_on_the_seed_alone(store):
    first = make_split(store, SplitConfig(seed=1))
    assert first == make_split(store, SplitConfig(seed=1))
    assert (
        len({frozenset(sets_of(make_split(store, SplitConfig(seed=s)))["validation"]) for s in range(8)}) == 2
    )


def test_alike_ligands_count_as_known(store, tmp_path):
    """With a threshold below zero every ligand is like every other, so that any protein's ligand is known."""
    split = make_split(store, SplitConfig(max_ligand_similarity=-1.0))
    assert "val6" in sets_of(split)["validation"]  # P with a ligand: no training entry has both
    clusters = {r["entry"]: list(r["chain_clusters"]) for r in store.manifest().to_pylist()}
    assert clusters["val5"] == ["R", "LIGAND:BEN"]


def test_command_writes_the_split(store, capsys):
    assert main([str(store.path), "--name", "mine", "--max-resolution", "4.0"]) == 0
    shown = capsys.readouterr().out
    assert "validation" in shown
    table = pq.read_table(store.path / "split_mine.parquet")
    assert json.loads(table.schema.metadata[b"settings"])["max_resolution"] == 4.0
    assert sets_of(table) == sets_of(split_store(store.path, "again", SplitConfig(max_resolution=4.0)))
    assert main([str(store.path), "--name", "../x"]) == 1
    assert "letters, digits" in capsys.readouterr().err


def test_a_store_without_clusters_is_an_error(store_path):
    with pytest.raises(ValueError, match=r"run `cluster_data.py"):
        split_store(store_path, "af3", SplitConfig())
