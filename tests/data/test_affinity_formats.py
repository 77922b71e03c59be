# SPDX-License-Identifier: Apache-2.0
import gzip
from collections import Counter
from pathlib import Path

import pytest

from foldwright.data.affinity_formats import read_records

REAL = Path(__file__).parents[3] / "shared" / "data" / "affinity"
SHARED = REAL if REAL.is_dir() else Path("/work/shared/data/affinity")


def records(tmp_path, text, name="file.tsv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return list(read_records(path))


def test_bindingdb(tmp_path):
    header = "BindingDB Reactant_set_id\tLigand SMILES\tBindingDB MonomerID\tTarget Name\tKi (nM)\tIC50 (nM)"
    rows = (
        f"{header}\tArticle DOI\n1\tCCO\t7\tThrombin\t 12\t>10000\t10.1/x\n2\tCC\t8\tThrombin\t\t\t10.1/x\n"
    )
    first, second, third = records(tmp_path, rows)
    assert (first.constant.kind, second.constant.relation) == ("Ki", ">")
    assert first.assay == "Thrombin|10.1/x|Ki"
    assert first.smiles == "CCO"
    assert third.reason == "no_constant"


def test_chembl_with_semicolons_and_quotes(tmp_path):
    text = (
        '"Molecule ChEMBL ID";"Smiles";"Standard Type";"Standard Relation";"Standard Value";"Standard Units";'
        '"Assay ChEMBL ID";"Target ChEMBL ID"\n'
        '"CHEMBL1";"CCO";"IC50";"\'>\'";"100";"nM";"A1";"T1"\n"CHEMBL2";"CC";"Inhibition";"=";"50";"%";"A1";"T1"\n'
    )
    good, bad = records(tmp_path, text, "chembl.csv.gz")
    assert good.constant == (-1.0, ">", "IC50")
    assert (good.assay, good.target) == ("A1", "T1")
    assert bad.reason == "no_constant"


def test_pdbbind_index(tmp_path):
    text = "# code, resolution, year, value\n3zzf  2.20  2012  0.40  Ki=400mM      // 3zzf.pdf (NLG)\n"
    (found,) = records(tmp_path, text, "INDEX")
    assert (found.structure, found.ligand) == ("3zzf", "NLG")


def test_plain_columns(tmp_path):
    found = records(tmp_path, "smiles,target,assay,Kd_nM\nCCO,T,a,10\nCC,T,a,\n", "plain.csv")
    assert found[0].assay == "a|T"
    assert found[0].constant.y == pytest.approx(-2.0)
    assert found[1].reason == "no_constant"
    labels = records(tmp_path, "SMILES,Protein,Y\nCCO,MKV,1\nCC,MKV,0\n", "binary.csv")
    assert [record.is_binder for record in labels] == [True, False]


def test_what_spreadsheets_leave_in_a_file(tmp_path):
    """A mark of byte order before the first name, a row cut short, blank lines."""
    found = records(tmp_path, "\ufeffsmiles,Kd_nM,target\nCCO,5,T\nCC\n\nCN,7\n\n", "sheet.csv")
    assert [record.smiles for record in found] == ["CCO", "CC", "CN"]
    assert [record.reason for record in found] == ["", "no_constant", ""]


def test_an_unknown_header_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match=r"got the columns smiles, affinity; expected .*unit in its name"):
        records(tmp_path, "smiles,affinity\nCCO,3\n", "wrong.csv")


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/affinity")
@pytest.mark.parametrize(
    ("name", "total", "unread"),
    [
        ("davis/davis_pairs.tsv.gz", 30_056, 0),
        ("moad_affinity_all.tsv.gz", 23_577, 4),
        ("plb/ligands.tsv", 370, 0),
        ("schrodinger_fep/ligand_dG.tsv.gz", 1_182, 0),
        ("structure_affinity.tsv", 66, 0),
        ("bindingdb_binary_drugban_val.csv.gz", 4_920, 0),
    ],
)
def test_real_files(name, total, unread):
    found = list(read_records(SHARED / name))
    assert len(found) == total
    assert Counter(bool(record.reason) for record in found)[True] == unread


@pytest.mark.corpus
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/affinity")
def test_units_agree_with_the_files_own_p_values():
    """structure_affinity.tsv and davis give pK beside the constant, from another program."""
    for name, column in (("structure_affinity.tsv", "pValue"), ("davis/davis_pairs.tsv.gz", "pKd")):
        raw = (SHARED / name).read_bytes()
        lines = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode().splitlines()
        place = lines[0].split("\t").index(column)
        for line, record in zip(lines[1:2000], read_records(SHARED / name), strict=False):
            assert 6.0 - record.constant.y == pytest.approx(float(line.split("\t")[place]), abs=6e-3), line
