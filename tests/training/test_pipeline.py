# SPDX-License-Identifier: Apache-2.0
"""Stages in a row: killed in the second and started again, they give what they give undisturbed."""

import fcntl
import shutil
import sys

import pytest
from forked import Forked
from rich.console import Console

from foldwright.training import pipeline
from foldwright.training.cli import train
from foldwright.training.config import ConfigError, compose_config
from foldwright.training.pipeline import plan, run_pipeline, table

STEPS = {"structure": 2, "finetune1": 6, "confidence": 2}


def overrides(runs, name, **steps):
    own = {stage: [f"trainer.max_steps={count}"] for stage, count in (STEPS | steps).items()}
    own["confidence"].append("init_from.stage=finetune1")
    quoted = {stage: ",".join(f'"{override}"' for override in given) for stage, given in own.items()}
    return [
        *(given for given in runs.overrides("") if not given.startswith("run_name")),
        "pipeline=af3",
        f"pipeline.name={name}",
        "~pipeline.stages.finetune2",
        *(f"pipeline.stages.{stage}=[{given}]" for stage, given in quoted.items()),
    ]


def planned(runs, name, *extra):
    given = [*overrides(runs, name), *extra]
    return plan(compose_config(given), given)


def shown(legs):
    console = Console(record=True, width=120)
    console.print(table(legs))
    return console.export_text()


@pytest.fixture(scope="module")
def straight(runs):
    legs = planned(runs, "straight")
    for leg in legs:
        train(leg.config)
    return legs


@pytest.mark.slow
def test_stages_run_in_a_row_and_finished_ones_are_passed_over(runs, monkeypatch, capsys):
    """Each in this process, for once; the second is stopped before its first step."""
    started = []

    def run(command, leg, lock):
        started.append(leg.name)
        if started != ["structure", "finetune1"]:
            train(leg.config)

    monkeypatch.setattr(pipeline, "_run", run)
    given = overrides(runs, "in_a_row", structure=1, finetune1=1, confidence=1)
    run_pipeline(compose_config(given), given, "train.py")
    assert started == ["structure", "finetune1"]
    assert "stage finetune1 was stopped at step 0; the same command goes on" in capsys.readouterr().out
    run_pipeline(compose_config(given), given, "train.py")
    assert started == ["structure", "finetune1", "finetune1", "confidence"]
    assert shown(plan(compose_config(given), given)).count("finished") == 3


def test_a_stage_that_fails_ends_the_pipeline_with_its_code(runs, tmp_path, capsys):
    leg = planned(runs, "failed")[0]
    with (tmp_path / "lock").open("w") as lock, pytest.raises(SystemExit, match="3"):
        pipeline._run([sys.executable, "-c", "raise SystemExit(3)"], leg, lock)
    assert "stage structure ended with code 3" in capsys.readouterr().err


@pytest.mark.thorough
def test_killed_in_the_second_stage_and_started_again_it_ends_alike(runs, straight):
    def start(**steps):
        return Forked(overrides(runs, "killed_pipeline", **steps), runs.root)

    train(planned(runs, "killed_pipeline")[0].config)  # as the pipeline would, without its imports
    process = start(finetune1=60)
    runs.wait_for_checkpoint(process, "killed_pipeline/finetune1")
    runs.kill(process)
    assert not (runs.root / "killed_pipeline" / "confidence").exists()
    for later in runs.checkpoints("killed_pipeline/finetune1"):
        if int(later.name[-8:]) > 3:  # so that something is left to do
            shutil.rmtree(later)
    before = shown(planned(runs, "killed_pipeline"))
    process = start()
    said = process.wait(timeout=120)
    assert process.returncode == 0, said
    assert "resuming at step 3" in said
    assert said.count("stage=structure") == 0, "a finished stage is passed over"
    for state in ("finished", "goes on", "waits"):
        assert state in before
    assert shown(planned(runs, "killed_pipeline")).count("finished") == 3
    for stage, steps in STEPS.items():
        assert len(runs.metrics(f"straight/{stage}")) == steps
        assert runs.metrics(f"killed_pipeline/{stage}") == runs.metrics(f"straight/{stage}")
        runs.assert_same_weights(f"killed_pipeline/{stage}", f"straight/{stage}")


@pytest.mark.slow
def test_a_stage_of_another_configuration_is_not_taken_for_finished(runs):
    train(planned(runs, "another")[0].config)
    with pytest.raises(
        ConfigError, match=r"pipeline stage structure: .*another configuration:\n  seed: 0 there"
    ):
        planned(runs, "another", "seed=9")


def test_each_stage_starts_from_the_one_before(runs):
    legs = planned(runs, "planned")
    assert [leg.name for leg in legs] == ["structure", "finetune1", "confidence"]
    assert [leg.config.stage for leg in legs] == [leg.name for leg in legs]
    assert [leg.config.init_from.path for leg in legs] == [None, str(legs[0].run_dir), str(legs[1].run_dir)]
    assert [leg.steps for leg in legs] == [2, 6, 2]
    assert [leg.config.pipeline.stages for leg in legs] == [{}, {}, {}], "a stage is no pipeline itself"
    said = shown(legs)
    assert "next" in said
    assert said.count("waits") == 2
    assert not legs[0].run_dir.exists(), "planning writes nothing"


def test_a_seed_for_all_stages_gives_none_the_samples_of_another(runs):
    assert [leg.config.seed for leg in planned(runs, "seeds", "seed=7")] == [7, 8, 9]
    assert [leg.config.seed for leg in planned(runs, "seeds")] == [0, 1, 3]


@pytest.mark.parametrize("setting", ["stage=finetune1", "run_name=x", "init_from.path=x", "paths.run_dir=x"])
def test_what_the_pipeline_sets_is_refused(runs, setting):
    with pytest.raises(ConfigError, match="sets it for every stage"):
        planned(runs, "refused", setting)


def test_a_stage_that_cannot_run_is_named_before_anything_starts(runs):
    given = overrides(runs, "refused", finetune1=999)
    config = compose_config(given)
    with pytest.raises(ConfigError, match=r"pipeline stage finetune1: trainer.max_steps: got 999"):
        plan(config, given)


def test_two_starts_at_once_are_refused(runs):
    given = overrides(runs, "locked")
    folder = runs.root / "locked"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="still runs"):
            run_pipeline(compose_config(given), given, "train.py")
