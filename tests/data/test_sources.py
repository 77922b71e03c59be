# SPDX-License-Identifier: Apache-2.0
import pytest

from foldwright.data.sources import find_sources


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def test_files_are_matched_by_name(tmp_path):
    touch(tmp_path / "mmcif" / "ab", "1abc.cif", "af_x_1.cif.gz", "notes.txt")
    touch(
        tmp_path / "msa",
        "1ABC_A.a3m",
        "1abc_B-2.sto.gz",
        "1abc_A.pairing.a3m.gz",
        "af_x_1_A.csv",
        "2xyz_A.a3m",
    )
    touch(tmp_path / "hits", "1abc_A.hhr", "af_x_1_A.sto", "3xyz_A.a3m.gz", "1abc_A.csv")
    sources = find_sources(tmp_path / "mmcif", tmp_path / "msa", tmp_path / "hits")
    assert set(sources.of_entry) == {"1abc", "af_x_1"}
    files = sources.of_entry["1abc"]
    assert [(chain, path.name) for chain, path in files.msas] == [
        ("A", "1ABC_A.a3m"),
        ("B-2", "1abc_B-2.sto.gz"),
    ]
    assert [(chain, path.name) for chain, path in files.pairings] == [("A", "1abc_A.pairing.a3m.gz")]
    assert [(chain, path.name) for chain, path in files.hits] == [("A", "1abc_A.hhr")]
    other = sources.of_entry["af_x_1"]
    assert (len(other.msas), len(other.pairings), len(other.hits)) == (1, 0, 1)
    assert sources.unmatched == ["2xyz_A.a3m", "3xyz_A.a3m.gz"]


def test_the_digest_tells_content_and_purpose_apart(tmp_path):
    touch(tmp_path / "mmcif", "1abc.cif")
    digests = set()
    for name in ("1abc_A.a3m", "1abc_B.a3m", "1abc_A.pairing.a3m"):
        touch(tmp_path / name, name)
        (tmp_path / name / name).write_text("same")
        digests.add(find_sources(tmp_path / "mmcif", tmp_path / name).of_entry["1abc"].digest())
    digests.add(find_sources(tmp_path / "mmcif", None, tmp_path / "1abc_A.a3m").of_entry["1abc"].digest())
    (tmp_path / "1abc_A.a3m" / "1abc_A.a3m").write_text("other")
    digests.add(find_sources(tmp_path / "mmcif", tmp_path / "1abc_A.a3m").of_entry["1abc"].digest())
    assert len(digests) == 5


def test_missing_folders_are_named(tmp_path):
    touch(tmp_path / "mmcif", "1abc.cif")
    with pytest.raises(ValueError, match="--templates"):
        find_sources(tmp_path / "mmcif", None, tmp_path / "none")
