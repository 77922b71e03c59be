# SPDX-License-Identifier: Apache-2.0
"""The training dataset: sample requests in, examples out, read from the prepared stores of a mixture.

Every draw (data set, entry, crop, alignment rows, templates, conformers and their placement) has a generator
of its own keyed by (seed, sample number). An example that cannot be built is quarantined: logged, counted and
replaced by the next draw of the same number; more than a small share of them stops the run. Other examples of
its entry are tried all the same: some crops of an entry may be sound, and what a worker has met before must
not decide what a sample number stands for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from foldwright.batch import Batch
from foldwright.data.crop import Budget, crop, crop_input
from foldwright.data.datasets import (
    DatasetConfig,
    drawing_weights,
    select_items,
    shares,
    without_doubtful,
)
from foldwright.data.external import open_store
from foldwright.data.features import MsaConfig, alignment_columns, build_example
from foldwright.data.records import Entry
from foldwright.data.sampler import Draw, ExampleSampler, SampleRequest, choose_dataset
from foldwright.data.store import Store
from foldwright.data.structure import Structure, Tokens
from foldwright.randomness import generator

_log = logging.getLogger(__name__)
_TOLERATED = 3  # bad examples of one worker that never stop a run, whatever their share
_TOKEN_BUCKET = 32
_BOND_BUCKET = 32
_ATOM_BUCKET = 32  # the query window of atom attention


@dataclass
class DataConfig:
    """Where examples come from and how they are made. Sizes that a curriculum changes come with a request.

    The first data set is the one that validation and summary look into. With none named there is one, `pdb`,
    of all of `root`.
    """

    root: str = ""  # the prepared store of every data set that does not name its own
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    allow_overlap: bool = False  # train even if a split's training set overlaps its evaluation sets
    allow_missing_clusters: bool = False  # train even if a set of weighted sampling has no clusters
    allow_missing_msas: bool = False  # train even if no chain of a set has an alignment
    n_templates: int = 4
    random_msa_depth: bool = True  # cut every alignment to a random depth first, AF3 SI 2.2
    max_attempts: int = 10  # draws for one sample number before the run stops
    max_bad_fraction: float = 0.01  # share of bad examples that stops the run


class Part(NamedTuple):
    """One data set of the mixture, opened."""

    config: DatasetConfig
    store: Store
    sampler: ExampleSampler


class FullExample(NamedTuple):
    """A whole entry as features, with the structure and tokens that they describe."""

    batch: Batch
    structure: Structure
    tokens: Tokens


class StoreDataset(Dataset[Batch]):
    """Maps a SampleRequest to a Batch of one example (no leading axis).

    `store` is that of the first data set. Raises ValueError for what a store lacks, or if there is none.
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        datasets = named_datasets(config)
        shares(datasets, {})
        stores = {dataset.root: open_store(dataset.root) for dataset in datasets.values()}
        self.parts = {
            name: _open_part(name, dataset, stores[dataset.root], config.allow_overlap, seed)
            for name, dataset in datasets.items()
        }
        self.store = next(iter(self.parts.values())).store
        self.quarantine: dict[str, str] = {}  # data set and entry -> why the last bad example of it is
        self.n_seen = 0
        self.n_bad = 0

    def __getitem__(self, request: SampleRequest) -> Batch:
        """The example of a sample number.

        Raises RuntimeError if too many examples are bad.
        """
        self.n_seen += 1
        name = choose_dataset(self.seed, request.n, self.shares(dict(request.dataset_weights)))
        part = self.parts[name]
        if crops := dict(request.dataset_crops).get(name):
            part = part._replace(config=replace(part.config, crop=crops))
        for attempt in range(self.config.max_attempts):
            draw = part.sampler.draw(request.n, attempt)
            bad = f"{name}/{draw.entry}"
            try:
                return self._build(part, draw, request, attempt)
            except Exception as error:  # any defect of one entry must not end a run of days
                reason = f"{type(error).__name__}: {error}"
                if bad not in self.quarantine:
                    _log.warning("sample %d: an example of %s is quarantined: %s", request.n, bad, reason)
                self.quarantine[bad] = reason
                self._count_bad(bad)
        raise RuntimeError(
            f"sample {request.n}: {self.config.max_attempts} draws in a row gave bad examples: "
            f"{self.quarantine}; prepare the store again without them"
        )

    def shares(self, overrides: Mapping[str, float]) -> dict[str, float]:
        """Probability of every data set, with weights overridden by name; ValueError for an unknown name."""
        return shares({name: part.config for name, part in self.parts.items()}, overrides)

    def _count_bad(self, entry: str) -> None:
        self.n_bad += 1
        if self.n_bad > _TOLERATED and self.n_bad > self.config.max_bad_fraction * self.n_seen:
            raise RuntimeError(
                f"{self.n_bad} of {self.n_seen} examples were bad, the last of entry {entry}; at most "
                f"{self.config.max_bad_fraction:.1%} may be (data.max_bad_fraction). Bad entries: "
                f"{self.quarantine}"
            )

    def _build(self, part: Part, draw: Draw, request: SampleRequest, attempt: int) -> Batch:
        store, config = part.store, part.config
        entry = store.entry(draw.entry)
        if config.min_residue_plddt > 0:
            entry = without_doubtful(entry, store.plddt(draw.entry), config.min_residue_plddt)
        budget = Budget(request.crop_tokens, request.crop_atoms)
        rng = generator(self.seed, request.n, f"crop {attempt}")
        kept = crop(crop_input(entry.structure, entry.tokens), budget, config.crop, draw.chains, rng)
        columns = alignment_columns(entry, kept)
        entities = entry.structure.chain_entity[entry.tokens.token_chain[kept]]
        templated = np.intersect1d(entities, entry.template_entities) if self.config.n_templates else ()
        return build_example(
            entry,
            store.components,
            store.msas(draw.entry, columns, columns),
            kept,
            msa_config=MsaConfig(request.msa_rows, self.config.random_msa_depth),
            n_templates=self.config.n_templates,
            n_cycles=request.n_cycles,
            sample_number=request.n,
            msa_rng=generator(self.seed, request.n, f"msa {attempt}"),
            conformer_rng=generator(self.seed, request.n, f"conformers {attempt}"),
            chain_templates=store.templates(draw.entry, map(int, templated)),
            template_rng=generator(self.seed, request.n, f"templates {attempt}"),
            supervision=config.losses,
        )

    def full_example(self, entry: str, n_cycles: int, msa_rows: int, sample_number: int = 0) -> FullExample:
        """A whole entry, uncropped, with alignments at full depth, for validation and prediction.

        `sample_number` keys its randomness. Raises KeyError for an unknown entry.
        """
        stored = self.store.entry(entry)
        batch = build_full(
            stored, self.store, n_cycles, msa_rows, self.config.n_templates, self.seed, sample_number
        )
        return FullExample(batch, stored.structure, stored.tokens)


def named_datasets(config: DataConfig) -> dict[str, DatasetConfig]:
    """The data sets of a configuration, each with the store it draws from.

    Raises ValueError, naming the key to set or to drop, for one without a store.
    """
    datasets = config.datasets or {"pdb": DatasetConfig()}
    for name, dataset in datasets.items():
        if not (dataset.root or config.root):
            raise ValueError(
                f"data.datasets.{name}.root: got no store; add data.datasets.{name}.root=STORE (or "
                "data.root=STORE for all data sets), the folder that prepare_data.py made"
                + (f"; or drop the set with ~data.datasets.{name}" if len(datasets) > 1 else "")
            )
    return {name: replace(dataset, root=dataset.root or config.root) for name, dataset in datasets.items()}


def _open_part(name: str, config: DatasetConfig, store: Store, allow_overlap: bool, seed: int) -> Part:
    items = select_items(store, name, config, allow_overlap)
    return Part(config, store, ExampleSampler(items, drawing_weights(items, config), seed))


def build_full(
    entry: Entry, store: Store, n_cycles: int, msa_rows: int, n_templates: int, seed: int, sample_number: int
) -> Batch:
    """Features of all tokens of an entry; see `StoreDataset.full_example`."""
    return build_example(
        entry,
        store.components,
        store.msas(entry.structure.entry_id, map(int, entry.msa_entities)),
        np.arange(len(entry.tokens.token_residue)),
        msa_config=MsaConfig(msa_rows, random_depth=False),
        n_templates=n_templates,
        n_cycles=n_cycles,
        sample_number=sample_number,
        msa_rng=generator(seed, sample_number, "msa, whole entry"),
        conformer_rng=generator(seed, sample_number, "conformers, whole entry"),
        chain_templates=store.templates(entry.structure.entry_id, map(int, entry.template_entities)),
    )


def buckets(
    crop_tokens: int, crop_atoms: int, msa_rows: int, n_templates: int
) -> Mapping[str, tuple[int, ...]]:
    """One padding bucket an axis, so that all steps of a phase have one shape (`batch.collate`)."""
    return {
        "N": (-(-crop_tokens // _TOKEN_BUCKET) * _TOKEN_BUCKET,),
        "A": (-(-crop_atoms // _ATOM_BUCKET) * _ATOM_BUCKET,),
        "M": (msa_rows,),
        "T": (n_templates,),
        "K": (_BOND_BUCKET,),
    }
