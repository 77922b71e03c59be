# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: exit codes, and messages instead of tracebacks."""

import pytest
import yaml
from forked import Forked

from foldwright.training.config import ConfigError


def command(tmp_path, *arguments):
    """Exit code of the command in an empty folder, and what it printed."""
    process = Forked(arguments, tmp_path)
    said = process.wait(timeout=60)
    return process.returncode, said


def test_a_typo_ends_in_one_line(tmp_path):
    error = "error: unknown configuration key 'modle'; did you mean 'model'?\n"
    assert command(tmp_path, "+modle=base") == (1, error)
    assert list(tmp_path.iterdir()) == [], "nothing may be left behind"


def test_a_run_directory_that_cannot_be_made_ends_in_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, said = command(tmp_path, "data=sample")
    assert code == 1
    assert said.startswith("error: paths.run_dir: runs/structure cannot be written (Not a directory)")
    assert said.count("\n") == 1


def test_a_sweep_of_pipelines_is_refused_instead_of_trained_in_part(tmp_path):
    code, said = command(tmp_path, "-m", "pipeline=af3", "seed=0", "trainer=cpu")
    assert code == 1
    assert "error: pipeline: got pipeline=af3 with -m, which would train one stage alone" in said
    assert not (tmp_path / "runs" / "structure").exists()


def test_cfg_job_shows_the_cluster_configuration(tmp_path):
    given = ("stage=structure", "model=base", "data=pdb", "data.root=/x", "trainer=fsdp", "--cfg", "job")
    code, said = command(tmp_path, *given)
    assert code == 0, said
    config = yaml.safe_load(said)
    assert config["model"]["trunk"]["pairformer"]["blocks"] == 48
    assert config["curriculum"]["initial"]["crop_tokens"] == 384
    assert config["trainer"]["sharding"] == "fsdp"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=pdb"], r"data.datasets.pdb.root: got no store.*data.root=STORE"),
        (["data.root=/nowhere"], "/nowhere"),
        (["summary.entry=9xyz"], "summary.entry: got '9xyz'"),
        (["data.datasets.pdb.entries=[9xyz]"], "data.datasets.pdb.entries: got '9xyz'"),
        (["trainer.max_steps=1000000"], "trainer.max_steps: got 1000000"),
        (["global_batch=3", "trainer.batch_per_device=2"], "global_batch: got 3"),
        (["curriculum.initial.crop_atoms=33"], "expected a multiple of 32"),
        (["kernels.default=magic"], "kernels.default"),
        (["model.trunk.pairformer.single_heads=3"], "heads: got 3 for 64 channels, expected a divisor"),
        (["model.diffusion.heads=3"], "heads: got 3 for 128 channels"),
        (["model.trunk.atom.heads=3"], "heads: got 3 for 32 channels"),
        (["freeze=['*']"], r"freeze: got \['\*'\], which leaves nothing to train"),
        (["rollout.enabled=false", "losses.diffusion=0", "losses.distogram=0"], "losses: got neither"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(runs, overrides, message):
    with pytest.raises(ConfigError, match=message):
        runs.here("refused", *overrides)
    assert not (runs.root / "refused").exists()
