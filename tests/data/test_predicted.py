# SPDX-License-Identifier: Apache-2.0
"""Predictions as a data set: AlphaFold DB's files and our own, their pLDDT kept, filtered by, and heeded."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.datasets import DatasetConfig, Limits, Sampling, Supervision
from foldwright.data.prepare import main
from foldwright.data.sampler import SampleRequest
from foldwright.data.store import Store
from foldwright.data.write_mmcif import write_structure
from foldwright.vocabulary import MoleculeType

AFDB = Path(__file__).parents[3] / "shared" / "data" / "afdb"
REQUEST = SampleRequest(0, n_cycles=1, crop_tokens=24, crop_atoms=256, msa_rows=2)


def prepare(structures: Path, out: Path, *extra: str) -> int:
    arguments = ["--structures", structures, "--out", out, "--workers", 1, "--n-conformers", 1, *extra]
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def own(store_path, tmp_path_factory):
    """Our own prediction of a dimer with a ligand: pLDDT 20 + 2 a residue, two atoms off the mean."""
    folder = tmp_path_factory.mktemp("own")
    structure = Store(store_path).entry("dimr").structure
    rng = np.random.default_rng(0)
    middle = np.array([3.8 * 12, 0, 0])  # of chain A's last residue, which the dimer does not show
    coords = np.tile(middle, (len(structure.atom_name), 1))
    for residue in range(len(structure.residue_chain)):
        mine = structure.atom_residue == residue
        if (seen := mine & structure.atom_resolved).any():
            coords[mine] = structure.atom_coords[seen].mean(axis=0)
    coords += rng.uniform(-0.5, 0.5, coords.shape)
    coords = np.where(structure.atom_resolved[:, None], structure.atom_coords, coords).astype(np.float32)
    plddt = 20.0 + 2.0 * np.arange(len(structure.residue_chain), dtype=np.float32)
    b_factors = plddt[structure.atom_residue]
    b_factors[0], b_factors[1] = b_factors[0] - 3, b_factors[1] + 3
    (folder / "mmcif").mkdir()
    write_structure(structure, coords, folder / "mmcif" / "mine.cif", b_factors=b_factors)
    assert prepare(folder / "mmcif", folder / "store", "--predicted") == 0
    return folder, structure, plddt


def test_our_own_prediction_comes_back_with_its_plddt(own):
    folder, structure, plddt = own
    store = Store(folder / "store")
    back = store.entry("mine").structure
    assert back.atom_resolved.all()
    assert back.chain_name.tolist() == structure.chain_name.tolist()
    assert back.residue_component.tolist() == structure.residue_component.tolist()
    assert np.array_equal(store.plddt("mine"), plddt)
    (mean,) = store.manifest()["mean_plddt"].to_pylist()
    assert mean == pytest.approx(plddt[structure.atom_residue].mean())


def test_doubtful_residues_of_a_prediction_are_not_supervised(own):
    folder, _, plddt = own

    def example(least: float):
        sets = {"own": DatasetConfig(min_residue_plddt=least, losses=Supervision(confidence=False))}
        dataset = StoreDataset(DataConfig(str(folder / "store"), sets, n_templates=0), 0)
        return dataset[REQUEST._replace(crop_tokens=99, crop_atoms=992)]

    every, some = example(0.0), example(50.0)
    assert every.atom_resolved.all()
    assert not some.supervises_confidence
    residue = some.ref_space_uid.long().numpy()
    assert np.array_equal(some.atom_resolved.numpy(), plddt[residue] >= 50)
    assert int(some.truth_resolved.sum()) == int(some.atom_resolved.sum())


def test_the_mean_filters_entries(own):
    folder, structure, plddt = own
    mean = plddt[structure.atom_residue].mean()
    for least, fits in ((mean - 1, True), (mean + 1, False)):
        sets = {"own": DatasetConfig(limits=Limits(min_plddt=float(least)), sampling=Sampling.uniform)}
        config = DataConfig(str(folder / "store"), sets, n_templates=0)
        if fits:
            assert StoreDataset(config, 0)[REQUEST].check().sizes()["N"] <= 24
        else:
            with pytest.raises(ValueError, match=r"data.datasets.own.limits"):
                StoreDataset(config, 0)


def test_experimental_b_factors_are_not_taken_for_confidence(store_path, tmp_path, capsys):
    structure = Store(store_path).entry("dimr").structure
    for name, value in (("high", 140.0), ("none", 0.0), ("fraction", 0.9)):
        (tmp_path / name).mkdir()
        b_factors = np.full(len(structure.atom_name), value, np.float32)
        path = tmp_path / name / f"{name}.cif"
        write_structure(
            structure, structure.atom_coords, path, b_factors=b_factors, mask=structure.atom_resolved
        )
        assert prepare(tmp_path / name, tmp_path / "out", "--predicted") == 1
        assert "no_plddt" in capsys.readouterr().err
    assert Store(store_path).plddt("dimr") is None


@pytest.mark.corpus
@pytest.mark.skipif(not AFDB.is_dir(), reason="needs ../shared/data/afdb")
def test_alphafold_db_files_are_a_data_set(tmp_path):
    """Residues and means are those of gemmi's reading and of the files' own global metric."""
    assert prepare(AFDB, tmp_path / "store", "--predicted") == 0
    store = Store(tmp_path / "store")
    manifest = store.manifest()
    files = sorted(AFDB.glob("*.cif.gz"))
    assert len(manifest) == len(files) == 15
    means = dict(zip(manifest["entry"].to_pylist(), manifest["mean_plddt"].to_pylist(), strict=True))
    for path in files:
        name = path.name.removesuffix(".cif.gz")
        block = gemmi.cif.read(str(path)).sole_block()
        said = float(block.find_value("_ma_qa_metric_global.metric_value"))
        assert means[name] == pytest.approx(said, abs=0.006)
        rows = block.find("_ma_qa_metric_local.", ["label_seq_id", "metric_value"])
        local = np.array([float(row[1]) for row in rows])
        assert np.abs(store.plddt(name) - local).max() <= 0.51
        assert set(store.entry(name).structure.chain_type.tolist()) == {MoleculeType.PROTEIN}
    sets = {
        "afdb": DatasetConfig(
            limits=Limits(min_plddt=90.0), min_residue_plddt=70.0, sampling=Sampling.uniform,
            losses=Supervision(confidence=False),
        )
    }  # fmt: skip
    dataset = StoreDataset(DataConfig(str(store.path), sets, n_templates=0), 0)
    drawn = {dataset.parts["afdb"].sampler.draw(n).entry for n in range(300)}
    assert drawn == {name for name, mean in means.items() if mean >= 90}
    for n in range(5):
        example = dataset[REQUEST._replace(n=n)].check()
        assert not example.supervises_confidence
        assert example.resolution == 0
