# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from foldwright.data.dataset import DataConfig, StoreDataset
from foldwright.data.features import MsaConfig, build_example, encode_names
from foldwright.data.prepare import main
from foldwright.data.store import Store
from foldwright.vocabulary import (
    ATOMIC_NUMBER,
    GAP,
    RESIDUE_ATOMS,
    RESTYPE_INDEX,
    MoleculeType,
    encode_atom_name,
)

SEQUENCE = ["GLY", "ALA", "SER", "VAL", "LEU", "ALA", "GLY", "SER", "THR", "ALA", "VAL", "LEU"]


@pytest.fixture(scope="module")
def store(store_path):
    return Store(store_path)


def build(store, entry, kept=None, seed=0, n_cycles=2, n_templates=1, rows=8):
    stored = store.entry(entry)
    everything = np.arange(len(stored.tokens.token_residue))
    return build_example(
        stored,
        store.components,
        store.msas(entry, stored.msa_entities.tolist()),
        everything if kept is None else kept,
        msa_config=MsaConfig(rows, random_depth=False),
        n_templates=n_templates,
        n_cycles=n_cycles,
        sample_number=7,
        msa_rng=np.random.default_rng(seed),
        conformer_rng=np.random.default_rng(seed + 1),
    )


def test_tokens_and_atoms_of_a_dimer_with_ligands(store):
    batch = build(store, "dimr").check()
    per_chain = sum(len(RESIDUE_ATOMS[name]) for name in SEQUENCE) + 1  # OXT at the end
    exchange = {
        "G": 4,
        "F": batch.atom_mask.shape[0],
        "V": 4,
        "Y": 4 * 6,
    }  # BEN: ring and amidine, 6 atoms move
    assert batch.sizes() == {"N": 34, "A": 2 * per_chain + 10, "R": 2, "M": 4, "T": 1, "K": 0} | exchange
    assert batch.asym_id.tolist() == [0] * 12 + [1] * 12 + [2] * 9 + [3]
    assert batch.entity_id.tolist() == [0] * 24 + [1] * 9 + [2]
    assert batch.sym_id.tolist() == [0] * 12 + [1] * 12 + [0] * 10
    assert batch.residue_index.tolist() == [*range(1, 13), *range(1, 13)] + [1] * 10
    assert batch.token_index.tolist() == list(range(34))
    expected = [RESTYPE_INDEX[name] for name in SEQUENCE] * 2 + [RESTYPE_INDEX["UNK"]] * 10
    assert batch.restype.tolist() == expected
    assert batch.is_atomised.tolist() == [False] * 24 + [True] * 10
    assert batch.molecule_type.tolist() == [MoleculeType.PROTEIN] * 24 + [MoleculeType.LIGAND] * 10
    assert batch.ref_element[-1] == ATOMIC_NUMBER["ZN"]
    assert batch.resolution == pytest.approx(1.8)
    assert batch.sample_number == 7


def test_labels_are_the_files_coordinates(store, writer_of):
    """Atom by atom against the numbers that were written into the file."""
    batch, entry = build(store, "dimr"), store.entry("dimr")
    written = writer_of["dimr"]().coords
    structure = entry.structure
    seen = set()
    for atom, (residue, name) in enumerate(zip(structure.atom_residue, structure.atom_name, strict=True)):
        chain = str(structure.chain_name[structure.residue_chain[residue]])
        key = (chain, int(structure.residue_index[residue]), str(name))
        assert bool(batch.atom_resolved[atom]) == (key in written)
        expected = written.get(key, (0, 0, 0))
        np.testing.assert_allclose(batch.atom_coords[atom], expected, atol=2e-3)
        seen.add(key)
    assert set(written) <= seen


def test_special_atoms_and_frames(store):
    batch, names = build(store, "dimr"), store.entry("dimr").structure.atom_name
    assert names[batch.centre_atom[:24]].tolist() == ["CA"] * 24
    beta = ["CA" if name == "GLY" else "CB" for name in SEQUENCE] * 2
    assert names[batch.representative_atom[:24]].tolist() == beta
    assert batch.has_frame[:24].all()
    assert names[batch.frame_atoms[:24]].tolist() == [["N", "CA", "C"]] * 24
    ligand = batch.frame_atoms[24:33]
    assert (ligand[:, 1] == batch.centre_atom[24:33]).all()
    assert not batch.has_frame[33]  # an ion
    assert batch.has_frame[24:33].any()
    tokens = batch.atom_to_token[batch.frame_atoms.long()]
    assert (batch.asym_id[tokens.long()] == batch.asym_id[:, None]).all()


def test_ligand_bonds_are_benzamidines(store):
    """Nine bonds of BEN: the ring's six, C1-C, C-N1, C-N2; nothing else in the entry is bonded by tokens."""
    bonds = build(store, "dimr").token_bonds
    assert torch.equal(bonds, bonds.T)
    assert bonds.sum() == 18
    assert bonds[24:33, 24:33].sum() == 18


def test_reference_conformers_keep_the_components_distances(store):
    batch, entry = build(store, "dimr"), store.entry("dimr")
    conformers = store.component("BEN").conformers
    own = batch.ref_space_uid == entry.tokens.token_residue[24]
    reference = batch.ref_pos[own]
    distances = [np.linalg.norm(c[:, None] - c[None], axis=-1) for c in conformers]
    mine = torch.cdist(reference, reference).numpy()
    assert min(np.abs(mine - d).max() for d in distances) < 1e-4
    assert len(np.unique(batch.ref_space_uid)) == 12 + 12 + 2
    for uid in np.unique(batch.ref_space_uid):
        rows = batch.ref_space_uid == int(uid)
        assert len(np.unique(batch.asym_id[batch.atom_to_token[rows].long()])) == 1


def test_copies_share_the_alignment_and_ligands_see_gaps(store):
    batch = build(store, "dimr")
    msa = batch.msa.numpy()
    np.testing.assert_array_equal(msa[:, :, :12], msa[:, :, 12:24])
    assert (msa[:, :, 24:] == GAP).all()
    assert (msa[:, 0, :24] == batch.restype[:24].numpy()).all()
    assert (batch.profile[24:, GAP] == 1).all()
    np.testing.assert_allclose(batch.profile.sum(-1), 1, rtol=1e-6)
    # four different rows; one has a gap for the GLY, one ILE for the last LEU
    assert batch.profile[0, GAP] == pytest.approx(0.25)
    assert batch.profile[11, RESTYPE_INDEX["ILE"]] == pytest.approx(0.25)
    assert batch.profile[3, GAP] == pytest.approx(0.25)
    assert batch.deletion_mean[4] == pytest.approx(0.5)  # "kk" before the L of one row
    assert batch.deletion_count[0, :, 4].max() == 2


def test_a_modified_residue_is_atomised_and_keeps_its_parents_column(store):
    batch, entry = build(store, "modr").check(), store.entry("modr")
    n_sep = int(batch.is_atomised.sum())
    assert n_sep == 10  # N CA CB OG C O P O1P O2P O3P, OXT having left
    assert batch.restype.tolist()[1 : 1 + n_sep] == [RESTYPE_INDEX["SER"]] * n_sep
    assert batch.residue_index.tolist() == [1] + [2] * n_sep + [3, 4, 5, 6]
    assert (batch.msa[:, :, 1 : 1 + n_sep] == RESTYPE_INDEX["SER"]).all()
    assert batch.molecule_type.unique().tolist() == [MoleculeType.PROTEIN]
    names = entry.structure.atom_name[batch.centre_atom.numpy()]
    bonds = {(a, b) for a, b in batch.token_bonds.nonzero().tolist() if a < b}
    at = {str(name): token for token, name in enumerate(names) if 1 <= token <= n_sep}
    assert {(0, at["N"]), (at["C"], n_sep + 1)} <= bonds  # peptide links to its neighbours
    assert len(bonds) == 9 + 2


def test_a_crop_selects_and_keeps_the_original_numbers(store):
    whole = build(store, "dimr")
    kept = np.array([2, 3, 9, 13, 14, *range(24, 33)])
    part = build(store, "dimr", kept).check()
    for name in ("residue_index", "token_index", "asym_id", "entity_id", "sym_id", "restype", "profile"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[kept]), name
    assert torch.equal(part.token_bonds, whole.token_bonds[kept][:, kept])
    rows = torch.isin(whole.atom_to_token, torch.tensor(kept))
    of_atoms = "atom_coords atom_resolved ref_element ref_charge atom_slot ref_atom_name_chars ref_space_uid"
    for name in of_atoms.split():
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows]), name
    for name in ("centre_atom", "representative_atom", "frame_atoms"):
        old = whole.atom_coords[getattr(whole, name)[kept].long()]
        assert torch.equal(part.atom_coords[getattr(part, name).long()], old), name


def test_a_bond_between_polymer_and_ligand(tmp_path, writer_of):
    """ALA 6's CB is bonded to the benzamidine's C3, 1.5 Å away; a crop without C3 has no bond."""
    writer = writer_of["new"]("link").protein("A", SEQUENCE, 0.0).ligand("B", "BEN", (22.453, -4.37, -1.2))
    writer.bond("A 6 6 ALA CB", "B . 1 BEN C3").write(tmp_path / "mmcif")
    arguments = ["--structures", tmp_path / "mmcif", "--out", tmp_path / "store", "--workers", 1]
    assert main([str(argument) for argument in arguments]) == 0
    store = Store(tmp_path / "store")
    batch = build(store, "link").check()
    names = store.entry("link").structure.atom_name
    assert [names[atom] for atom in batch.bond_atoms[0]] == ["CB", "C3"]
    pair = batch.atom_coords[batch.bond_atoms[0].long()]
    assert torch.linalg.norm(pair[0] - pair[1]) == pytest.approx(1.5, abs=0.01)
    a, b = batch.atom_to_token[batch.bond_atoms[0].long()].tolist()
    assert (a, batch.bond_mask.tolist()) == (5, [True])
    assert batch.token_bonds[a, b]
    assert batch.token_bonds.sum() == 2 * (9 + 1)
    assert build(store, "link", np.arange(12)).sizes()["K"] == 0


def test_names_are_encoded_as_the_vocabulary_does():
    names = np.array(["CA", "OP1", "C5'", "h12a", "ZN", ""])
    assert encode_names(names).tolist() == [list(encode_atom_name(str(name))) for name in names]


def test_templates_may_be_none(store):
    assert build(store, "dimr", n_templates=0).check().sizes()["T"] == 0


def test_full_examples_have_all_tokens_and_the_deepest_alignment(store_path):
    dataset = StoreDataset(DataConfig(root=str(store_path), n_templates=0), seed=0)
    example = dataset.full_example("dimr", n_cycles=3, msa_rows=100)
    assert example.batch.check().sizes()["N"] == len(example.tokens.token_residue) == 34
    assert example.batch.sizes()["M"] == 4
    assert example.structure.entry_id == "dimr"
