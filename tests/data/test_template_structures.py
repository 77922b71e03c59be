# SPDX-License-Identifier: Apache-2.0
import gzip

import gemmi
import numpy as np
import pytest
from handmade import CORPUS

from foldwright.data.template_structures import TemplateLibrary, locate, read_template_entry

SEQUENCE = ["GLY", "ALA", "SER", "VAL", "LEU", "ALA"]


def test_a_written_chain_comes_back(writer_of, tmp_path):
    writer = (
        writer_of["new"]("1abc").protein("A", SEQUENCE, 0.0, unresolved=(3,)).ligand("B", "ZN", (9, 9, 9))
    )
    entry = read_template_entry(writer.write(tmp_path))
    assert set(entry.chains) == {"A"}
    assert entry.release_date == ""
    chain = entry.chains["A"]
    assert chain.sequence == "GASVLA"
    for residue, code in enumerate(SEQUENCE):
        names = ("N", "CA", "C", "CA" if code == "GLY" else "CB")
        for slot, name in enumerate(names):
            expected = writer.coords.get(("A", residue + 1, name))
            assert bool(chain.present[residue, slot]) == (expected is not None)
            np.testing.assert_allclose(chain.coords[residue, slot], expected or (0, 0, 0), atol=2e-3)


def test_authors_names_modified_residues_and_occupancies(tmp_path, writer_of):
    path = writer_of["new"]("1abc").protein("A", ["ALA", "MSE", "SEP", "ALA"], 0.0).write(tmp_path)
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("ATOM"):
            fields = line.split()
            fields[17] = "K"  # auth_asym_id
            line = " ".join(fields)
            if fields[3] == "CB" and fields[8] == "1":  # a second position, more occupied
                fields[4], fields[13] = "A", "0.4"
                lines.append(" ".join(fields))
                fields[4], fields[13], fields[10] = "B", "0.6", "77.0"
                line = " ".join(fields)
        lines.append(line)
    lines += ["loop_", "_pdbx_audit_revision_history.ordinal", "_pdbx_audit_revision_history.revision_date",
              "1 2009-05-06", "2 2020-01-01", "#"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    entry = read_template_entry(path)
    assert entry.release_date == "2009-05-06"
    assert set(entry.chains) == {"K"}
    assert entry.chains["K"].sequence == "AMSA"  # parents' letters
    assert entry.chains["K"].coords[0, 3, 0] == 77.0


def test_the_library_finds_files_and_keeps_few(tmp_path, writer_of):
    for number in range(70):
        writer_of["new"](f"{number:04d}").protein("A", SEQUENCE, 0.0).write(tmp_path / "deep")
    path = tmp_path / "deep" / "0000.cif"
    (tmp_path / "9xyz.cif.gz").write_bytes(gzip.compress(path.read_bytes()))
    library = TemplateLibrary(tmp_path)
    assert "9xyz" in library
    assert "8xyz" not in library
    assert library["9xyz"].chains["A"].sequence == "GASVLA"
    assert library["9xyz"] is library["9xyz"]
    before = library.digest()
    for number in range(70):
        library[f"{number:04d}"]
    assert len(library._parsed) == 64
    path.write_text(path.read_text() + "#\n")
    assert TemplateLibrary(tmp_path).digest() != before
    (tmp_path / "8xyz.cif").write_text("junk")
    with pytest.raises(ValueError, match="CIF"):
        TemplateLibrary(tmp_path)["8xyz"]
    with pytest.raises(ValueError, match="--template-structures"):
        TemplateLibrary(tmp_path / "none")


def test_hits_are_located_in_the_structures_sequence():
    chain = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"
    assert locate(chain[5:15], 5, chain).tolist() == list(range(5, 15))
    assert locate(chain[5:15], 1, chain).tolist() == list(range(5, 15))  # numbered otherwise
    changed = chain[5:25].replace("SHF", "SHY")
    assert locate(changed, 0, chain).tolist() == list(range(5, 25))
    cut = chain[2:10] + chain[13:30]  # the structure has a loop that the hit's sequence lacks
    assert locate(cut, 2, chain).tolist() == [*range(2, 10), *range(13, 30)]
    assert locate("WWWWPPPPGGGGCCCC", 0, chain) is None
    assert locate("A" * 10, 0, "") is None


@pytest.mark.corpus
def test_real_chains_are_gemmis():
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    checked = 0
    for path in sorted((CORPUS / "mmcif").glob("*.cif.gz"))[:60:6]:
        if path.stat().st_size > 300_000:
            continue
        entry = read_template_entry(path)
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        for chain in structure[0]:
            polymer = chain.get_polymer()
            if polymer.check_polymer_type() not in (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD):
                continue
            found = entry.chains[chain.name]
            n_ca = sum(
                1 for residue in polymer.first_conformer() if residue.find_atom("CA", "*", gemmi.Element("C"))
            )
            assert abs(int(found.present[:, 1].sum()) - n_ca) <= 1  # heterogeneous positions
            for residue in polymer.first_conformer():
                atom = residue.find_atom("CA", "*", gemmi.Element("C"))
                if atom is None or atom.has_altloc() or not found.present[residue.label_seq - 1, 1]:
                    continue
                np.testing.assert_allclose(
                    found.coords[residue.label_seq - 1, 1], atom.pos.tolist(), atol=2e-3
                )
                checked += 1
    assert checked > 500
