# SPDX-License-Identifier: Apache-2.0
import itertools
import shutil
from collections import Counter

import numpy as np
import pytest
from handmade import CORPUS

from foldwright.data import clusters as module
from foldwright.data.clusters import ClusterConfig, cluster_sequences, cluster_store, clustered_items, main
from foldwright.data.prepare import main as prepare
from foldwright.data.store import Store
from foldwright.data.weights import Item, WeightConfig, item_table, item_weights
from foldwright.vocabulary import ONE_LETTER, RESTYPES

needs_mmseqs = pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="needs the mmseqs program (apt-get install mmseqs2)"
)
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    letters = np.array(list(sequence))
    places = rng.choice(len(letters), int(share * len(letters)), replace=False)
    letters[places] = rng.choice(list(AMINO_ACIDS), len(places))
    return "".join(letters)


@needs_mmseqs
def test_families_of_mutants_are_clusters_of_their_own():
    """Four random ancestors, mutated at 30 % (70 % or more identical); ancestors share about 5 %."""
    rng = np.random.default_rng(0)
    sequences = {}
    for family in "abcd":
        ancestor = "".join(rng.choice(list(AMINO_ACIDS), 150))
        sequences |= {f"{family}{i}": mutated(ancestor, 0.3, rng) for i in range(5)}
    found = cluster_sequences(sequences, ClusterConfig())
    assert found == {name: name[0] + "0" for name in sequences}


@needs_mmseqs
def test_the_identity_is_an_option():
    """The mutants are far apart at 95 % identity."""
    rng = np.random.default_rng(0)
    ancestor = "".join(rng.choice(list(AMINO_ACIDS), 150))
    sequences = {f"{i}": mutated(ancestor, 0.3, rng) for i in range(5)}
    assert len(set(cluster_sequences(sequences, ClusterConfig(identity=0.95)).values())) == 5


@needs_mmseqs
def test_twins_share_a_cluster_and_odd_sequences_have_their_own():
    rng = np.random.default_rng(1)
    sequences = {f"s{i}": "".join(rng.choice(list(AMINO_ACIDS), 60)) for i in range(4)}
    sequences |= {"twin": sequences["s0"], "unknown": "X" * 40, "short": "ACDEFGHIKL"}
    found = cluster_sequences(sequences, ClusterConfig())
    assert found["twin"] == found["s0"] == "s0"
    assert found["unknown"] == "unknown"
    assert set(found) == set(sequences)


def test_without_the_program_the_error_says_how_to_install_it(monkeypatch, store_path, capsys):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert main([str(store_path)]) == 1
    assert "apt-get install mmseqs2" in capsys.readouterr().err
    assert "cluster" not in Store(store_path).items().column_names


def test_sizes_and_weights_follow_the_clusters():
    """Two proteins that differ at 100 % but share a cluster: each one's chain and interface weights halve."""
    items = item_table([
        Item("a", 0, -1, 1, 0, 0, "p"), Item("b", 0, -1, 1, 0, 0, "q"), Item("b", 1, -1, 0, 0, 1, "l"),
        Item("a", 0, 1, 2, 0, 0, "p|q"), Item("b", 0, 1, 1, 0, 1, "l|q"),
    ])  # fmt: skip
    before = item_weights(items, WeightConfig())
    clustered = clustered_items(items, {"a": ["P", "P"], "b": ["P", "L"]})
    assert clustered["cluster"].to_pylist() == ["P", "P", "L", "P|P", "L|P"]
    assert clustered["cluster_size"].to_pylist() == [2, 2, 1, 1, 1]
    after = item_weights(clustered, WeightConfig())
    np.testing.assert_allclose(after / before, [0.5, 0.5, 1, 1, 1])
    again = clustered_items(clustered, {"a": ["P", "Q"], "b": ["P", "L"]})
    assert again.column_names == clustered.column_names
    assert again["cluster"].to_pylist()[3] == "P|Q"


@pytest.fixture
def family_store(tmp_path, writer_of):
    """A protein of 40 residues, a near copy, an unrelated one; a peptide and its mutant."""
    codes = [code for code in RESTYPES[:20]]
    rng = np.random.default_rng(2)
    base = [str(code) for code in rng.choice(codes, 40)]
    near = [*base[:19], "TRP" if base[19] != "TRP" else "ALA", *base[20:]]
    far = [str(code) for code in rng.choice(codes, 40)]
    peptide, mutant = ["ALA", "SER", "VAL", "LEU", "SEP"], ["ALA", "SER", "VAL", "LEU", "THR"]
    for name, sequence, small in (("one", base, peptide), ("two", near, mutant), ("odd", far, peptide)):
        writer = writer_of["new"](name)
        writer.protein("A", sequence, 0.0).protein("B", small, 6.0).ligand("C", "ZN", (10.0, -3.0, 0.0))
        writer.write(tmp_path / "mmcif")
    arguments = ["--structures", tmp_path / "mmcif", "--out", tmp_path / "store", "--workers", 1]
    assert prepare([str(argument) for argument in arguments]) == 0
    return tmp_path / "store"


@needs_mmseqs
def test_a_stores_tables_gain_clusters(family_store, capsys):
    assert main([str(family_store), "--threads", "1"]) == 0
    assert "clusters" in capsys.readouterr().out
    store = Store(family_store)
    rows = {row["entry"]: row for row in store.manifest().to_pylist()}
    one, two, odd = (rows[name]["chain_clusters"] for name in ("one", "two", "odd"))
    assert rows["one"]["chain_clusters_100"][0] != rows["two"]["chain_clusters_100"][0]
    assert one[0] == two[0] != odd[0]
    assert one[1] == odd[1] != two[1]  # peptides at 100 %, SEP being SER
    assert one[2] == two[2] == odd[2] == "LIGAND:ZN"
    items = store.items().to_pylist()
    counts = Counter(item["cluster"] for item in items)
    assert all(item["cluster_size"] == counts[item["cluster"]] for item in items)
    assert next(i for i in items if i["entry"] == "one" and i["chain_2"] == -1)["cluster_size"] == 2
    before = store.manifest(), store.items()
    cluster_store(family_store, ClusterConfig())
    assert (Store(family_store).manifest(), Store(family_store).items()) == before
    assert not list(family_store.glob("*.new"))


@needs_mmseqs
@pytest.mark.corpus
@pytest.mark.thorough
@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs ../shared/data")
def test_pairs_agree_with_another_clustering_of_the_archive():
    """The corpus' own clusters, of another algorithm: pairs of like length that are joined."""
    sequences, kept = {}, False
    for line in (CORPUS / "clusters" / "entities.fasta").read_text().splitlines():
        if line.startswith(">"):
            name, kept = line[1:].split()[0], "polypeptide(L)" in line
        elif kept:
            sequences[name] = sequences.get(name, "") + line
    letters = set(ONE_LETTER.values())
    sequences = {n: s for n, s in sequences.items() if len(s) >= 20 and set(s) <= letters}
    mine = cluster_sequences(sequences, ClusterConfig(threads=2))
    theirs = {}
    for number, line in enumerate(
        (CORPUS / "clusters" / "clusters-by-entity-40.txt").read_text().splitlines()
    ):
        theirs |= dict.fromkeys(line.split(), number)
    shared = sorted(set(theirs) & set(mine))
    pairs = [
        (a, b)
        for a, b in itertools.combinations(shared, 2)
        if 0.9 < len(sequences[a]) / len(sequences[b]) < 1 / 0.9  # theirs asks for no coverage
    ]
    joined = [(mine[a] == mine[b], theirs[a] == theirs[b]) for a, b in pairs]
    both = sum(a and b for a, b in joined)
    only_mine, only_theirs = sum(a and not b for a, b in joined), sum(b and not a for a, b in joined)
    print(f"{len(shared)} proteins, pairs joined by both {both}, mine {only_mine}, theirs {only_theirs}")
    assert len(shared) > 300
    assert only_mine < 0.03 * both
    assert only_theirs < 0.2 * both  # antibody domains of about 40 % identity
