# SPDX-License-Identifier: Apache-2.0
"""The objective of the affinity stage: groups of pockets, affinity losses, metrics of held-out targets.

Trunk, diffusion and confidence are frozen; their pockets come from the cache of `affinity_features.py`, or
are computed in each step (`affinity.features=recompute`: no disk, but a trunk pass and sampled poses for
every complex drawn).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldwright.affinity.head import Pocket
from foldwright.affinity.scores import AffinityScores, ensemble
from foldwright.data.affinity_store import PocketCache, PocketRecord
from foldwright.data.affinity_table import fingerprints
from foldwright.data.store import ITEMS, MANIFEST, Store
from foldwright.evaluation.affinity import (
    Values,
    average_precision,
    enrichment,
    neighbour_baseline,
    regression_metrics,
    weight_baseline,
)
from foldwright.kernels import Ops
from foldwright.losses.affinity import affinity_loss
from foldwright.model import AlphaFold3
from foldwright.randomness import key
from foldwright.training.affinity_config import Features
from foldwright.training.affinity_data import (
    AffinityBatch,
    AffinityDataset,
    AffinitySplit,
    collate_groups,
    open_table,
    split_table,
    table_path,
)
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import Curriculum, PhaseConfig
from foldwright.training.datamodule import StoreData, open_dataset
from foldwright.training.objective import Objective
from foldwright.training.parallel import Sharding, reshard
from foldwright.training.pockets import make_pocket, pad_pockets
from foldwright.training.run_directory import table_digests
from foldwright.training.step import Apart

SCORED = ("model", "weight", "neighbour")


def affinity_objective(config: TrainConfig, curriculum: Curriculum, ops: Ops, run_dir: Path) -> Objective:
    """ValueError for a table that is missing or holds nothing to train on, or a network without the head."""
    settings = config.affinity
    recompute = settings.features is Features.recompute
    if not config.model.affinity.enabled:
        raise ValueError("model.affinity.enabled: got false, expected true in the affinity stage; set it")
    if recompute and config.trainer.sharding in (Sharding.fsdp, Sharding.hsdp):
        raise ValueError(
            "affinity.features: got recompute with sharded weights, whose ranks would run different numbers "
            "of trunk passes; take affinity.features=cache or trainer.sharding=ddp"
        )
    store = open_dataset(config.data, config.seed).store
    split = split_table(open_table(store.path, settings.table), settings.held_out, settings.held_out_fraction)
    dataset = AffinityDataset(split, settings.groups, config.seed)
    source = PocketSource(config, store)

    def losses(
        network: AlphaFold3, batch: AffinityBatch, phase: PhaseConfig, apart: Apart
    ) -> dict[str, Tensor]:
        pocket = batch.pocket
        if pocket is None:
            pocket = source.pockets(network, batch.names, batch.sample_number.device)
        prediction = network.predict_affinity(pocket, key(batch.sample_number, config.seed))
        return affinity_loss(prediction, batch.labels, settings.loss)

    def begin(digest: str) -> None:
        if recompute:
            return
        source.cache = dataset.cache = open_cache(config, digest, store)
        names = split.table.take(np.concatenate([split.training, split.held_out]))["complex"].to_pylist()
        if missing := source.cache.missing(dict.fromkeys(names)):
            raise ValueError(
                f"affinity.cache: {config.affinity.cache} lacks the pockets of {len(missing)} complexes "
                f"({', '.join(missing[:3])}); run affinity_features.py with these settings first, or take "
                "affinity.features=recompute"
            )

    return Objective(
        losses=losses,
        captures=False,  # pockets have many sizes
        data=AffinityData(config, curriculum, dataset),
        shares=lambda weights: {},
        validator=AffinityValidator(split, source) if len(split.held_out) else None,
        validation=_describe(split, config.validation.every_steps),
        begin=begin,
        closing=lambda checkpointer: [],
        tables={"affinity.table": table_path(store.path, settings.table)} | _store_tables(store),
    )


def _store_tables(store: Store) -> dict[str, Path]:
    return {f"data.root: {table}": store.path / table for table in (MANIFEST, ITEMS)}


def open_cache(config: TrainConfig, digest: str, store: Store) -> PocketCache:
    """The cache's part of one checkpoint (its digest), one preparation of the store and all settings that a
    pocket depends on: poses, which of the weights predict them, templates, sizes and precision of what is
    frozen.
    """
    model = {name: part for name, part in asdict(config.model).items() if name != "affinity"}
    settings = [
        asdict(config.affinity.pose), config.init_from.weights.value, config.data.n_templates, model,
        table_digests(_store_tables(store)),
    ]  # fmt: skip
    text = json.dumps(settings, sort_keys=True, default=lambda choice: choice.value)
    return PocketCache(
        Path(config.affinity.cache), f"{digest}/{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


class AffinityData(StoreData):
    """Groups of complexes instead of examples; a sample number is a group's."""

    def collate(self) -> Callable[[Sequence[Any]], Any]:
        return lambda examples: collate_groups(list(examples))


class PocketSource:
    """Pockets by name: from the cache, or by a network."""

    def __init__(self, config: TrainConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.cache: PocketCache | None = None

    def pockets(self, network: AlphaFold3, names: list[str], device: torch.device) -> Pocket:
        """A padded batch, on the device. Raises KeyError for what cache or store lack."""
        return pad_pockets([self._record(network, name, device) for name in names]).to(device)

    def _record(self, network: AlphaFold3, name: str, device: torch.device) -> PocketRecord:
        if self.cache is not None:
            return self.cache.read(name)
        pose, n_templates = self.config.affinity.pose, self.config.data.n_templates
        return make_pocket(network, self.store, name, pose, n_templates, device)


class AffinityValidator:
    """Metrics of the held-out targets: the averaged network's, and those of two baselines beside them."""

    best = "model/pearson"

    def __init__(self, split: AffinitySplit, source: PocketSource) -> None:
        self.split, self.source = split, source
        self.table = split.table.take(split.held_out)
        self.labels = {
            "low": _column(self.table, "low"), "binder": _column(self.table, "is_binder"),
            "exact": _column(self.table, "low") == _column(self.table, "high"),
        }  # fmt: skip
        self.baselines = self._score_baselines()

    def __call__(self, network: AlphaFold3, device: torch.device) -> dict[str, float]:
        """Every rank predicts all of it, so that a sharded network runs alike on each."""
        scores = self._predict(network, device)
        figures = self._figures("model", scores.value.numpy(), scores.probability.numpy())
        return {**figures, **self.baselines}

    def line(self, figures: dict[str, float]) -> str:
        """What the log says of a validation."""
        return "affinity of held-out targets: " + "; ".join(
            f"{name} Pearson {figures[f'{name}/pearson']:.2f}, Kendall {figures[f'{name}/kendall']:.2f}, "
            f"MAE {figures[f'{name}/mae']:.2f} (centred {figures[f'{name}/mae_centred']:.2f})"
            for name in SCORED
        )

    @torch.no_grad()
    def _predict(self, network: AlphaFold3, device: torch.device) -> AffinityScores:
        settings = self.source.config.affinity
        names = self.table["complex"].to_pylist()
        weight = torch.from_numpy(_column(self.table, "molecular_weight"))
        values, probabilities = [], []
        for start in range(0, len(names), settings.batch):
            pocket = self.source.pockets(network, names[start : start + settings.batch], device)
            seed = torch.zeros(len(pocket.x), dtype=torch.int64, device=device)
            prediction = network.predict_affinity(pocket, seed)
            mass = weight[start : start + settings.batch].to(device) if settings.correct_by_weight else None
            scores = ensemble(prediction, mass)
            values.append(scores.value.double().cpu())
            probabilities.append(scores.probability.double().cpu())
        reshard(network)
        return AffinityScores(torch.cat(values), torch.cat(probabilities))

    def _score_baselines(self) -> dict[str, float]:
        """Both see the exact values of the training rows; without any they predict zero."""
        training = self.split.table.take(self.split.training)
        low, high = _column(training, "low"), _column(training, "high")
        known = np.isfinite(_column(training, "molecular_weight")) & (low == high)
        weight, value = _column(training, "molecular_weight")[known], low[known]
        by_weight = by_neighbour = np.zeros(len(self.table))
        if len(value):
            own = np.nan_to_num(_column(self.table, "molecular_weight"), nan=float(weight.mean()))
            by_weight = weight_baseline(own, weight, value)
            bits = fingerprints(training)[known]
            by_neighbour = neighbour_baseline(fingerprints(self.table), bits, value)
        return {
            **self._figures("weight", by_weight, -by_weight),
            **self._figures("neighbour", by_neighbour, -by_neighbour),
        }

    def _figures(self, name: str, value: Values, score: Values) -> dict[str, float]:
        exact, labelled = self.labels["exact"].astype(bool), self.labels["binder"] >= 0
        assays = np.array(self.table["assay"].to_pylist(), np.str_)[exact]
        found = regression_metrics(value[exact], self.labels["low"][exact], assays.tolist())
        is_binder = self.labels["binder"][labelled] == 1
        found["ap"] = average_precision(score[labelled], is_binder)
        found["enrichment"] = enrichment(score[labelled], is_binder)
        return {f"{name}/{key}": figure for key, figure in found.items()}


def _column(table, name: str) -> Values:  # type: ignore[no-untyped-def]
    return np.asarray(table[name].to_pylist(), np.float64)


def _describe(split: AffinitySplit, every_steps: int) -> str:
    if not len(split.held_out):
        return "none: name affinity.held_out targets, or raise affinity.held_out_fraction"
    return (
        f"every {every_steps:,} steps on {len(split.held_out)} measurements of "
        f"{', '.join(split.targets[:8])}; "
        f"training sees {len(split.training)} of other targets"
    )
