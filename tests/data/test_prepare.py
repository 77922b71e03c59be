# SPDX-License-Identifier: Apache-2.0
import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldwright.batch import collate
from foldwright.data import prepare as module
from foldwright.data.dataset import DataConfig, StoreDataset, buckets
from foldwright.data.group_writer import GroupWriter
from foldwright.data.prepare import main
from foldwright.data.sampler import SampleRequest
from foldwright.data.store import Store
from foldwright.vocabulary import MoleculeType

CORPUS = Path(__file__).parents[3] / "shared" / "data"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, "--workers", 1, "--n-conformers", 1)])


def report_of(store: Path) -> dict:
    return json.loads((store / "report.json").read_text())


def test_bad_files_are_counted_and_lose_nothing(tmp_path, writer_of, capsys):
    structures, msas, out = tmp_path / "mmcif", tmp_path / "msa", tmp_path / "store"
    good = writer_of["dimr"]().write(structures)
    (structures / "packed.cif.gz").write_bytes(gzip.compress(good.read_bytes()))
    (structures / "cut.cif.gz").write_bytes(gzip.compress(good.read_bytes())[:-30])
    (structures / "junk.cif").write_text("this is no mmCIF file\n")
    (structures / "empty.cif").write_text("data_empty\n")
    writer_of["new"]("short").protein("A", ["ALA", "GLY"], 0.0).write(structures)
    text = good.read_text().replace("_refine.ls_d_res_high 1.80", "_refine.ls_d_res_high 12.0")
    (structures / "blurred.cif").write_text(text)
    msas.mkdir()
    (msas / "dimr_A.a3m").write_text(">q\nGASVLAGSTAVI\n")  # the last residue is LEU
    (msas / "packed_B.a3m").write_text(">q\nGASVLAGSTAVL\n>a\nGASVLAGSTA--\n")
    (msas / "packed_Z.a3m").write_text(">q\nGASVLAGSTAVL\n")
    (msas / "other_A.a3m").write_text(">q\nGASVLAGSTAVL\n")
    assert run("--structures", structures, "--msas", msas, "--out", out) == 0
    report = report_of(out)
    assert report["kept"] == 2
    counts = {reason: cases["count"] for reason, cases in report["rejected"].items()}
    assert counts == {"unreadable": 3, "no_chains": 1, "resolution": 1}
    unreadable = "\n".join(report["rejected"]["unreadable"]["examples"])
    assert all(name in unreadable for name in ("cut", "junk", "empty"))
    notes = {reason: cases["examples"] for reason, cases in report["left_out_of_kept_entries"].items()}
    assert "residue 12 is ILE in the alignment, LEU in the chain" in notes["msa_mismatch"][0]
    assert "no chain 'Z'" in notes["msa_without_chain"][0]
    assert notes["msa_without_structure"] == ["other_A.a3m"]
    rows = {row["entry"]: row for row in Store(out).manifest().to_pylist()}
    assert rows["dimr"]["chain_msa_depths"] == [0, 0, 0, 0]
    assert rows["packed"]["chain_msa_depths"] == [2, 2, 0, 0]
    shown = capsys.readouterr().out
    assert "rejected: unreadable" in shown
    assert "left out: msa_mismatch" in shown


def test_missing_and_empty_directories_are_clear_errors(tmp_path, writer_of, capsys):
    assert run("--structures", tmp_path / "none", "--out", tmp_path / "store") == 1
    assert "is not a directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("--structures", tmp_path / "empty", "--out", tmp_path / "store") == 1
    assert "found no .cif" in capsys.readouterr().err
    structures = tmp_path / "mmcif"
    path = writer_of["modr"]().write(structures)
    assert run("--structures", structures, "--msas", tmp_path / "no", "--out", tmp_path / "store") == 1
    assert "--msas" in capsys.readouterr().err
    assert run("--structures", structures, "--out", structures) == 1
    assert "is no store" in capsys.readouterr().err
    (structures / "modr.cif.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert run("--structures", structures, "--out", tmp_path / "store") == 1
    assert "two files of entry modr" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_nothing_kept_is_an_error_with_reasons(tmp_path, capsys):
    (tmp_path / "mmcif").mkdir()
    (tmp_path / "mmcif" / "junk.cif").write_text("junk")
    assert run("--structures", tmp_path / "mmcif", "--out", tmp_path / "store") == 1
    assert "unreadable x 1" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_second_run_only_does_what_changed(tmp_path, writer_of):
    structures, msas, out = tmp_path / "mmcif", tmp_path / "msa", tmp_path / "store"
    writer_of["dimr"]().write(structures)
    path = writer_of["modr"]().write(structures)
    msas.mkdir()
    run("--structures", structures, "--msas", msas, "--out", out)
    first = Store(out).entry("dimr")
    run("--structures", structures, "--msas", msas, "--out", out)
    assert report_of(out)["unchanged_since_last_run"] == 2
    (msas / "dimr_A.a3m").write_text(">q\nGASVLAGSTAVL\n")
    run("--structures", structures, "--msas", msas, "--out", out)
    assert report_of(out)["unchanged_since_last_run"] == 1
    assert Store(out).entry("dimr").msa_entities.tolist() == [0]
    np.testing.assert_array_equal(Store(out).entry("dimr").structure.atom_coords, first.structure.atom_coords)
    run("--structures", structures, "--msas", msas, "--out", out, "--max-msa-rows", 5)
    assert report_of(out)["unchanged_since_last_run"] == 0
    path.unlink()
    run("--structures", structures, "--msas", msas, "--out", out, "--max-msa-rows", 5)
    assert Store(out).manifest()["entry"].to_pylist() == ["dimr"]
    assert "SEP" not in Store(out).components
    with pytest.raises(KeyError):
        Store(out).entry("modr")
    assert [path.name for path in tmp_path.iterdir() if "store" in path.name] == ["store"]


def test_an_interrupted_run_resumes_and_publishes_nothing_before(tmp_path, writer_of, monkeypatch):
    structures, out = tmp_path / "mmcif", tmp_path / "store"
    writer_of["dimr"]().write(structures)
    writer_of["modr"]().write(structures)
    real = module._replace

    def interrupt(writer: GroupWriter, entry: str, values: dict[bytes, bytes]) -> None:
        if entry == "modr":
            raise KeyboardInterrupt
        real(writer, entry, values)

    monkeypatch.setattr(module, "_replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("--structures", structures, "--out", out)
    assert not out.exists()
    monkeypatch.setattr(module, "_replace", real)
    assert run("--structures", structures, "--out", out) == 0
    assert report_of(out)["unchanged_since_last_run"] == 1
    assert Store(out).manifest()["entry"].to_pylist() == ["dimr", "modr"]


def test_the_script_runs_from_anywhere(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "prepare_data.py"
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--max-resolution" in done.stdout


@pytest.mark.corpus
def test_real_entries_become_examples(tmp_path):
    """A homomer with an alignment, a protein-DNA complex and an RNA, counted anew by gemmi."""
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    with (CORPUS / "msa_index.tsv").open() as file:
        alignment = next(
            row["file"] for row in csv.DictReader(file, delimiter="\t") if row["key"] == "1a00_A"
        )
    structures, msas, out = tmp_path / "mmcif", tmp_path / "msa", tmp_path / "store"
    structures.mkdir()
    msas.mkdir()
    entries = (
        ("4hhb", "1a02", "5k7c") if (CORPUS / "mmcif/1a02.cif.gz").is_file() else ("4hhb", "104d", "5k7c")
    )
    for entry in entries:
        shutil.copy(CORPUS / "mmcif" / f"{entry}.cif.gz", structures)
    shutil.copy(CORPUS / alignment, msas / "4hhb_A.a3m.gz")
    assert run("--structures", structures, "--msas", msas, "--out", out) == 0
    dataset = StoreDataset(DataConfig(root=str(out), n_templates=1), seed=0)
    examples = [dataset[SampleRequest(n, 2, 128, 1152, 64)].check() for n in range(50)]
    assert dataset.n_bad == 0
    assert max(example.sizes()["M"] for example in examples) > 1
    sizes = collate(examples[:2], buckets(128, 1152, 64, 1)).check().sizes()
    assert (sizes["N"], sizes["A"], sizes["K"]) == (128, 1152, 32)
    full = dataset.full_example("4hhb", 1, 64)
    polymer = full.batch.molecule_type == MoleculeType.PROTEIN
    document = gemmi.cif.read(str(structures / "4hhb.cif.gz")).sole_block()
    lengths = {}
    for entity in document.find_values("_entity_poly_seq.entity_id"):
        lengths[entity] = lengths.get(entity, 0) + 1
    assert int(polymer.sum()) == 2 * sum(lengths.values())  # alpha2 beta2, one token a residue
    model = gemmi.read_structure(str(structures / "4hhb.cif.gz"))[0]
    iron = next(atom for chain in model for res in chain for atom in res if atom.element.name == "Fe")
    found = full.batch.atom_coords[full.batch.ref_element == 26]
    assert np.abs(found.numpy() - np.array(iron.pos.tolist())).max(axis=1).min() < 1e-3
