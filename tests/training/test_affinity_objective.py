# SPDX-License-Identifier: Apache-2.0
"""What a pocket in the cache stands for, and what cannot be computed in each step."""

import shutil

import pyarrow.parquet as pq
import pytest

from foldwright.data.sample import affinity_store_path
from foldwright.data.store import ITEMS, Store
from foldwright.training.affinity_objective import open_cache
from foldwright.training.cli import train
from foldwright.training.config import ConfigError, compose_config

STAGE = ("stage=affinity", "data=affinity_sample", "init_from.path=parent", "trainer=cpu")


@pytest.mark.parametrize(
    "other",
    [
        "init_from.weights=raw",
        "data.n_templates=2",
        "model.trunk_dtype=float32",
        "affinity.pose.sampler.steps=11",
    ],
)
def test_a_pocket_is_not_taken_for_one_of_other_settings(other):
    def scope(*extra):
        config = compose_config([*STAGE, "model.trunk_dtype=bfloat16", *extra])
        return open_cache(config, "parent", Store(affinity_store_path())).scope

    assert scope(other) != scope()
    assert scope("model.affinity.blocks=[1]", "schedule.lr=1e-3", "affinity.batch=3") == scope()


def test_a_pocket_is_not_taken_for_one_of_a_store_made_anew(tmp_path):
    place = shutil.copytree(affinity_store_path(), tmp_path / "store")
    config = compose_config([*STAGE])
    before = open_cache(config, "parent", Store(place)).scope
    assert before == open_cache(config, "parent", Store(affinity_store_path())).scope
    items = pq.read_table(place / ITEMS)
    pq.write_table(items.slice(1), place / ITEMS)
    assert open_cache(config, "parent", Store(place)).scope != before


@pytest.mark.parametrize("sharding", ["fsdp", "hsdp"])
def test_sharded_ranks_do_not_recompute_pockets(sharding, tmp_path):
    """Their groups differ in size, and with it the trunk passes in which they meet."""
    devices = ("trainer.devices=4", "trainer.shard_size=2" if sharding == "hsdp" else "global_batch=4")
    given = [*STAGE, f"trainer.sharding={sharding}", *devices, "global_batch=4"]
    given = [*dict.fromkeys(given), "affinity.features=recompute", f"paths.output_root={tmp_path}"]
    with pytest.raises(ConfigError, match=r"affinity\.features: got recompute with sharded weights"):
        train(compose_config(given))
