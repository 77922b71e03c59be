# SPDX-License-Identifier: Apache-2.0
"""The units of sampling, chains and interfaces, and their weights (AF3 SI 2.5.1, equation 1; spec 2.4).

    w  is proportional to  beta / N_clust * (alpha_prot n_prot + alpha_nuc n_nuc + alpha_lig n_lig)

An interface is a pair of chains with heavy atoms closer than 5 Å. A polymer's cluster is its sequence (at
100 %, modified residues as their parents) and a ligand's its component codes; the column is named for that.
`clusters` adds those at 40 % identity, whose sizes take the place of these. N_clust counts the items of a
cluster in the whole store, an interface's cluster being the unordered pair of its chains'.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foldwright.data.neighbours import pairs_within
from foldwright.data.structure import Floats, Ints, Structure
from foldwright.vocabulary import ONE_LETTER, RESTYPES, MoleculeType

CONTACT_DISTANCE = 5.0  # Å, AF3 SI 2.5.1
NO_CHAIN = -1


@dataclass
class WeightConfig:
    """The constants of equation 1, AF3's values."""

    chain: float = 0.5  # beta
    interface: float = 1.0  # beta
    protein: float = 3.0  # alpha
    nucleic: float = 3.0  # alpha
    ligand: float = 1.0  # alpha


@dataclass(frozen=True)
class Item:
    """One chain, or an interface of two (`chain_2` is -1 for a chain), and its weight's ingredients."""

    entry: str
    chain_1: int
    chain_2: int
    n_protein: int
    n_nucleic: int
    n_ligand: int
    cluster_100: str


ITEM_SCHEMA = pa.schema(
    [
        ("entry", pa.string()),
        ("chain_1", pa.int32()),
        ("chain_2", pa.int32()),
        ("n_protein", pa.int8()),
        ("n_nucleic", pa.int8()),
        ("n_ligand", pa.int8()),
        ("cluster_100", pa.string()),
        ("cluster_size", pa.int32()),
    ]
)


def chain_clusters(structure: Structure) -> list[str]:
    """Cluster of each chain at 100 % identity: type and a digest of its sequence, or a ligand's codes."""
    clusters = []
    for chain, kind in enumerate(structure.chain_type):
        if kind == MoleculeType.LIGAND:
            clusters.append("LIGAND:" + "-".join(structure.sequence(chain)))
            continue
        restypes = structure.residue_restype[structure.residue_chain == chain]
        sequence = "".join(ONE_LETTER[RESTYPES[restype]] for restype in restypes)
        clusters.append(f"{MoleculeType(kind).name}:{hashlib.sha256(sequence.encode()).hexdigest()[:16]}")
    return clusters


def make_items(structure: Structure) -> list[Item]:
    """Every chain with a resolved atom and every interface of a structure."""
    clusters = chain_clusters(structure)
    chain_of_atom = structure.residue_chain[structure.atom_residue]
    resolved = structure.atom_resolved
    groups: list[tuple[int, ...]] = [(int(chain),) for chain in np.unique(chain_of_atom[resolved])]
    groups += contacts(structure.atom_coords[resolved], chain_of_atom[resolved])
    items = []
    for group in groups:
        kinds = Counter(int(structure.chain_type[chain]) for chain in group)
        items.append(
            Item(
                entry=structure.entry_id,
                chain_1=group[0],
                chain_2=group[1] if len(group) > 1 else NO_CHAIN,
                n_protein=kinds[MoleculeType.PROTEIN],
                n_nucleic=kinds[MoleculeType.RNA] + kinds[MoleculeType.DNA],
                n_ligand=kinds[MoleculeType.LIGAND],
                cluster_100="|".join(sorted(clusters[chain] for chain in group)),
            )
        )
    return items


def contacts(coords: Floats, chain: Ints) -> list[tuple[int, int]]:
    """Sorted pairs of chains with atoms closer than 5 Å. coords [L, 3], chain [L]."""
    first, second, _ = pairs_within(coords, coords, CONTACT_DISTANCE)
    ordered = chain[first] < chain[second]
    pairs = np.unique(np.stack([chain[first[ordered]], chain[second[ordered]]], axis=1), axis=0)
    return [(int(a), int(b)) for a, b in pairs]


def item_table(items: Sequence[Item]) -> pa.Table:
    """The items as a Parquet table, each with the number of items in its cluster."""
    sizes = Counter(item.cluster_100 for item in items)
    rows = [asdict(item) | {"cluster_size": sizes[item.cluster_100]} for item in items]
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def item_weights(items: pa.Table, config: WeightConfig) -> NDArray[np.float64]:
    """[n] weights of equation 1, not normalised."""
    column = {
        name: items[name].to_numpy() for name in ITEM_SCHEMA.names if name not in ("entry", "cluster_100")
    }
    beta = np.where(column["chain_2"] == NO_CHAIN, config.chain, config.interface)
    alpha = (
        config.protein * column["n_protein"]
        + config.nucleic * column["n_nucleic"]
        + config.ligand * column["n_ligand"]
    )
    return beta / column["cluster_size"] * alpha
