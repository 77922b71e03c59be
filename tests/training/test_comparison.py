# SPDX-License-Identifier: Apache-2.0
"""Curves of runs: what is read, averaged and refused."""

import numpy as np
import pytest
from matplotlib.image import imread

from foldwright.training.comparison import Curve, labels, main, read_curves


@pytest.fixture
def two(tmp_path):
    for name, offset in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        lines = [f"{step},{step + offset}," + ("nan" if step % 2 else "4.5") for step in range(1, 41)]
        (tmp_path / name / "metrics.csv").write_text("\n".join(["step,loss,lddt", *lines]) + "\n")
    return tmp_path


def test_rows_without_a_number_are_left_out(two):
    (curve,) = read_curves(two / "a" / "metrics.csv", "a", ["lddt"])
    assert curve.steps.tolist() == list(range(2, 41, 2))
    assert (curve.values == 4.5).all()


def test_means_stand_at_the_last_step_of_their_window():
    steps, means = Curve("a", "loss", np.arange(5.0), np.array([1.0, 3, 5, 7, 9])).smoothed(2)
    assert steps.tolist() == [1, 2, 3, 4]
    assert means.tolist() == [2, 4, 6, 8]


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [tmp_path / "a" / "structure", tmp_path / "b" / "structure"]
    assert labels(runs) == ["a/structure", "b/structure"]
    assert labels([runs[0], tmp_path / "b" / "finetune1"]) == ["structure", "finetune1"]
    assert labels([runs[0], runs[0]]) == ["structure", "structure"]


def test_a_picture_and_a_table_are_made(two, capsys):
    out = two / "c.png"
    assert (
        main(
            [str(two / "a"), str(two / "b"), "--out", str(out), "--columns", "loss", "lddt", "--window", "2"]
        )
        == 0
    )
    height, width, _ = imread(out).shape
    assert width > 2 * height, "two panels side by side"
    said = capsys.readouterr().out
    assert "39.5" in said, "mean of the last two of a"
    assert "40.5" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--columns", "los"], "has no column 'los'; it has step, loss, lddt"),
        (["a", "--validation", "lddt"], "not there"),
        (["a", "--columns"], "expected --columns or --validation"),
        (["a", "--window", "0"], "--window: got 0"),
    ],
)
def test_what_is_not_there_is_said(two, capsys, arguments, said):
    run, *rest = arguments
    assert main([str(two / run), "--out", str(two / "x.png"), *rest]) == 1
    assert said in capsys.readouterr().err
    assert not (two / "x.png").exists()
