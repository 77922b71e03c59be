# SPDX-License-Identifier: Apache-2.0
import matplotlib.image
import numpy as np
import pytest

from foldwright.batch import SCHEMA
from foldwright.data.crop import Budget
from foldwright.data.dataset import build_full
from foldwright.data.inspect import coverage, draw_crop, main, open_entry


def test_an_entry_is_shown_and_drawn(store_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["dimr", "--store", str(store_path), "--out", str(tmp_path), "--tokens", "20"]) == 0
    shown = capsys.readouterr().out
    assert "4 chains, 26 residues, 34 tokens" in shown
    assert all(name in shown for name in SCHEMA)
    assert "GLY ALA SER VAL LEU ALA ..." in shown
    for name in ("crop", "msa"):
        picture = matplotlib.image.imread(tmp_path / f"dimr_{name}.png")
        assert picture.shape[0] > 300
        assert picture[..., :3].std() > 0.05  # not blank


def test_coverage_counts_rows_without_gaps(store_path):
    """Of the four distinct rows, one has a gap at residue 1, one at residues 4 and 5; ligands have none."""
    store, entry = open_entry(store_path, "dimr")
    batch = build_full(entry, store, 1, 64, 0, 0, 0)
    expected = [3, 4, 4, 3, 3, *[4] * 7]
    assert coverage(batch).tolist() == expected * 2 + [0] * 10


def test_the_crop_is_within_its_budget_and_centred_on_the_chain(store_path):
    _, entry = open_entry(store_path, "dimr")
    for seed in range(5):
        kept = draw_crop(entry, Budget(10, 1000), np.array([1], np.int32), seed)
        assert 0 < len(kept) <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "got entry 'nope', expected one of the store .*, such as dimr, modr"),
        (["dimr", "--chain", "Q"], "--chain: got 'Q', expected one of A, B, C, D"),
        (["dimr", "--tokens", "0"], "got a crop of 0 tokens"),
    ],
)
def test_wrong_arguments_are_explained(store_path, tmp_path, arguments, message, capsys):
    import re

    assert main([*arguments, "--store", str(store_path), "--out", str(tmp_path)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
