# SPDX-License-Identifier: Apache-2.0
"""A folder of bad inputs among good ones: each is told by field and reason, the good are predicted."""

import contextlib
import io
import json
import re

import pytest

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.structure import keep_chains
from foldwright.data.write_mmcif import write_structure
from foldwright.inference import predict

SEQUENCE = "MKTAYIAKQR"
PROTEIN = {"protein": {"id": "A", "sequence": SEQUENCE}}


def protein(**changes):
    return {"protein": {"id": "A", "sequence": SEQUENCE, **changes}}


def ligand(**fields):
    return {"ligand": {"id": "L", **fields}}


def template(**changes):
    """Of ubiquitin (1ubi), whose 76 residues all have coordinates."""
    return {"mmcifPath": "template.cif_", "queryIndices": [2, 3, 4], "templateIndices": [0, 1, 2]} | changes


def bond(*ends):
    return {"bondedAtomPairs": [list(ends)]}


JOBS = {  # name: sequences, other fields, what must be said
    "empty_sequence": ([protein(sequence="")], {}, "sequences[0].protein: got an empty sequence"),
    "unknown_code": ([PROTEIN, ligand(ccdCodes=["NOPE9"])], {}, "'L': component 'NOPE9' is not in"),
    "unknown_modification": (
        [protein(modifications=[{"ptmType": "NOPE9", "ptmPosition": 2}])], {}, "'A': component 'NOPE9'",
    ),
    "modification_outside": (
        [protein(modifications=[{"ptmType": "SEP", "ptmPosition": 20}])], {}, "position 20, expected 1 to 10",
    ),
    "bad_smiles": ([PROTEIN, ligand(smiles="C((")], {}, "ligand: smiles: got 'C(('"),
    "salt": ([ligand(smiles="CCO.Cl")], {}, "got more than one molecule"),
    "no_sdf": ([ligand(sdfPath="no.sdf")], {}, "sdfPath: no SDF file at"),
    "bad_sdf": ([ligand(sdfPath="junk.txt")], {}, "begins with no molecule that RDKit can read"),
    "bond_atom": ([PROTEIN, ligand(ccdCodes=["NAG"])], bond(["A", 2, "XX"], ["L", 1, "C1"]), "got atom 'XX'"),
    "bond_residue": ([PROTEIN], bond(["A", 22, "CA"], ["A", 1, "CB"]), "got residue 22 of chain 'A'"),
    "bond_chain": ([PROTEIN], bond(["A", 2, "CA"], ["Q", 1, "C1"]), "got the chain 'Q', expected"),
    "bond_to_itself": ([PROTEIN], bond(["A", 2, "CA"], ["A", 2, "CA"]), "expected two atoms"),
    "bonds_no_list": ([PROTEIN], {"bondedAtomPairs": 3}, "bondedAtomPairs: got 3, expected a list"),
    "msa_of_another": (
        [protein(unpairedMsa=">q\nMKTAYIAKQW\n")], {}, "the alignment's first row is not the chain's",
    ),
    "msa_too_short": ([protein(pairedMsa=">q\nMKTAY\n")], {}, "pairedMsa: the alignment's first row has 5"),
    "msa_ragged": ([protein(unpairedMsa=f">q\n{SEQUENCE}\n>b\nMKT\n")], {}, "got 3 aligned columns"),
    "msa_junk": ([protein(unpairedMsa="hello")], {}, "expected a line with '>'"),
    "msa_path": ([protein(unpairedMsaPath=3)], {}, "unpairedMsaPath: got 3, expected a text"),
    "template_outside": (
        [protein(templates=[template(queryIndices=[8, 9, 10])])], {}, "got indices up to 10 and 2",
    ),
    "template_without_overlap": (
        [protein(templates=[template(mmcifPath="gap.cif_")])], {}, "of which no residue has coordinates",
    ),
    "template_without_atoms": ([protein(templates=[template(mmcifPath="bare.cif_")])], {}, "has no atoms"),
    "template_junk": ([protein(templates=[template(mmcifPath="junk.txt")])], {}, "got no readable mmCIF"),
    "template_twice": ([protein(templates=[template(queryIndices=[2, 2, 3])])], {}, "got a residue twice"),
    "template_indices": (
        [protein(templates=[template(queryIndices=3)])], {}, "templates[0].queryIndices: got 3",
    ),
    "own_components": ([PROTEIN], {"userCCD": 3}, "userCCD: got 3, expected a text"),
    "version": ([PROTEIN], {"version": [1]}, "version: got [1], expected one of"),
    "seeds": ([PROTEIN], {"modelSeeds": [-1]}, "modelSeeds: got -1, expected 0 to"),
}  # fmt: skip
FILES = {
    "binary.json": (b"\xff\xfe\x00\x01", "got no JSON"),
    "nested.json": (b"[" * 20000, "got no JSON"),
    "no_job.json": (b"[]", "got an empty list, expected at least one job"),
    "list.json": (
        json.dumps(
            [{"name": "listed", "sequences": [PROTEIN]}, {"name": "odd", "sequences": [PROTEIN], "seed": 1}]
        ).encode(),
        "job 1: the file: got the unknown field 'seed'",
    ),
    "no_record.fasta": (b"", "got no record"),
    "no_letters.fasta": (b">A|protein\n>B|protein\nMK\n", "record 1 (A): got an empty sequence"),
    "bad_line.smi": (b"CCO ethanol\nC(( broken\n", "line 2: got 'C(('"),
    "bad.sdf": (b"nothing\n", "begins with no molecule"),
    "torn.cif": (b"data_x\nloop_\n", "is no valid CIF"),
    "torn.cif.gz": (b"\x1f\x8b\x08junk", "cannot be read"),
}


def write_inputs(folder):
    folder.mkdir()
    for name, (sequences, more, _) in JOBS.items():
        job = {"name": name, "modelSeeds": [1], "sequences": sequences}
        (folder / f"{name}.json").write_text(json.dumps(job | more))
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "junk.txt").write_text("junk")
    _write_templates(folder)
    good = {"name": "good", "modelSeeds": [1], "sequences": [protein(templates=[template()])]}
    (folder / "good.json").write_text(json.dumps(good))
    (folder / "peptide.fasta").write_text(">A\nGAVLK\n")


def _write_templates(folder):
    """Whole, without its first residues and without any atom; of an ending that is no input's."""
    entry = Store(store_path()).entry("1ubi").structure
    entry = keep_chains(entry, entry.chain_type == 0)
    late = entry.atom_resolved & (entry.residue_index[entry.atom_residue] > 5)
    for name, mask in (("template", entry.atom_resolved), ("gap", late)):
        path, dictionary = folder / f"{name}.cif", Dictionary.open(DEFAULT_CACHE)
        write_structure(entry, entry.atom_coords, path, dictionary, mask=mask)
        path.rename(folder / f"{name}.cif_")
    lines = (folder / "gap.cif_").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("ATOM", "HETATM"))]
    (folder / "bare.cif_").write_text("\n".join(kept) + "\n")


@pytest.fixture(scope="module")
def told(untrained, tmp_path_factory):
    """The exit code, what was said of each bad input by its name, and the folders that are there."""
    folder = tmp_path_factory.mktemp("bad")
    write_inputs(folder / "in")
    options = ["--samples=1", "--cycles=1", "--steps=2", "--msa-rows=4", "--templates=1", "--device=cpu"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = predict.main(
            [str(folder / "in"), f"--checkpoint={untrained}", f"--out={folder / 'out'}", *options]
        )
    failed = re.findall("^failed: ([^:]+): (.*)$", said.getvalue(), re.MULTILINE)
    return code, dict(failed), {path.parent.name for path in (folder / "out").glob("*/done.json")}


@pytest.mark.parametrize("name", JOBS)
def test_a_bad_job_is_told_by_field_and_reason(told, name):
    _, failed, _ = told
    assert JOBS[name][2] in (failed.get(name) or failed[f"{name}.json"])


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_told_by_name_and_reason(told, name):
    _, failed, _ = told
    assert FILES[name][1] in failed[name]
    assert name in failed[name]


def test_the_good_ones_are_predicted_and_the_exit_code_says_the_rest(told):
    code, failed, done = told
    assert code == 1
    assert len(failed) == len(JOBS) + len(FILES)
    assert done == {"good", "peptide", "ethanol", "listed"}, "good ones of a bad file too"
