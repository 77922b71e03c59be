# SPDX-License-Identifier: Apache-2.0
import pytest
from assemblies import component
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from foldwright.data.ligand_similarity import fingerprint, similar_ligands

SMILES = {"BNZ": "c1ccccc1", "GOL": "OCC(O)CO", "ACT": "CC(=O)[O-]", "PHN": "c1cnc2c(c1)ccc1cccnc12"}


@pytest.fixture(scope="module")
def components():
    return {code: component(code) for code in ("BNZ", "GOL", "ACT", "ATP", "ADP", "NAG", "BGC", "ZN", "HEM")}


def test_coefficients_rank_as_rdkits_own_molecules(components):
    """ATP and ADP are near each other, neither is near benzene; as with molecules made from SMILES."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    own = {code: generator.GetFingerprint(Chem.MolFromSmiles(SMILES[code])) for code in ("BNZ", "GOL")}
    theirs = DataStructs.TanimotoSimilarity(own["BNZ"], own["GOL"])
    mine = DataStructs.TanimotoSimilarity(fingerprint(components["BNZ"]), fingerprint(components["GOL"]))
    assert theirs < 0.1
    assert mine < 0.1
    near = DataStructs.TanimotoSimilarity(fingerprint(components["ATP"]), fingerprint(components["ADP"]))
    assert 0.7 < near <= 1


def test_similar_ligands(components):
    found = similar_ligands(["ATP", "ZN", "NAG-NAG", "HEM"], ["ADP", "ZN", "BNZ", "NAG-NAG"], components, 0.7)
    assert found == {"ATP": {"ADP"}, "ZN": {"ZN"}, "NAG-NAG": {"NAG-NAG"}, "HEM": set()}
    assert similar_ligands(["ATP"], ["BNZ", "GOL"], components, 0.0)["ATP"] <= {"BNZ", "GOL"}
    assert similar_ligands(["ATP"], [], components, 0.5) == {"ATP": set()}
