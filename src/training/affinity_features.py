# SPDX-License-Identifier: Apache-2.0
"""Computes pockets ahead of time: `affinity_features.py stage=affinity init_from.path=RUN ...`.

It takes the settings of the affinity run that will read the pockets, so that both agree on checkpoint, poses
and cache. The bytes are said first; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foldwright.data.affinity_store import PocketCache, pocket_bytes
from foldwright.data.store import Store
from foldwright.kernels import select
from foldwright.model import AlphaFold3
from foldwright.training.affinity_data import open_table
from foldwright.training.affinity_objective import open_cache
from foldwright.training.checkpoint import CheckpointError
from foldwright.training.config import ConfigError, TrainConfig, compose_config
from foldwright.training.datamodule import open_dataset
from foldwright.training.parallel import resolve
from foldwright.training.pockets import make_pocket
from foldwright.training.weights import digest, load_network, locate


def main(overrides: Sequence[str] | None = None) -> int:
    """Compute the pockets that an affinity run reads. Hydra overrides are those of that run, as for train.py
    (stage=affinity init_from.path=RUN data=pdb data.root=STORE ...).
    """
    _, settings = argparse.ArgumentParser(description=main.__doc__).parse_known_args(overrides)
    console = Console()
    try:
        config = compose_config(settings)
        make_pockets(config, console)
    except (ConfigError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make_pockets(config: TrainConfig, console: Console) -> int:
    """Compute what the cache lacks of the table's complexes; how many were made.

    A complex that cannot be made (a ligand over the budget) is said and left out: drop it from the table.
    Raises ValueError without a parent, a store or a table.
    """
    if config.init_from.path is None:
        raise ValueError(
            "init_from.path: got nothing, expected the run whose weights predict the poses; add "
            "init_from.path=RUN"
        )
    parent = locate(Path(config.init_from.path), "init_from.path")
    store = open_dataset(config.data, config.seed).store
    names = [name for name in open_table(store.path, config.affinity.table)["complex"].to_pylist() if name]
    cache = open_cache(config, digest(parent), store)
    missing = cache.missing(dict.fromkeys(names))
    n_tokens, n_made = config.affinity.pose.pocket.tokens, len(dict.fromkeys(names)) - len(missing)
    each = pocket_bytes(n_tokens, config.model.widths.pair)
    console.print(
        f"{len(missing)} pockets to make, {n_made} there; at most {each / 1e6:.1f} MB each "
        f"({n_tokens} tokens), {each * len(missing) / 1e9:.2f} GB in {cache.folder}",
        highlight=False,
    )
    device = torch.device(resolve(config.trainer).device_type)
    settings = replace(config.model, affinity=replace(config.model.affinity, enabled=False))
    ops = select(config.kernels, device)
    network = load_network(parent, config.init_from.weights, settings, ops).to(device)
    return _make(network, store, missing, config, cache, device, console)


def _make(
    network: AlphaFold3,
    store: Store,
    names: Sequence[str],
    config: TrainConfig,
    cache: PocketCache,
    device: torch.device,
    console: Console,
) -> int:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    environment = cache.open()
    done = written = 0
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        bar = progress.add_task("pockets", total=len(names), note="")
        for name in names:
            pose, n_templates = config.affinity.pose, config.data.n_templates
            try:
                record = make_pocket(network, store, name, pose, n_templates, device)
            except ValueError as error:
                console.print(f"[yellow]left out:[/] {name}: {error}")
                continue
            written += cache.write(environment, name, record)
            done += 1
            progress.update(bar, advance=1, note=name)
    environment.close()
    console.print(f"{done} pockets made, {written / 1e6:.1f} MB compressed", highlight=False)
    return done
