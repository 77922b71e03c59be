# SPDX-License-Identifier: Apache-2.0
"""A wrong key or value ends in a message with the full path and the nearest right key."""

import pytest

from foldwright.data.crop import CropMixture
from foldwright.data.dataset import named_datasets
from foldwright.data.datasets import DatasetConfig, Limits, Scope, Supervision
from foldwright.layers.stack import COSTLY, Recompute
from foldwright.training.config import (
    ConfigError,
    TrainConfig,
    compose_config,
    flatten,
    nearest_key,
    to_plain,
)
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.parallel import Sharding


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("curriculum.initial.crop_tokns=3", "crop_tokns'; did you mean 'curriculum.initial.crop_tokens'"),
        ("+curriculum.initial.crop_tokns=3", "did you mean 'curriculum.initial.crop_tokens'"),
        ("model.trunk.pairformr.blocks=2", "'model.trunk.pairformr'; did you mean 'model.trunk.pairformer'"),
        ("optimizer.lr=1e-3", "'optimizer.lr'; did you mean 'schedule.lr'"),
        ("+typo=1", "unknown configuration key 'typo'"),
        ("stge=structure", "did you mean 'stage'"),
        ("schedule.lr=fast", "schedule.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("trainer.sharding=fdsp", r"trainer.sharding: Invalid value .*\[auto, single, ddp, fsdp, hsdp\]"),
        ("curriculum.initial.until=null", "curriculum.initial.until"),
        ("model=bas", "base"),
        ("schedule.lr=[", "no viable alternative"),
        ("data.datasets.pdb.wieght=1", "did you mean 'data.datasets.pdb.weight'"),
        ("+data.datasets.pdb.wieght=1", "did you mean 'data.datasets.pdb.weight'"),
        ("+data.datasets.new.losses.confidense=false", "did you mean 'data.datasets.new.losses.confidence'"),
        ("data.datasets.pbd.weight=1", "'data.datasets.pbd'; did you mean 'data.datasets.pdb'"),
        ("~data.datasets.pbd", "pbd"),
        ("data.datasets.pdb.sampling=even", r"Invalid value .*\[weighted, uniform\]"),
        ("data.entries=[1ubi]", "did you mean 'data.datasets.NAME.entries'"),
        ("schedule.lr=-1e-3", "schedule.lr: got -0.001, expected 0 or more"),
        ("seed=-1", "seed: got -1, expected 0 or more"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(override, message):
    with pytest.raises(ConfigError, match=message):
        compose_config([override])


def test_defaults_are_the_dataclasses():
    config = compose_config(["model=base", "data=pdb", "data.root=/x", "trainer=fsdp"])
    expected = TrainConfig()
    assert config.model == expected.model
    assert config.schedule == expected.schedule
    assert config.optimizer == expected.optimizer
    assert config.curriculum == {"initial": PhaseConfig()}
    assert config.trainer.sharding is Sharding.fsdp
    assert config.data.root == "/x"


def test_presets_of_recomputation_are_opposites_among_the_costly_ops():
    kept = []
    for preset in ("triangles", "projections"):
        trainer = compose_config([f"keep={preset}"]).trainer
        assert trainer.recompute is Recompute.selective
        kept.append(set(COSTLY) - set(trainer.recompute_ops))
    assert kept[0] == {"foldwright::triangle_multiplication", "foldwright::shared_bias_attention"}
    assert kept[1] == set(COSTLY) - kept[0]


def test_phases_are_added_and_changed_from_the_command_line():
    config = compose_config(
        ["curriculum.initial.until=5", "+curriculum.later.until=9", "+curriculum.later.crop_tokens=640"]
    )
    assert config.curriculum["initial"].until == 5
    assert config.curriculum["later"] == PhaseConfig(until=9, crop_tokens=640)


def test_phases_are_mixed_and_dropped_from_the_command_line():
    overrides = ["+curriculum.initial.crop_mixture={256:0.5,384:0.5}", "curriculum.initial.lr_factor=0.5"]
    initial = compose_config(overrides).curriculum["initial"]
    assert (initial.crop_mixture, initial.lr_factor, initial.crop_tokens) == ({256: 0.5, 384: 0.5}, 0.5, 64)
    assert list(compose_config(["experiment=boltz1", "~curriculum.larger"]).curriculum) == ["initial"]


def test_data_sets_are_added_changed_and_dropped_from_the_command_line():
    config = compose_config(
        [
            "data=af3",
            "~data.datasets.rna",
            "data.datasets.pdb.weight=0.6",
            "data.datasets.monomers.limits.min_plddt=80",
            "+data.datasets.mine.root=/mine",
            "+data.datasets.mine.losses.diffusion=none",
            "+curriculum.initial.dataset_weights.pdb=0.5",
        ]
    )
    sets = config.data.datasets
    assert list(sets) == ["pdb", "disorder", "monomers", "short_monomers", "mine"]
    assert sets["pdb"].weight == 0.6
    assert sets["monomers"].limits == Limits(min_tokens=201, min_plddt=80.0)
    assert sets["monomers"].crop == CropMixture(0.25, 0.75, 0.0)
    assert sets["disorder"].losses == Supervision(Scope.protein, True, False)
    assert sets["mine"] == DatasetConfig("/mine", losses=Supervision(Scope.none))
    assert config.curriculum["initial"].dataset_weights == {"pdb": 0.5}


def test_a_set_of_the_mixture_without_a_store_is_named():
    config = compose_config(["data=af3", "data.datasets.pdb.root=/x"])
    with pytest.raises(ValueError, match=r"disorder.root: got no store.*with ~data.datasets.disorder"):
        named_datasets(config.data)


def test_plain_form_is_resolved_and_flattens():
    plain = flatten(to_plain(compose_config([])))
    assert plain["paths.run_dir"] == "runs/structure"
    assert plain["trainer.sharding"] == "auto"
    assert plain["model.trunk_dtype"] == "float32"


def test_nearest_key_knows_when_it_does_not_know():
    assert nearest_key("zzzzqqqq") is None
