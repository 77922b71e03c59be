# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from foldwright.data.store import Store
from foldwright.data.weights import (
    Item,
    WeightConfig,
    chain_clusters,
    contacts,
    item_table,
    item_weights,
    make_items,
)


def test_contacts_are_the_chain_pairs_closer_than_five_angstroms():
    rng = np.random.default_rng(0)
    coords = (rng.random((600, 3)) * 60).astype(np.float32)
    chain = rng.integers(0, 25, 600).astype(np.int32)
    near = cdist(coords, coords) < 5.0
    expected = {(int(chain[i]), int(chain[j])) for i, j in np.argwhere(near) if chain[i] < chain[j]}
    assert contacts(coords, chain) == sorted(expected)
    assert contacts(coords[:0], chain[:0]) == []


def test_items_of_a_dimer_with_a_ligand_and_a_far_ion(store_path):
    structure = Store(store_path).entry("dimr").structure
    items = make_items(structure)
    chain = structure.residue_chain[structure.atom_residue]
    groups = {c: structure.atom_coords[(chain == c) & structure.atom_resolved] for c in range(4)}
    touching = [(a, b) for a in range(4) for b in range(a + 1, 4) if cdist(groups[a], groups[b]).min() < 5]
    assert (0, 1) in touching
    assert [(item.chain_1, item.chain_2) for item in items] == [(c, -1) for c in range(4)] + touching
    kinds = {(i.chain_1, i.chain_2): (i.n_protein, i.n_nucleic, i.n_ligand) for i in items}
    assert kinds[0, -1] == (1, 0, 0)
    assert kinds[0, 1] == (2, 0, 0)
    assert kinds[3, -1] == (0, 0, 1)
    clusters = chain_clusters(structure)
    assert clusters[0] == clusters[1]
    assert clusters[2:] == ["LIGAND:BEN", "LIGAND:ZN"]


def test_weights_by_hand():
    """Equation 1 on four items: 0.5/2 * 3, 0.5/2 * 3, 1/1 * (3 + 3), 1/1 * (3 + 1)."""
    items = [
        Item("a", 0, -1, 1, 0, 0, "p"),
        Item("b", 0, -1, 1, 0, 0, "p"),
        Item("a", 0, 1, 1, 1, 0, "p|n"),
        Item("a", 0, 2, 1, 0, 1, "l|p"),
    ]
    table = item_table(items)
    assert table["cluster_size"].to_pylist() == [2, 2, 1, 1]
    np.testing.assert_allclose(item_weights(table, WeightConfig()), [0.75, 0.75, 6.0, 4.0])
    np.testing.assert_allclose(
        item_weights(table, WeightConfig(chain=1, interface=0, protein=1)), [0.5, 0.5, 0, 0]
    )


def test_the_stores_items_have_the_sizes_of_their_clusters(store_path):
    table = Store(store_path).items().to_pylist()
    sizes = Counter(row["cluster_100"] for row in table)
    assert all(row["cluster_size"] == sizes[row["cluster_100"]] for row in table)
    pair = next(row for row in table if row["chain_2"] == 1 and row["entry"] == "dimr")
    assert pair["cluster_100"].count("PROTEIN") == 2
    assert item_weights(Store(store_path).items(), WeightConfig()) == pytest.approx(
        [
            (0.5 if row["chain_2"] < 0 else 1) / row["cluster_size"]
            * (3 * (row["n_protein"] + row["n_nucleic"]) + row["n_ligand"])
            for row in table
        ]
    )  # fmt: skip
