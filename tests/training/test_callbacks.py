# SPDX-License-Identifier: Apache-2.0
"""metrics.csv survives kills and resumes without gaps or repeats."""

from foldwright.training.callbacks import MetricsFile


def row(step):
    return {"step": float(step), "loss": 1.0 / step}


def test_rows_come_back_exactly(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        file.append(row(step))
    assert file.rows() == [row(1), row(2), row(3)]
    assert file.path.read_text().splitlines()[0] == "step,loss"


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


def test_what_is_kept_stays_as_it_was_written(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        file.append({"step": step, "loss": 0.5, "phase": 0, "crop_tokens": 32})
    written = file.path.read_text().splitlines()
    with file.path.open("a") as stream:
        stream.write("4,0.2")  # cut short by a kill
    file.truncate(2)
    assert file.path.read_text().splitlines() == written[:3]


def test_nothing_to_truncate(tmp_path):
    MetricsFile(tmp_path / "metrics.csv").truncate(5)
    assert list(tmp_path.iterdir()) == []
