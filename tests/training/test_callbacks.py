# SPDX-License-Identifier: Apache-2.0
"""metrics.csv survives kills and resumes without gaps or repeats."""

import csv

import pytest

from foldwright.training.callbacks import MetricsFile


def row(step):
    return {"step": float(step), "loss": 1.0 / step}


def test_rows_come_back_exactly(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        file.append(row(step))
    assert file.rows() == [row(1), row(2), row(3)]
    assert file.path.read_text().splitlines()[0] == "step,loss"


def test_a_resume_leaves_what_stays_as_it_was_written(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.append(row(1) | {"phase": 0})
    file.append(row(2) | {"phase": 1})
    written = file.path.read_bytes()
    MetricsFile(file.path).truncate(2)
    assert file.path.read_bytes() == written


def test_truncation_drops_what_will_run_again_and_a_line_cut_short(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        file.append(row(step))
    with file.path.open("a") as raw:
        raw.write("4")
    file.truncate(2)
    file.append(row(3))
    assert file.rows() == [row(1), row(2), row(3)]
    file.truncate(0)
    assert file.rows() == []
    file.append(row(1))
    assert file.rows() == [row(1)]


@pytest.mark.parametrize("torn", ["3,", "3,1e-", "3,0.33", "3,0.3,7\n"])
def test_a_line_cut_anywhere_is_left_out(tmp_path, torn):
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2):
        file.append(row(step))
    with file.path.open("a") as raw:
        raw.write(torn)
    assert file.rows() == [row(1), row(2)]
    resumed = MetricsFile(file.path)
    resumed.truncate(2)
    resumed.append(row(3))
    assert resumed.rows() == [row(1), row(2), row(3)]


def test_a_leg_with_other_columns_keeps_every_row(tmp_path):
    """As of a run that was begun on a CPU, goes on on a GPU, and ends on a CPU."""
    path = tmp_path / "metrics.csv"
    MetricsFile(path).append(row(1))
    gpu = MetricsFile(path)
    gpu.truncate(1)
    for step in (2, 3):
        gpu.append(row(step) | {"mfu": 0.5})
    cpu = MetricsFile(path)
    cpu.truncate(3)
    cpu.append(row(4))
    lines = [dict(line) for line in csv.DictReader(path.open())]
    assert [line["step"] for line in lines] == ["1", "2", "3", "4"]
    assert [float(line["loss"]) for line in lines] == [1 / step for step in (1, 2, 3, 4)]
    assert [line["mfu"] for line in lines] == ["nan", "0.5", "0.5", "nan"]


def test_nothing_to_truncate(tmp_path):
    MetricsFile(tmp_path / "metrics.csv").truncate(5)
    assert list(tmp_path.iterdir()) == []
