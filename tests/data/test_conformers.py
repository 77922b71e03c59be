# SPDX-License-Identifier: Apache-2.0
"""Reference conformers: geometry against the dictionary's, determinism, and every fallback."""

import time
from dataclasses import replace

import numpy as np
import pytest
from handmade import dictionary

from foldwright.data.ccd import Dictionary
from foldwright.data.conformers import build_molecule, make_component


def bond_lengths(coords, bonds):
    return np.linalg.norm(coords[bonds[:, 0]] - coords[bonds[:, 1]], axis=-1)


@pytest.mark.parametrize("code", ["ALA", "TRP", "G", "DT", "SEP", "NAG", "HEM", "ATP", "1MA"])
def test_bonds_are_as_long_as_the_ideal_ones(code):
    component = make_component(code, dictionary(), seed=1, n_conformers=2)
    ideal = dictionary()[code].ideal
    assert component.conformer_source == "etkdg"
    assert component.conformers.shape == (2, len(component.atom_name), 3)
    assert component.conformer_mask.all()
    for coords in component.conformers:
        difference = bond_lengths(coords, component.bonds) - bond_lengths(ideal, component.bonds)
        to_metal = (component.atom_element[component.bonds] == 26).any(axis=1)
        assert np.abs(difference[~to_metal]).max() < 0.15
        assert np.abs(difference).max() < 0.5  # ETKDG has no parameters for Fe-N
        assert np.median(np.abs(difference)) < 0.05


@pytest.mark.parametrize("code", ["ALA", "TRP", "THR", "NAG"])
def test_chirality_is_the_dictionarys(code):
    """Signed volumes of all four-neighbour atoms have the ideal coordinates' sign."""
    whole = dictionary().with_hydrogens(code)
    component = make_component(code, dictionary(), seed=3, n_conformers=3)
    heavy = dictionary()[code]
    place = {name: i for i, name in enumerate(heavy.atom_name.tolist())}
    assert whole.atom_name.tolist()[: len(place)] != []
    for atom in range(len(place)):
        around = sorted(
            {*heavy.bonds[heavy.bonds[:, 0] == atom, 1], *heavy.bonds[heavy.bonds[:, 1] == atom, 0]}
        )
        if len(around) < 3 or heavy.atom_element[atom] != 6:
            continue
        ideal = np.linalg.det(heavy.ideal[around[:3]] - heavy.ideal[atom])
        if abs(ideal) > 1.0:  # not planar
            for coords in component.conformers:
                assert np.sign(np.linalg.det(coords[around[:3]] - coords[atom])) == np.sign(ideal)


def test_deterministic_in_the_seed():
    first, same, other = (make_component("LYS", dictionary(), seed=s, n_conformers=2) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.conformers, same.conformers)
    assert np.abs(first.conformers - other.conformers).max() > 0.1


def test_aromatic_orders_and_charges():
    component = make_component("PHE", dictionary(), n_conformers=1)
    assert (component.bond_order == 4).sum() == 6
    assert component.atom_charge.sum() == 0
    assert make_component("MG", dictionary()).atom_charge.tolist() == [2]


def test_no_embedding_falls_back_to_ideal():
    component = make_component("ASX", dictionary(), timeout=2)  # two atoms of unknown element
    assert component.conformer_source == "ideal"
    assert component.conformers.shape == (1, len(component.atom_name), 3)


def own(code, **changes):
    """A dictionary of one entry that cannot be embedded: one bond is given an impossible valence."""
    whole = dictionary().with_hydrogens(code)
    broken = replace(whole, bond_order=np.full_like(whole.bond_order, 3), **changes)
    return Dictionary(None, {code: broken})


def test_fallback_order():
    whole = dictionary().with_hydrogens("BEN")
    missing = np.full_like(whole.ideal, np.nan)
    assert build_molecule(own("BEN").with_hydrogens("BEN")) is None
    ideal = make_component("BEN", own("BEN"))
    assert ideal.conformer_source == "ideal"
    np.testing.assert_array_equal(ideal.conformers[0], dictionary()["BEN"].ideal)
    model = make_component("BEN", own("BEN", ideal=missing))
    assert model.conformer_source == "model"
    np.testing.assert_array_equal(model.conformers[0], dictionary()["BEN"].model)
    late = make_component("BEN", own("BEN", ideal=missing, modified="2024-01-01"), model_before="2021-09-30")
    assert late.conformer_source == "none"
    nothing = make_component("BEN", own("BEN", ideal=missing, model=missing))
    assert nothing.conformer_source == "none"
    assert not nothing.conformer_mask.any()
    assert not nothing.conformers.any()


def test_partial_coordinates_are_masked():
    partial = dictionary().with_hydrogens("BEN").ideal.copy()
    partial[2] = np.nan
    component = make_component("BEN", own("BEN", ideal=partial, model=np.full_like(partial, np.nan)))
    assert component.conformer_mask.tolist() == [i != 2 for i in range(len(component.atom_name))]
    assert not component.conformers[0, 2].any()


def test_a_stubborn_molecule_ends_in_time():
    started = time.perf_counter()
    component = make_component("60C", dictionary(), n_conformers=1, timeout=1)
    assert time.perf_counter() - started < 8
    assert component.conformer_source == "ideal"


def test_unknown_code():
    with pytest.raises(ValueError, match=r"'\$\$\$' is not in the dictionary"):
        make_component("$$$", dictionary())
