# SPDX-License-Identifier: Apache-2.0
"""The look at the result: what is sampled, what is written, what is said."""

import gemmi
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.sample import store_path
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.model import AlphaFold3
from foldwright.permutation import truth_of_copies
from foldwright.training import prediction, summary


@pytest.fixture(scope="module")
def dataset():
    return StoreDataset(DataConfig(root=str(store_path()), n_templates=1), seed=0)


class Oracle(torch.nn.Module):
    """Stands for a perfect network: its sample is the truth, moved rigidly."""

    def sample(self, batch, n_samples, config, seed):
        turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        return (batch.atom_coords @ turn + 5.0)[:, None].expand(-1, n_samples, -1, -1)


def predict(network, dataset, entry):
    return prediction.predict(
        network,
        dataset,
        entry,
        SamplerConfig(steps=2),
        n_samples=1,
        n_cycles=1,
        msa_rows=4,
        seed=0,
        device=torch.device("cpu"),
    )


def test_the_truth_scores_one_and_is_written_as_predicted(dataset, tmp_path):
    predicted = predict(Oracle(), dataset, "1ubi")
    assert predicted.lddt == pytest.approx([1.0])
    rows = [{"step": float(step), "loss": 8.0 / step, "distogram": 4.0} for step in range(1, 41)]
    summary.write(predicted, rows, tmp_path)
    chain = gemmi.read_structure(str(tmp_path / "prediction.cif"))[0][0]
    written = np.array([atom.pos.tolist() for residue in chain for atom in residue])
    np.testing.assert_allclose(written, predicted.coords[0], atol=2e-3)
    for name in ("loss.png", "distances.png"):
        assert imread(tmp_path / name).std() > 0.01, "a blank figure"


def test_an_untrained_network_scores_low(dataset, miniature, ops):
    predicted = predict(AlphaFold3(miniature, ops), dataset, "1as5")
    assert predicted.coords.shape == (1, len(predicted.structure.atom_name), 3)
    assert np.isfinite(predicted.coords).all()
    assert predicted.lddt[0] < 0.3


def test_the_last_lines_say_where_everything_lies(dataset, tmp_path):
    predicted = predict(Oracle(), dataset, "1as5")
    rows = [{"step": float(step), "loss": float(step)} for step in range(1, 41)]
    said = "\n".join(summary.lines(predicted, rows, tmp_path, tmp_path / "step-00000040"))
    for part in ("2.500 (mean of steps 1-4)", "38.50 (mean of steps 37-40)", "LDDT 1.000", "step-00000040"):
        assert part in said


def test_the_smallest_entry_is_the_default(dataset):
    assert summary.choose_entry(dataset, None) == "1as5"
    with pytest.raises(ValueError, match="got '9xyz'"):
        summary.choose_entry(dataset, "9xyz")


def test_exchanged_chains_of_a_homodimer_are_as_good(dataset):
    """A sample with the two copies' coordinates exchanged is the same structure: LDDT 1."""

    class Exchanging(Oracle):
        def sample(self, batch, n_samples, config, seed):
            other = batch.molecule_copy.clone().long()
            other[:, :2] = 1 - other[:, :2]
            exchanged, resolved = truth_of_copies(batch, other)
            both = (resolved & batch.atom_resolved)[..., None]
            assert not torch.equal(exchanged, batch.atom_coords)
            return torch.where(both, exchanged, batch.atom_coords)[:, None].expand(-1, n_samples, -1, -1)

    assert predict(Exchanging(), dataset, "1a7g").lddt[0] > 0.98
