# SPDX-License-Identifier: Apache-2.0
"""Which entries of a store are held out for validation, and which are left to train on.

Held out are clusters of polymer chains, not entries: an entry with any held-out cluster is never trained on,
and one is scored only if all its polymers belong to held-out clusters. So no chain of a scored entry was seen
in training, in that entry or another (as well as the store's clusters can tell). Clusters of different stores
cannot be compared, sequences can: data sets of other stores leave out the entries with a held-out sequence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import pyarrow as pa

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.splits import TEST, TRAIN, VALIDATION, split_entries
from foldwright.data.store import Store
from foldwright.diffusion.sampler import SamplerConfig

_CLUSTERS = "chain_clusters"  # of cluster_data.py; before it has run, those of equal sequences alone
_EXACT_CLUSTERS = "chain_clusters_100"
_LIGAND = "LIGAND:"


@dataclass
class ValidationConfig:
    """Entries named, the validation set of a `split` of the first data set's store, or entries of a
    `fraction` of the clusters, the first of these that is given; sampled by the average every so many steps.

    With a split, training draws from its training set, and other stores leave out the sequences that it
    evaluates, those alike included.

    Entries above `max_tokens` or `max_atoms` are not scored, nor more than `max_entries`; with sizes at most
    those of the crops, validation fits wherever a training step does. Nothing is held out by default.
    """

    entries: list[str] = field(default_factory=list)
    split: str = ""
    fraction: float = 0.0
    every_steps: int = 2000
    max_tokens: int = 384
    max_atoms: int = 3456
    max_entries: int = 64
    n_samples: int = 2
    cycles: int = 4
    msa_rows: int = 1024
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=50))


@dataclass(frozen=True)
class HeldOut:
    """`scored`: entries to validate on. `trained_on`: all of the store that may be drawn, by whichever data
    set, or None if nothing is held out.

    `excluded` counts entries that are held back, scored or not; `too_large` those too large to score.
    `sequences` are the exact clusters of all polymers of held-out clusters.
    """

    scored: tuple[str, ...] = ()
    trained_on: tuple[str, ...] | None = None
    excluded: int = 0
    too_large: int = 0
    sequences: frozenset[str] = field(default=frozenset(), compare=False)


def hold_out(
    store: Store, config: ValidationConfig, wanted: list[str], allow_overlap: bool = False
) -> HeldOut:
    """Split a store. `wanted`: the entries that its data set draws from; all if empty.

    Raises ValueError for a named entry that the store lacks or that is over the size cap, for a split that is
    not there or, unless allowed, overlaps, for a fraction outside [0, 1), and where nothing would be left to
    train on.
    """
    if config.split and not config.entries:
        return _by_split(store, config, wanted, allow_overlap)
    if not 0.0 <= config.fraction < 1.0:
        raise ValueError(f"validation.fraction: got {config.fraction}, expected 0 <= fraction < 1")
    if not config.entries and not config.fraction:
        return HeldOut()
    manifest = store.manifest()
    clusters = entry_clusters(manifest)
    held = _held_clusters(clusters, config, store)
    fits = _fitting(manifest, config)
    if unfit := [entry for entry in config.entries if not fits[entry]]:
        raise ValueError(
            f"validation.entries: got {unfit[0]}, which has more than validation.max_tokens="
            f"{config.max_tokens} tokens or max_atoms={config.max_atoms} atoms; raise them or leave it out"
        )
    pure = sorted(entry for entry, own in clusters.items() if own and own <= held)
    candidates = config.entries or sorted((entry for entry in pure if fits[entry]), key=_position)
    kept_back = {entry for entry, own in clusters.items() if own & held} | set(config.entries)
    left = tuple(entry for entry in _drawn(store) if entry not in kept_back)
    _require(left, wanted, len(kept_back))
    too_large = 0 if config.entries else sum(not fits[entry] for entry in pure)
    scored = tuple(candidates[: config.max_entries])
    return HeldOut(scored, left, len(kept_back), too_large, _sequences(manifest, held))


def _by_split(store: Store, config: ValidationConfig, wanted: list[str], allow_overlap: bool) -> HeldOut:
    """What the split's own rule found unlike anything that it trains on (`data.splitting`)."""
    sets = split_entries(store, config.split, allow_overlap, "validation.split")
    manifest = store.manifest()
    clusters, fits = entry_clusters(manifest), _fitting(manifest, config)
    evaluated = [entry for part in (VALIDATION, TEST) for entry in sets[part] if entry in clusters]
    trained = frozenset(sets[TRAIN])
    left = tuple(entry for entry in _drawn(store) if entry in trained)
    _require(left, wanted, len(clusters) - len(trained))
    scored = sorted((entry for entry in sets[VALIDATION] if fits[entry]), key=_position)
    held = frozenset[str]().union(*(clusters[entry] for entry in evaluated))
    return HeldOut(
        tuple(scored[: config.max_entries]), left, len(clusters) - len(trained),
        len(sets[VALIDATION]) - len(scored), _sequences(manifest, held),
    )  # fmt: skip


def _drawn(store: Store) -> list[str]:
    return sorted(set(store.items()["entry"].to_pylist()))


def _require(left: tuple[str, ...], wanted: list[str], n_kept_back: int) -> None:
    if not left or (wanted and not set(wanted) & set(left)):
        raise ValueError(
            f"validation: got {n_kept_back} entries held out, which leaves none to train on; name others "
            "in validation.entries, lower validation.fraction, or add to data.datasets.NAME.entries"
        )


def leave_out(config: DataConfig, held_out: HeldOut, dataset: StoreDataset) -> DataConfig:
    """The data sets without what is held out of the first one's store; ValueError if one has nothing left."""
    if held_out.trained_on is None:
        return config
    left = {dataset.store.path: frozenset(held_out.trained_on)}
    datasets = {}
    for name, part in dataset.parts.items():
        if part.store.path not in left:
            left[part.store.path] = _without_sequences(part.store, held_out.sequences)
        wanted = part.config.entries or sorted(left[part.store.path])
        entries = [entry for entry in wanted if entry in left[part.store.path]]
        if not entries:
            raise ValueError(
                f"validation: nothing is left to draw for data.datasets.{name}; lower validation.fraction, "
                f"name others in validation.entries, or drop the set with ~data.datasets.{name}"
            )
        datasets[name] = replace(part.config, entries=entries)
    return replace(config, datasets=datasets)


def _sequences(manifest: pa.Table, held: frozenset[str]) -> frozenset[str]:
    """Exact clusters of the polymers that belong to held-out clusters."""
    column = _CLUSTERS if _CLUSTERS in manifest.column_names else _EXACT_CLUSTERS
    pairs = zip(manifest[column].to_pylist(), manifest[_EXACT_CLUSTERS].to_pylist(), strict=True)
    return frozenset(
        exact for own, of_chain in pairs for name, exact in zip(own, of_chain, strict=True) if name in held
    )


def _without_sequences(store: Store, sequences: frozenset[str]) -> frozenset[str]:
    manifest = store.manifest()
    rows = zip(manifest["entry"].to_pylist(), manifest[_EXACT_CLUSTERS].to_pylist(), strict=True)
    return frozenset(entry for entry, own in rows if sequences.isdisjoint(own))


def entry_clusters(manifest: pa.Table) -> dict[str, frozenset[str]]:
    """Clusters of every entry's polymer chains: by homology where the store has them, else by sequence."""
    column = _CLUSTERS if _CLUSTERS in manifest.column_names else _EXACT_CLUSTERS
    rows = zip(manifest["entry"].to_pylist(), manifest[column].to_pylist(), strict=True)
    return {entry: frozenset(c for c in own if not c.startswith(_LIGAND)) for entry, own in rows}


def _held_clusters(
    clusters: dict[str, frozenset[str]], config: ValidationConfig, store: Store
) -> frozenset[str]:
    if missing := [entry for entry in config.entries if entry not in clusters]:
        raise ValueError(
            f"validation.entries: got {missing[0]!r}, which is not in the store {store.path}; "
            "its manifest.parquet lists what is"
        )
    if config.entries:
        return frozenset().union(*(clusters[entry] for entry in config.entries))
    everything = frozenset().union(*clusters.values())
    return frozenset(cluster for cluster in everything if _position(cluster) < config.fraction)


def _position(name: str) -> float:
    """A fixed point in [0, 1) of a cluster or entry: the same in every store, whatever else is in it."""
    digest = hashlib.sha256(f"foldwright validation {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _fitting(manifest: pa.Table, config: ValidationConfig) -> dict[str, bool]:
    columns = (manifest[name].to_pylist() for name in ("entry", "n_tokens", "n_atoms"))
    return {
        entry: tokens <= config.max_tokens and atoms <= config.max_atoms
        for entry, tokens, atoms in zip(*columns, strict=True)
    }
