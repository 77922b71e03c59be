# SPDX-License-Identifier: Apache-2.0
"""A run directory belongs to one configuration."""

import os
import signal
import time

import pytest
import yaml
from forked import Forked

from foldwright.training.config import ConfigError, compose_config, to_plain
from foldwright.training.run_directory import claim, claim_data, fingerprint, wandb_id


def test_the_same_configuration_comes_back(tmp_path):
    for _ in range(2):
        claim(tmp_path / "run", compose_config([]), is_writer=True)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert fingerprint(to_plain(compose_config([]))) in text


def test_another_is_refused_saying_what_differs_and_what_to_do(tmp_path):
    claim(tmp_path, compose_config([]), is_writer=True)
    with pytest.raises(ConfigError) as error:
        claim(tmp_path, compose_config(["seed=3", "model.diffusion.blocks=7"]), is_writer=True)
    assert "model.diffusion.blocks: 3 there, 7 now" in str(error.value)
    assert "seed: 0 there, 3 now" in str(error.value)
    assert "run_name=NAME" in str(error.value)


def test_how_it_runs_may_change(tmp_path):
    claim(tmp_path, compose_config([]), is_writer=True)
    changed = [
        "trainer.max_steps=7",
        "trainer.devices=2",
        "logger=wandb",
        "kernels=reference",
        "loader.workers=0",
    ]
    claim(tmp_path, compose_config(changed), is_writer=True)
    assert fingerprint(to_plain(compose_config(changed))) == fingerprint(to_plain(compose_config([])))


def test_a_run_that_was_moved_goes_on(tmp_path):
    claim(tmp_path / "run", compose_config([f"paths.output_root={tmp_path}"]), is_writer=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    claim(tmp_path / "moved", compose_config([f"paths.output_root={tmp_path}/other"]), is_writer=True)


def test_a_store_that_was_moved_serves_on(tmp_path):
    sets = ["data=pdb", "data.root=/here", "+data.datasets.more.root=/there/more"]
    claim(tmp_path, compose_config(sets), is_writer=True)
    moved = ["data=pdb", "data.root=/elsewhere", "+data.datasets.more.root=/elsewhere/more"]
    claim(tmp_path, compose_config(moved), is_writer=True)
    with pytest.raises(ConfigError, match=r"data\.datasets\.more\.weight: 1.0 there, 2.0 now"):
        claim(tmp_path, compose_config([*moved, "+data.datasets.more.weight=2"]), is_writer=True)


def test_a_run_begun_with_a_setting_that_is_gone_resumes(tmp_path):
    claim(tmp_path, compose_config([]), is_writer=True)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    stored["losses"]["smooth_lddt_chunk"] = 4
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    claim(tmp_path, compose_config([]), is_writer=True)


def test_a_second_process_is_refused_and_the_same_one_comes_back(tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        "from foldwright.training.run_directory import claim;"
        "from foldwright.training.config import compose_config;"
        "from pathlib import Path; claim(Path('run'), compose_config([]), is_writer=True)"
    )

    def second():
        process = Forked([], tmp_path, script=other)
        return process.wait(timeout=60), process.returncode

    lock = claim(tmp_path / "run", compose_config([]), is_writer=True)
    child = os.fork()  # a worker: it outlives a run that is killed
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        assert "another process is training in it" in second()[0]
        lock.close()
        assert second() == ("", 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"paths\.run_dir: .*cannot be written"):
        claim(tmp_path / "file" / "run", compose_config([]), is_writer=True)


def test_a_later_end_of_a_phase_is_another_configuration(tmp_path):
    claim(tmp_path, compose_config([]), is_writer=True)
    with pytest.raises(ConfigError, match=r"curriculum.initial.until: \d+ there, 9999 now"):
        claim(tmp_path, compose_config(["curriculum.initial.until=9999"]), is_writer=True)


def test_a_store_that_changed_under_a_run_is_refused(tmp_path):
    table, other = tmp_path / "manifest.parquet", tmp_path / "affinity.parquet"
    table.write_bytes(b"a")
    claim_data(tmp_path, {"data.datasets.pdb: manifest.parquet": table, "of a plugin": other}, is_writer=True)
    moved = tmp_path / "staged.parquet"
    moved.write_bytes(b"a")
    claim_data(tmp_path, {"data.datasets.pdb: manifest.parquet": moved}, is_writer=False)
    table.write_bytes(b"b")
    with pytest.raises(
        ConfigError, match=r"other data, changed since: data\.datasets\.pdb: manifest\.parquet"
    ):
        claim_data(tmp_path, {"data.datasets.pdb: manifest.parquet": table}, is_writer=False)


def test_the_wandb_id_is_made_once(tmp_path):
    assert wandb_id(tmp_path) == wandb_id(tmp_path)
