# SPDX-License-Identifier: Apache-2.0
"""The gap between crops and whole targets: none where there is none, and found where it was put."""

import numpy as np
import pytest

from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.tables import read_table
from foldwright.inference import crop_gap, report
from foldwright.inference.evaluate import stored_target
from foldwright.inference.sampling import SamplingConfig, target_batch
from foldwright.inference.stitching import windows

FAST = ["--cycles=1", "--steps=2", "--msa-rows=4", "--kernels=reference", "--device=cpu"]
SIZE, OVERLAP = 48, 16


@pytest.fixture(scope="module")
def target():
    return stored_target(Store(store_path()), "1gbt")


def oracle(target, spoil):
    """Predicts the truth but for noise on all but token centres, by which crops are laid on each other:
    `spoil(kept tokens, atoms' places among them)` is its size in Å.
    """
    centres = target.entry.tokens.token_centre
    rng = np.random.default_rng(0)
    sampling = SamplingConfig(1, cycles=1, msa_rows=4)

    def predict(kept):
        batch = target_batch(target, sampling, 0, kept)
        atoms = np.flatnonzero(np.isin(target.entry.tokens.atom_token, kept))
        x = target.structure.atom_coords[atoms]
        place = np.searchsorted(kept, target.entry.tokens.atom_token[atoms])
        noise = rng.normal(size=(2, *x.shape)) * (spoil(kept, place) * ~np.isin(atoms, centres))[:, None]
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.sign(np.linalg.det(rotation))
        return batch, ((x + noise) @ rotation + 20).astype(np.float32)

    return predict


def test_the_truth_has_no_gap(target):
    found = crop_gap.measure(target, oracle(target, lambda kept, place: np.zeros(len(place))), SIZE, OVERLAP)
    n_crops = len(windows(target.entry.tokens.token_residue, SIZE, OVERLAP))
    assert [(row["target"], row["sample"], row["crops"]) for row in found.samples] == [
        ("1gbt", 0, n_crops), ("1gbt", 1, n_crops)
    ]  # fmt: skip
    for row in found.samples:
        for mode in crop_gap.MODES:
            assert row[f"lddt_{mode}"] == pytest.approx(1, abs=1e-6), mode
            assert row[f"rmsd_{mode}"] == pytest.approx(0, abs=2e-3), mode
    assert {row["distance"] for row in found.edges} == set(range(SIZE))
    assert all(row["lddt_crops"] == pytest.approx(1, abs=1e-6) for row in found.edges)


def test_errors_at_the_cut_are_found_there(target):
    """Noise of 3 Å on the four tokens before a cut, none on whole targets."""
    n = len(target.entry.tokens.token_residue)

    def spoil(kept, place):
        return 3.0 * (place >= len(kept) - 4) * (kept[-1] < n - 1)

    row, _ = (found := crop_gap.measure(target, oracle(target, spoil), SIZE, OVERLAP)).samples
    assert row["lddt_whole"] == row["lddt_whole_on_crops"] == pytest.approx(1)
    assert row["lddt_crops"] < 0.95
    assert row["lddt_crops"] < row["lddt_stitched"] < 1  # the neighbour has the same tokens in its middle
    near = [row["lddt_crops"] for row in found.edges if row["distance"] < 4]
    far = [row["lddt_crops"] for row in found.edges if row["distance"] > 30]
    assert max(near) < min(far) - 0.1
    assert all(row["lddt_whole_on_crops"] == pytest.approx(1) for row in found.edges)


def test_the_command_and_its_figure_in_a_report(untrained, tmp_path, capsys):
    arguments = [f"--checkpoint={untrained}", f"--truth={store_path()}", f"--out={tmp_path / 'gap'}", *FAST]
    assert crop_gap.main([*arguments, "--entries", "1as5", "1lcd", "--crop-tokens=48", "--overlap=12"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "LDDT of 1 targets larger than 48 tokens" in said
    assert "whole on crops - crops" in said
    (row,) = read_table(tmp_path / "gap" / "targets.parquet").to_pylist()
    assert (row["target"], row["n_tokens"], row["crops"]) == ("1lcd", 74, 2)
    assert all(0 <= row[f"lddt_{mode}"] < 0.5 for mode in crop_gap.MODES)
    edges = read_table(tmp_path / "gap" / "edges.parquet")
    assert edges["distance"].to_pylist() == sorted(edges["distance"].to_pylist())
    assert report.main([f"--out={tmp_path / 'r.html'}", f"--crop-gap={tmp_path / 'gap'}"]) == 0
    assert "<h2>Crops and whole targets</h2>" in (tmp_path / "r.html").read_text()
    capsys.readouterr()
    assert report.main([f"--out={tmp_path / 'r.html'}", f"--crop-gap={tmp_path}"]) == 1
    assert "expected a folder that crop_gap.py wrote" in capsys.readouterr().err
    assert crop_gap.main([*arguments, "--entries", "1as5", "--crop-tokens=48"]) == 1
    assert "got no target of more than 48 tokens" in capsys.readouterr().err
