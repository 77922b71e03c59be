# SPDX-License-Identifier: Apache-2.0
"""The evaluate command: true structures score perfectly; what is bad is told and skipped."""

import json

import numpy as np
import pytest

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.tables import read_table
from foldwright.data.write_mmcif import write_structure
from foldwright.inference import evaluate

NAMES = ("5pti", "1lcd", "1gbt")


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """The sample's entries as files, and the same with noise of 1 Å."""
    folder = tmp_path_factory.mktemp("truth")
    store, dictionary, rng = Store(store_path()), Dictionary.open(DEFAULT_CACHE), np.random.default_rng(0)
    for kind, scale in (("true", 0.0), ("noisy", 1.0)):
        (folder / kind).mkdir()
        for name in NAMES:
            s = store.entry(name).structure
            x = s.atom_coords + scale * rng.normal(size=s.atom_coords.shape).astype(np.float32)
            write_structure(s, x, folder / kind / f"{name}.cif", dictionary, mask=s.atom_resolved)
    return folder


def test_truth_against_itself_and_noise_compared(truths, tmp_path, capsys):
    code = evaluate.main([str(truths / "true"), f"--truth={truths / 'true'}", f"--out={tmp_path / 'a'}"])
    assert code == 0
    rows = read_table(tmp_path / "a" / "examples.parquet").to_pylist()
    assert [row["target"] for row in rows] == sorted(NAMES)
    for row in rows:
        assert row["lddt"] == pytest.approx(1)
        assert row["rmsd"] == pytest.approx(0, abs=2e-3)
        assert row["bad_bonds"] == row["bad_angles"] == row["broken_links"] == 0  # some atoms are missing
        assert row["clashes_per_1000_atoms"] < 1
    noisy = [str(truths / "noisy"), f"--truth={store_path()}", f"--out={tmp_path / 'b'}"]
    assert evaluate.main(noisy) == 0
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["targets"] == 3
    lddt = summary["metrics"]["lddt"]["ranked"]
    assert 0.3 < lddt["low"] <= lddt["mean"] <= lddt["high"] < 0.95
    capsys.readouterr()
    assert evaluate.main(["--compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 1
    assert "nowhere, expected a folder that evaluate.py wrote" in capsys.readouterr().err
    assert evaluate.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "│ lddt " in line)
    assert "-0." in line
    assert (tmp_path / "b" / "examples.csv").read_text().count("\n") == 4


def test_what_cannot_be_scored_is_told_and_the_rest_goes_on(truths, tmp_path, capsys):
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "5pti.cif").write_bytes((truths / "noisy" / "5pti.cif").read_bytes())
    (folder / "1lcd.cif").write_text("data_torn\nloop_\n")
    (folder / "9zzz.cif").write_bytes((truths / "noisy" / "5pti.cif").read_bytes())
    (folder / "1gbt.cif").write_bytes((truths / "noisy" / "5pti.cif").read_bytes())
    assert evaluate.main([str(folder), f"--truth={truths / 'true'}", f"--out={tmp_path / 'o'}"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "has no file 9zzz.cif" in said
    assert "no chain of the prediction has the sequence of one of 1gbt" in said
    assert read_table(tmp_path / "o" / "examples.parquet")["target"].to_pylist() == ["5pti"]
    assert len(json.loads((tmp_path / "o" / "summary.json").read_text())["failed"]) == 3


def test_a_checkpoint_against_a_store(untrained, tmp_path):
    arguments = [
        f"--checkpoint={untrained}", f"--truth={store_path()}", f"--out={tmp_path}", "--entries", "1as5",
        "--samples=2", "--cycles=1", "--steps=2", "--device=cpu", "--kernels=reference",
    ]  # fmt: skip
    assert evaluate.main(arguments) == 0
    rows = read_table(tmp_path / "examples.parquet").to_pylist()
    assert [row["sample"] for row in rows] == [0, 1]
    for row in rows:
        assert 0 <= row["lddt"] < 0.5
        assert row["plddt_calibration_error"] > 0
        assert row["pae_calibration_error"] > 0


def test_arguments_that_do_not_fit(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == 1
    assert "expected both" in capsys.readouterr().err
    assert evaluate.main([f"--truth={tmp_path}", f"--out={tmp_path}", str(tmp_path)]) == 1
    assert "neither a store nor a folder" in capsys.readouterr().err
