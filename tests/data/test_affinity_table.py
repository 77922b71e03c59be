# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from foldwright.data.affinity_formats import Record
from foldwright.data.affinity_sampler import GroupConfig, GroupSampler, activity_cliff
from foldwright.data.affinity_table import (
    AffinityReport,
    Ligand,
    Measured,
    affinity_table,
    censor_ceiling,
    fingerprints,
)
from foldwright.data.affinity_units import Constant


def measured(ligand, y, relation="=", assay="a", target="T", is_binder=None, smiles=None):
    constant = None if y is None else Constant(y, relation, "Ki")
    bits = bytes([1]) + bytes(255)
    record = Record(constant, is_binder, ligand=ligand, target=target, assay=assay)
    return Measured(record, Ligand(smiles or ligand, 100.0, bits), f"{ligand}/LIG", "file")


def table_of(*items):
    report = AffinityReport()
    return affinity_table(items, report), report


def test_duplicates_are_merged_and_contradictions_dropped():
    items = [
        measured("x", 1.0),
        measured("x", 1.5),
        measured("y", 0.0),
        measured("y", 3.0),
        measured("z", 9.0),
    ]
    table, report = table_of(*items)
    assert table["ligand"].to_pylist() == ["x"]
    assert table["low"].to_pylist() == table["high"].to_pylist() == [1.25]
    assert report.dropped == {"contradicting": 2, "implausible": 1}
    assert (report.duplicates, report.kept, report.assays) == (1, 1, 1)
    assert report.ranges == {"Ki": (1.25, 1.25)}


def test_limits_become_intervals():
    table, report = table_of(measured("x", 1.0, ">"), measured("y", -2.0, "<"), measured("z", 0.0))
    assert table["low"].to_pylist() == [1.0, -math.inf, 0.0]
    assert table["high"].to_pylist() == [math.inf, -2.0, 0.0]
    assert report.relations == {">": 1, "<": 1, "=": 1}


def test_an_exact_value_counts_above_limits_and_the_tightest_of_limits():
    assert table_of(measured("x", 1.0, ">"), measured("x", 1.2))[0]["low"].to_pylist() == [1.2]
    assert table_of(measured("x", 1.0, ">"), measured("x", 2.0, ">"))[0]["low"].to_pylist() == [2.0]


def test_limits_that_exclude_each_other_are_dropped():
    table, report = table_of(measured("x", 1.0, ">"), measured("x", 0.0, "<"), measured("y", 0.0))
    assert table["ligand"].to_pylist() == ["y"]
    assert (report.dropped, report.duplicates) == ({"contradicting": 2}, 0)
    between = table_of(measured("x", 0.0, ">"), measured("x", 1.0, "<"))[0]
    assert (between["low"].to_pylist(), between["high"].to_pylist()) == ([0.0], [1.0])


def test_the_ceiling_of_an_assay():
    records = [measured("x", 1.0).record, measured("y", 0.9).record, measured("z", 1.0, "<").record]
    assert [record.constant.relation for record in censor_ceiling(records, 1.0)] == [">", "=", "<"]


def test_fingerprints_are_unpacked():
    assert fingerprints(table_of(measured("x", 1.0))[0])[0].nonzero()[0].tolist() == [7]


def groups(items, **config):
    table, _ = table_of(*items)
    return table, GroupSampler(table, GroupConfig(**config), seed=3)


def test_value_groups_are_of_one_assay_drawn_by_its_activity_cliff():
    """IQR of 0..8 is 4, of 0..0.8 is 0.4: the first is drawn ten times as often."""
    wide = [measured(f"w{i}", float(i) - 4.0, assay="wide") for i in range(9)]
    flat = [measured(f"f{i}", 0.1 * i, assay="flat") for i in range(9)]
    table, sampler = groups([*wide, *flat])
    assert activity_cliff(table, np.arange(9)) == pytest.approx(0.4)
    names = np.array(table["assay"].to_pylist())
    drawn = [sampler.draw(n) for n in range(1100)]
    assert all(len(set(rows.tolist())) == 5 and len(set(names[rows])) == 1 for rows in drawn)
    share = np.mean([names[rows[0]] == "wide" for rows in drawn])
    assert share == pytest.approx(10 / 11, abs=0.03)


def test_a_draw_is_keyed_by_seed_and_number_alone():
    items = [measured(f"w{i}", float(i) - 4.0) for i in range(9)]
    _, first = groups(items)
    _, again = groups(items)
    for _ in range(3):
        again.draw(17)
    assert np.array_equal(first.draw(4), again.draw(4))
    assert any(not np.array_equal(first.draw(4), first.draw(n)) for n in range(5, 9))


def test_binary_groups_have_one_binder_of_the_same_target():
    items = [
        measured(f"{t}{i}", None, assay=f"hts {t}", target=t, is_binder=i < 2) for t in "AB" for i in range(9)
    ]
    items.append(measured("lonely", None, assay="hts C", target="C", is_binder=True))
    table, sampler = groups(items)
    label, target = np.array(table["is_binder"].to_pylist()), np.array(table["target"].to_pylist())
    for n in range(50):
        rows = sampler.draw(n)
        assert label[rows].tolist() == [1, 0, 0, 0, 0]
        assert len(set(target[rows])) == 1


def test_single_measurements_only_if_asked_for():
    items = [measured(f"s{i}", 0.0, assay=f"a{i}") for i in range(6)]
    with pytest.raises(ValueError, match=r"expected an assay with two"):
        groups(items)
    _, sampler = groups(items, singles=1.0)
    assert len(set(sampler.draw(0).tolist())) == 5
