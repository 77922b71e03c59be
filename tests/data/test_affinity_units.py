# SPDX-License-Identifier: Apache-2.0
import pytest

from foldwright.data.affinity_units import read_column, read_measurement, read_text, read_value


@pytest.mark.parametrize(
    ("name", "cell", "y", "relation"),
    [
        ("Kd_nM", "43", -1.366532, "="),
        ("IC50 (nM)", ">10000", 1.0, ">"),
        ("IC50 (nM)", " <0.5", -3.301030, "<"),
        ("Ki[uM]", "1e2", 2.0, "="),
        ("EC50_pM", "1,000", -3.0, "="),
        ("EC50_pM", "1,000,000.0", 0.0, "="),
        ("EC50_pM", "12345.5", -1.908490, "="),
        ("pIC50", "9", -3.0, "="),
        ("pKd", ">6", 0.0, "<"),
        ("pKd", "<5", 1.0, ">"),
        ("dG_kcal", "-8.1855", 0.0, "="),
    ],
)
def test_cells_by_hand(name, cell, y, relation):
    """-8.1855 kcal/mol = RT ln 1e-6 at 298.15 K."""
    constant = read_value(cell, read_column(name))
    assert constant.y == pytest.approx(y, abs=1e-3)
    assert constant.relation == relation


@pytest.mark.parametrize("name", ["Kd", "affinity", "value", "pKd_nM", "IC50 (M-1)", ""])
def test_a_name_that_does_not_say_the_unit_is_not_guessed_at(name):
    assert read_column(name) is None


@pytest.mark.parametrize("cell", ["", "nan", "0", "-3", "n.d.", "1-2", "1,5", "1,2,3", "5,"])
def test_cells_without_a_constant(cell):
    assert read_value(cell, read_column("Ki_nM")) is None


@pytest.mark.parametrize(
    ("text", "y", "relation", "kind"),
    [
        ("Ki=400mM", 5.602060, "=", "Ki"),
        ("IC50>200uM", 2.301030, ">", "IC50"),
        ("Ka=5700M^-1", 2.244125, "=", "Kd"),
        ("Ka>5700M^-1", 2.244125, "<", "Kd"),
        ("3zzf 2.20 2012 0.40 Kd<10uM // 3zzf.pdf (NLG)", 1.0, "<", "Kd"),
        ("Kd~5pM", -5.301030, "=", "Kd"),
    ],
)
def test_texts_by_hand(text, y, relation, kind):
    constant = read_text(text)
    assert constant.y == pytest.approx(y, abs=1e-5)
    assert (constant.relation, constant.kind) == (relation, kind)


def test_texts_without_unit_are_refused():
    assert read_text("Ki=0.000000114") is None
    assert read_text("Ka=5700M") is None


def test_four_cells():
    assert read_measurement("IC50", "10", "uM", "'>'").relation == ">"
    assert read_measurement("pic50", "6.98", "").y == pytest.approx(-0.98)
    assert read_measurement("Inhibition", "50", "%") is None
    assert read_measurement("IC50", "10", "ug/mL") is None
