# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from foldwright.data.reference import (
    augment,
    ligand_frames,
    place_conformers,
    polymer_frames,
    random_rotations,
)
from foldwright.data.structure import Component
from foldwright.vocabulary import RESIDUE_ATOMS, RESTYPE_INDEX


def component(code: str, n_atoms: int, n_conformers: int, missing: int = 0) -> Component:
    """Coordinates that name their place: conformer, atom, axis."""
    c, a, x = np.meshgrid(np.arange(n_conformers), np.arange(n_atoms), np.arange(3), indexing="ij")
    return Component(
        code=code,
        atom_name=np.array([f"X{i}" for i in range(n_atoms)]),
        atom_element=np.full(n_atoms, 6, np.uint8),
        atom_charge=np.zeros(n_atoms, np.int8),
        atom_leaving=np.zeros(n_atoms, np.bool_),
        bonds=np.zeros((0, 2), np.int32),
        bond_order=np.zeros(0, np.uint8),
        conformers=(ord(code) * 1000 + c * 100 + a * 10 + x).astype(np.float32),
        conformer_mask=np.arange(n_atoms) >= missing,
        conformer_source="etkdg",
        automorphisms=np.arange(n_atoms, dtype=np.int32)[None],
    )


def test_each_residue_takes_one_conformer_of_its_component():
    components = {"P": component("P", 4, 3), "Q": component("Q", 2, 5, missing=1)}
    codes = np.array(["Q", "P", "P", "Q"])
    residue = np.array([0, 0, 1, 1, 1, 2, 3], np.int32)
    reference = np.array([0, 1, 0, 2, 3, -1, 1], np.int32)
    drawn = set()
    for seed in range(60):
        xyz, mask = place_conformers(codes, residue, reference, components, np.random.default_rng(seed))
        assert mask.tolist() == [False, True, True, True, True, False, True]
        assert (xyz[~mask] == 0).all()
        base = [ord(codes[r]) * 1000 for r in residue]
        conformer = ((xyz[:, 0] - base - 10 * reference) / 100)[mask].astype(int)
        assert conformer[1] == conformer[2] == conformer[3]  # one residue, one conformer
        assert (xyz[mask][:, 2] - xyz[mask][:, 0] == 2).all()
        drawn.add((int(conformer[0]), int(conformer[1])))
    assert {q for q, _ in drawn} == set(range(5))
    assert {p for _, p in drawn} == set(range(3))


def test_augmentation_moves_each_residue_rigidly():
    rng = np.random.default_rng(0)
    xyz = (rng.normal(size=(300, 3)) * 5 + 100).astype(np.float32)
    residue = np.repeat(np.arange(60, dtype=np.int32), 5)
    mask = rng.random(300) < 0.8
    moved = augment(xyz, mask, residue, 60, rng)
    assert (moved[~mask] == 0).all()
    means = []
    for r in range(60):
        mine = (residue == r) & mask
        before = np.linalg.norm(xyz[mine][:, None] - xyz[mine][None], axis=-1)
        after = np.linalg.norm(moved[mine][:, None] - moved[mine][None], axis=-1)
        np.testing.assert_allclose(after, before, atol=1e-4)
        means.append(moved[mine].mean(0))
    assert np.std(means) == pytest.approx(1.0, abs=0.25)  # N(0, 1) translations of 180 numbers
    assert abs(np.mean(means)) < 0.3


def test_rotations_are_proper_and_uniform():
    rotations = random_rotations(4000, np.random.default_rng(1))
    products = rotations @ rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(products - np.eye(3), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    np.testing.assert_allclose(rotations.mean(0), 0, atol=0.05)
    # the mean of the squared trace of a uniform rotation is 1
    assert np.mean(np.trace(rotations, axis1=1, axis2=2) ** 2) == pytest.approx(1, abs=0.1)


def test_polymer_frames_are_found_by_slot():
    names = [
        "ALA",
        "G",
        "ALA",
    ]  # the G has no OP3, so its atoms are not at their slots; the last ALA has no C
    slots = [list(range(5)), list(range(1, 24)), [0, 1, 3]]
    restype = np.array([RESTYPE_INDEX[name] for name in names], np.uint8)
    token = np.repeat(np.arange(3, dtype=np.int32), [len(s) for s in slots])
    slot = np.concatenate(slots).astype(np.uint8)
    frames, valid = polymer_frames(restype, np.zeros(3, np.bool_), token, slot)
    assert valid.tolist() == [True, True, False]
    assert frames[0].tolist() == [0, 1, 2]
    atoms_of_g = RESIDUE_ATOMS["G"][1:]
    assert frames[1].tolist() == [5 + atoms_of_g.index(name) for name in ("C1'", "C3'", "C4'")]
    assert frames[2].tolist() == [28, 28, 28]
    assert not polymer_frames(restype, np.ones(3, np.bool_), token, slot)[1].any()


def bent(angle: float) -> np.ndarray:
    """Atoms a, b, c with b at the origin, |ab| = 1, |bc| = 1.1, the given angle (degrees) between."""
    radians = np.radians(angle)
    return np.array([[1, 0, 0], [0, 0, 0], [1.1 * np.cos(radians), 1.1 * np.sin(radians), 0]], np.float32)


@pytest.mark.parametrize(
    ("angle", "expected"), [(90, True), (150, True), (154, True), (156, False), (180, False)]
)
def test_ligand_frames_need_an_angle(angle, expected):
    frames, valid = ligand_frames(bent(angle), np.ones(3, np.bool_))
    assert frames[1].tolist() == [0, 1, 2]
    assert valid[1] == expected


def test_small_masked_and_positionless_ligands_have_no_frames():
    everything = np.ones(3, np.bool_)
    assert not ligand_frames(bent(90)[:2], everything[:2])[1].any()
    assert not ligand_frames(np.zeros((3, 3), np.float32), everything)[1].any()
    assert not ligand_frames(bent(90), np.array([True, True, False]))[1].any()


def test_ligand_frames_are_the_nearest_atoms():
    rng = np.random.default_rng(3)
    xyz = rng.normal(size=(12, 3)).astype(np.float32) * 2
    frames, _ = ligand_frames(xyz, np.ones(12, np.bool_))
    for b in range(12):
        order = np.argsort([np.linalg.norm(xyz[b] - other) for other in xyz])
        assert frames[b].tolist() == [order[1], b, order[2]]
