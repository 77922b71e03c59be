# SPDX-License-Identifier: Apache-2.0
"""Queries: what is asked for is what the features hold, and what cannot be used says why."""

import json

import gemmi
import numpy as np
import pytest
from handmade import dictionary
from rdkit import Chem

from foldwright.data.conformers import build_molecule
from foldwright.data.query import BondEnd, ChainInput, Query, query_structure
from foldwright.data.query_example import Components, query_target
from foldwright.data.query_files import find_files, read_file, read_queries
from foldwright.vocabulary import RESTYPES, MoleculeType

SEQUENCE = "MKTAYIAKQR"


def write(tmp_path, name="job", **changes):
    job = {
        "name": "a job",
        "modelSeeds": [3, 4],
        "sequences": [{"protein": {"id": ["A", "B"], "sequence": SEQUENCE}}],
        "dialect": "alphafold3",
        "version": 1,
    }
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(job | changes))
    return path


def structure_of(query):
    return query_target(query, Components(dictionary(), 1)).structure


def test_copies_modifications_and_ends(tmp_path):
    polymer = {
        "id": ["A", "B"],
        "sequence": SEQUENCE,
        "modifications": [{"ptmType": "SEP", "ptmPosition": 3}, {"ptmType": "CCD_SEP", "ptmPosition": 10}],
    }
    rna = {"id": "R", "sequence": "GACU", "modifications": [{"modificationType": "2MG", "basePosition": 1}]}
    dna = {"id": "D", "sequence": "ACGT"}
    path = write(tmp_path, sequences=[{"protein": polymer}, {"rna": rna}, {"dna": dna}])
    (query,) = read_file(path, dictionary())
    assert (query.name, query.seeds) == ("a job", (3, 4))
    structure = structure_of(query)
    assert structure.chain_name.tolist() == ["A", "B", "R", "D"]
    assert structure.chain_entity.tolist() == [0, 0, 1, 2]
    assert structure.chain_sym.tolist() == [0, 1, 0, 0]
    assert [MoleculeType(t).name for t in structure.chain_type] == ["PROTEIN", "PROTEIN", "RNA", "DNA"]
    assert structure.residue_component[:10].tolist() == [
        "MET", "LYS", "SEP", "ALA", "TYR", "ILE", "ALA", "LYS", "GLN", "SEP",
    ]  # fmt: skip
    assert not structure.atom_resolved.any()
    names = {
        (chain, int(n)): set(structure.atom_name[structure.atom_residue == r].tolist())
        for r, (chain, n) in enumerate(
            zip(structure.chain_name[structure.residue_chain], structure.residue_index, strict=True)
        )
    }
    assert {"OXT", "P"} <= names["A", 10]  # its phosphoserine is the last residue
    assert {"OXT", "P"} & names["A", 3] == {"P"}
    assert "OP3" in names["R", 1] & names["D", 1]
    assert "OP3" not in names["R", 2]
    restypes = structure.residue_restype[:3].tolist()
    assert [RESTYPES[r] for r in restypes] == ["MET", "LYS", "SER"]


def test_a_bond_keeps_what_it_names_and_drops_what_leaves():
    """Free GlcNAc has its O1; bonded to asparagine it has none (CCD: O1 leaves)."""
    asparagine = ChainInput(("A",), MoleculeType.PROTEIN, ("GLY", "ASN", "GLY"))
    sugar = ChainInput(("G",), MoleculeType.LIGAND, ("NAG", "NAG"))
    free = ChainInput(("F",), MoleculeType.LIGAND, ("NAG",))
    bonds = (
        (BondEnd("A", 2, "ND2"), BondEnd("G", 1, "C1")),
        (BondEnd("G", 1, "O4"), BondEnd("G", 2, "C1")),
    )
    structure = structure_of(Query("glycan", chains=(asparagine, sugar, free), bonds=bonds))
    chain = structure.chain_name[structure.residue_chain[structure.atom_residue]]
    assert "O1" not in structure.atom_name[chain == "G"]
    assert "O1" in structure.atom_name[chain == "F"]
    shown = {
        tuple(sorted((str(structure.atom_name[i]), str(structure.atom_name[j])))) for i, j in structure.bonds
    }
    assert shown == {("C1", "ND2"), ("C1", "O4")}
    assert len(set(structure.chain_entity.tolist())) == 3


def test_a_ligand_is_one_entity_bonded_or_free():
    asparagine = ChainInput(("A",), MoleculeType.PROTEIN, ("GLY", "ASN", "GLY"))
    sugar = ChainInput(("G", "F"), MoleculeType.LIGAND, ("NAG",))
    bond = (BondEnd("A", 2, "ND2"), BondEnd("G", 1, "C1"))
    structure = structure_of(Query("glycan", chains=(asparagine, sugar), bonds=(bond,)))
    assert structure.chain_entity.tolist() == [0, 1, 1]  # as `read_structure` numbers them
    assert structure.chain_sym.tolist() == [0, 0, 1]


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "O=C(O)/C=C/C(=O)O", "c1ccncc1"])
def test_smiles_keep_their_chemistry(tmp_path, smiles):
    path = write(tmp_path, sequences=[{"ligand": {"id": ["L", "M"], "smiles": smiles}}])
    (query,) = read_file(path, dictionary())
    structure = structure_of(query)
    assert structure.chain_entity.tolist() == [0, 0]
    kept = Chem.RemoveHs(build_molecule(query.definitions["LIG_L"]))
    assert Chem.MolToSmiles(kept) == Chem.MolToSmiles(Chem.MolFromSmiles(smiles))


def test_alignments_pair_by_species_and_templates_lie_where_told(tmp_path):
    other = "MSTAYLAKQK"
    first = f">query\n{SEQUENCE}\n>sp|P0A7B8|X_ECOLI\nMKTAYIAKQK\n"
    second = f">query\n{other}\n>sp|P0A7B9|Y_ECOLI\nMSTAYLAKQR\n>sp|P0A7C0|Y_HUMAN\nMSTAYLARQR\n"
    (tmp_path / "first.a3m").write_text(first)
    chains = [
        {"protein": {"id": "A", "sequence": SEQUENCE, "unpairedMsaPath": "first.a3m"}},
        {"protein": {"id": "B", "sequence": other, "unpairedMsa": second, "templates": [_template()]}},
    ]
    (query,) = read_file(write(tmp_path, sequences=chains), dictionary())
    target = query_target(query, Components(dictionary(), 1))
    assert len(target.msas[0].paired_rows) == len(target.msas[1].paired_rows) == 1  # of E. coli
    batch = target.example(seed=1, n_cycles=2, msa_rows=8, n_templates=2)
    batch.check()
    assert batch.sizes()["R"] == 2
    assert batch.template_backbone_mask[0].nonzero()[:, 0].tolist() == [12, 13, 14]
    assert not batch.atom_resolved.any()
    again = target.example(seed=1, n_cycles=2, msa_rows=8, n_templates=2)
    assert (again.ref_pos == batch.ref_pos).all()


def _template():
    """Three alanines along x; the second to fourth residues of the query stand for them (chain B)."""
    rows = [
        f"ATOM {3 * n + k + 1} {name[0]} {name} . ALA A 1 {n + 1} ? {3.8 * n + 1.2 * k} {k} 0 1 0 {n + 1} A 1"
        for n in range(3)
        for k, name in enumerate(("N", "CA", "C"))
    ]
    tags = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id "
        "label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id "
        "auth_asym_id pdbx_PDB_model_num"
    ).split()
    head = "data_t\n_entity.id 1\n_entity.type polymer\n"
    head += "_entity_poly.entity_id 1\n_entity_poly.type 'polypeptide(L)'\n"
    head += "loop_\n_entity_poly_seq.entity_id\n_entity_poly_seq.num\n_entity_poly_seq.mon_id\n"
    head += "".join(f"1 {n} ALA\n" for n in (1, 2, 3)) + "_struct_asym.id A\n_struct_asym.entity_id 1\n"
    text = head + "loop_\n" + "\n".join(f"_atom_site.{tag}" for tag in tags) + "\n" + "\n".join(rows) + "\n"
    return {"mmcif": text, "queryIndices": [2, 3, 4], "templateIndices": [0, 1, 2]}


def test_a_file_of_ones_own_components(tmp_path):
    block = gemmi.cif.read_string(
        "data_XYZ9\n_chem_comp.id XYZ9\n_chem_comp.type NON-POLYMER\nloop_\n_chem_comp_atom.atom_id\n"
        "_chem_comp_atom.type_symbol\n_chem_comp_atom.charge\n_chem_comp_atom.pdbx_model_Cartn_x_ideal\n"
        "_chem_comp_atom.pdbx_model_Cartn_y_ideal\n_chem_comp_atom.pdbx_model_Cartn_z_ideal\n"
        "C1 C 0 0 0 0\nO1 O 0 1.2 0 0\nO2 O 0 -1.2 0 0\n"
        "loop_\n_chem_comp_bond.atom_id_1\n_chem_comp_bond.atom_id_2\n_chem_comp_bond.value_order\n"
        "C1 O1 DOUB\nC1 O2 DOUB\n"
    )
    (tmp_path / "own.cif").write_text(block.as_string())
    ligand = [{"ligand": {"id": "L", "ccdCodes": ["XYZ9"]}}]
    for given in ({"userCCDPath": "own.cif"}, {"userCCD": block.as_string()}):
        (query,) = read_file(write(tmp_path, sequences=ligand, **given), dictionary())
        assert structure_of(query).atom_name.tolist() == ["C1", "O1", "O2"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sequences": []}, r"sequences: got \[\]"),
        ({"sequences": [{"protien": {}}]}, r"sequences\[0\]: got {'protien': {}}, expected one of protein"),
        ({"modelSeeds": ["1"]}, "modelSeeds: got"),
        ({"dialect": "alphafoldserver"}, "dialect: got 'alphafoldserver', expected 'alphafold3'"),
        ({"version": 9}, "version: got 9"),
        ({"seqs": []}, "unknown field 'seqs'"),
        ({"sequences": [{"protein": {"id": "A", "sequence": "MKB"}}]}, "got 'B' at position 3"),
        ({"sequences": [{"ligand": {"id": "L", "smiles": "C(("}}]}, r"ligand: smiles: got 'C\(\('"),
        ({"sequences": [{"ligand": {"id": "L"}}]}, "none of ccdCodes, smiles and sdfPath"),
        ({"bondedAtomPairs": [["A", "B"]]}, r"bondedAtomPairs\[0\]: got"),
        (
            {"sequences": [{"protein": {"id": "A", "sequence": "MK", "unpairedMsaPath": "no.a3m"}}]},
            "unpairedMsaPath: cannot read",
        ),
    ],
)
def test_bad_json_says_file_field_and_what_is_expected(tmp_path, changes, says):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=says) as caught:
        read_file(path, dictionary())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query("q"), "got no chain"),
        (Query("q", chains=(ChainInput(("A", "A"), MoleculeType.DNA, ("DA",)),)), "'A' more than once"),
        (Query("q", chains=(ChainInput(("A",), MoleculeType.LIGAND, ("NOPE9",)),)), "NOPE9"),
        (
            Query(
                "q",
                chains=(ChainInput(("A",), MoleculeType.PROTEIN, ("GLY",)),),
                bonds=((BondEnd("A", 1, "CA"), BondEnd("A", 1, "SG")),),
            ),
            "got atom 'SG' of residue 1",
        ),
    ],
)
def test_queries_that_make_no_structure(query, says):
    with pytest.raises(ValueError, match=says):
        query_structure(query, dictionary())


def test_fasta_types_by_header_or_letters(tmp_path):
    path = tmp_path / "mixed.fasta"
    path.write_text(
        ">A|protein\nGAC\n>RNA|R\nGACU\nGA\n>dna|\nACGT\n>whatever it is\nMKTAYIAKQR*\n>third\nGGCUA\n"
        ">L|ccd\nATP\n>M|smiles\nC[C@H](N)C(=O)O\n"
    )
    (query,) = read_file(path, dictionary())
    structure = structure_of(query)
    kinds = [MoleculeType(t).name for t in structure.chain_type]
    assert kinds == ["PROTEIN", "RNA", "DNA", "PROTEIN", "RNA", "LIGAND", "LIGAND"]
    assert structure.chain_name.tolist() == ["A", "R", "B", "C", "D", "L", "M"]
    assert structure.sequence(1) == ["G", "A", "C", "U", "G", "A"]


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    write(tmp_path, "good")
    write(tmp_path, "bad", sequences=3)
    (tmp_path / "torn.json").write_text('{"name": ')
    (tmp_path / "other.fasta").write_text(">A\nMKT\n")
    (tmp_path / "cut.cif").write_text("data_x\nloop_\n")
    (tmp_path / "lig.smi").write_text("CCO ethanol\n")
    found = {f.path.name: f for f in read_queries(find_files([tmp_path]), dictionary())}
    assert {name for name, f in found.items() if f.error} == {"bad.json", "torn.json", "cut.cif"}
    assert all(name in f.error for name, f in found.items() if f.error)
    assert found["lig.smi"].queries[0].name == "ethanol"
    with pytest.raises(ValueError, match="no such file"):
        find_files([tmp_path / "nowhere"])


def test_an_mmcif_file_gives_its_chains_without_its_coordinates(tmp_path):
    from foldwright.data.sample import store_path
    from foldwright.data.store import Store
    from foldwright.data.write_mmcif import write_structure

    entry = Store(store_path()).entry("1pfe").structure
    write_structure(entry, entry.atom_coords, tmp_path / "x.cif", dictionary(), mask=entry.atom_resolved)
    (query,) = read_file(tmp_path / "x.cif", dictionary())
    structure = structure_of(query)
    assert not structure.atom_resolved.any()
    assert not structure.atom_coords.any()
    assert structure.residue_component.tolist() == entry.residue_component.tolist()
    assert len(structure.bonds) == len(entry.bonds)
    np.testing.assert_array_equal(structure.chain_type, entry.chain_type)
