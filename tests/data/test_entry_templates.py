# SPDX-License-Identifier: Apache-2.0
import shutil
from collections import Counter

import numpy as np
import pytest
from handmade import CORPUS

from foldwright.data.dataset import DataConfig, StoreDataset, build_full
from foldwright.data.entry_templates import (
    TemplateConfig,
    latest_release,
    lay,
    reason_against,
    select_templates,
)
from foldwright.data.prepare import main
from foldwright.data.sampler import SampleRequest
from foldwright.data.store import Store
from foldwright.data.template_hits import Hit, read_hits
from foldwright.data.template_structures import TemplateChain, TemplateLibrary
from foldwright.data.templates import template_features
from foldwright.vocabulary import GAP, MSA_LETTERS, RESTYPE_INDEX, MoleculeType

QUERY = "GASVLAGSTAVLGASVLAGS"
CODES = dict(zip("GASVLT", ["GLY", "ALA", "SER", "VAL", "LEU", "THR"], strict=True))


def hit(entry="1abc", sequence=QUERY, start=0, query=None, positions=None) -> Hit:
    n = len(sequence)
    query = np.arange(n, dtype=np.int32) if query is None else np.array(query, np.int32)
    positions = np.arange(n, dtype=np.int32) if positions is None else np.array(positions, np.int32)
    return Hit(entry, "A", start, sequence, query, positions)


def dated(path, day: str):
    with path.open("a") as file:
        file.write("loop_\n_pdbx_audit_revision_history.ordinal\n_pdbx_audit_revision_history.revision_date\n"
                   f"1 {day}\n#\n")  # fmt: skip


@pytest.fixture
def structures(tmp_path, writer_of):
    """1old and 1new hold the query with one residue changed; 1und has no date."""
    folder = tmp_path / "templates"
    for name, day in (("1old", "2010-01-01"), ("1new", "2020-01-01"), ("1und", "")):
        codes = [CODES[letter] for letter in QUERY[:-1]] + ["THR"]
        path = writer_of["new"](name).protein("A", codes, 3.0, unresolved=(2,)).write(folder)
        if day:
            dated(path, day)
    (folder / "1bad.cif").write_text("junk")
    return folder


def test_dates():
    config = TemplateConfig()
    assert latest_release("2020-03-01", config) == "2020-01-01"  # 60 days, one of them February 29
    assert latest_release("", config) == ""
    assert latest_release("2020-03-01", TemplateConfig(released_until="2018-04-30")) == "2018-04-30"
    assert latest_release("", TemplateConfig(released_until="2018-04-30")) == "2018-04-30"
    with pytest.raises(ValueError, match="isoformat"):
        TemplateConfig(released_until="yesterday")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (hit(), "same_sequence"),
        (hit(sequence=QUERY[:19]), ""),  # 95 %: not more
        (hit(sequence=QUERY[:19] + "T"), ""),
        (hit(sequence=QUERY + "K"), ""),  # no part of the query
        (hit(sequence=QUERY[:9]), "too_short"),
        (hit(sequence=QUERY[:10]), ""),
        (hit(query=range(9), positions=range(9), sequence=QUERY[:12]), "too_short"),
    ],
)
def test_filters_that_need_no_structure(found, reason):
    assert reason_against(found, QUERY, TemplateConfig()) == reason


def test_coverage():
    long = "GASVLAGSTA" * 20
    assert reason_against(hit(sequence=long[:19]), long, TemplateConfig()) == "low_coverage"
    assert reason_against(hit(sequence=long[:20]), long, TemplateConfig()) == ""


def test_selection_counts_why_hits_are_left_out(structures):
    changed = QUERY[:-1] + "T"
    hits = [
        hit(),
        *(hit(entry, changed) for entry in ("9non", "1bad", "1und", "1new", "1old", "1old", "1old")),
    ]
    hits.insert(5, Hit("1old", "Z", 0, changed, np.arange(20, dtype=np.int32), np.arange(20, dtype=np.int32)))
    hits.insert(5, hit("1old", "SLAGTGASVLAGSTVVVVVV"))
    changes = Counter()
    config = TemplateConfig(max_templates=2)
    library = TemplateLibrary(structures)
    templates = select_templates(hits, QUERY, library, "2015-01-01", config, changes)
    assert templates.names.tolist() == ["1old_A", "1old_A"]
    assert changes == {f"template_hit_{reason}": 1 for reason in (
        "same_sequence", "without_structure", "structure_unreadable", "without_date", "too_new",
        "other_sequence", "without_chain")}  # fmt: skip
    assert select_templates(hits[:4], QUERY, library, "2015-01-01", config, Counter()) is None


def test_residues_go_where_the_alignment_says():
    rng = np.random.default_rng(0)
    chain = TemplateChain(
        "TTGASVLK", rng.normal(size=(8, 4, 3)).astype(np.float32), np.ones((8, 4), np.bool_)
    )
    chain.present[4, 0] = False
    template = lay(hit(sequence="GASV", start=2, query=[1, 2, 5], positions=[0, 2, 3]), chain, 7)
    names = ["-", "GLY", "SER", "-", "-", "VAL", "-"]
    assert template.restype.tolist() == [RESTYPE_INDEX[name] for name in names]
    np.testing.assert_array_equal(template.coords[[1, 2, 5]], chain.coords[[2, 4, 5]])
    assert template.present.tolist() == [[False] * 4, [True] * 4, [False, True, True, True], [False] * 4,
                                         [False] * 4, [True] * 4, [False] * 4]  # fmt: skip
    chain.present[:] = False
    assert lay(hit(sequence="GASV", start=2), chain, 20) == "unresolved"
    far = TemplateChain(chain.sequence, chain.coords * 1000, np.ones((8, 4), np.bool_))
    assert lay(hit(sequence="GASV", start=2), far, 20) == "too_large"


def prepare(tmp_path, structures, writer_of, hits: str, *more) -> Store:
    path = writer_of["new"]("exam").protein("A", [CODES[letter] for letter in QUERY], 0.0)
    path = path.protein("B", [CODES[letter] for letter in QUERY], 6.0).write(tmp_path / "mmcif")
    dated(path, "2015-06-01")
    (tmp_path / "hits").mkdir(exist_ok=True)
    (tmp_path / "hits" / "exam_B.a3m").write_text(hits)
    arguments = ["--structures", tmp_path / "mmcif", "--templates", tmp_path / "hits", "--out",
                 tmp_path / "store", "--template-structures", structures, "--workers", 1,
                 "--n-conformers", 1, *more]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    return Store(tmp_path / "store")


def test_from_files_to_the_batch(tmp_path, structures, writer_of):
    changed = QUERY[:-1] + "T"
    store = prepare(tmp_path, structures, writer_of, f">1new_A/1-20\n{changed}\n>1old_A/1-20\n{changed}\n")
    assert store.entry("exam").template_entities.tolist() == [0]
    assert store.templates("exam", [0])[0].names.tolist() == ["1old_A"]
    assert store.manifest().to_pylist()[0]["chain_templates"] == [1, 1]
    dataset = StoreDataset(DataConfig(root=str(store.path), n_templates=2), 0)
    batch = dataset.full_example("exam", 1, 4).batch.check()
    assert batch.template_mask.tolist() == [True, False]
    assert batch.template_restype[0, :20].tolist() == batch.template_restype[0, 20:].tolist()
    assert batch.template_restype[0, 19] == RESTYPE_INDEX["THR"]
    resolved = [residue != 1 for residue in range(20)] * 2
    assert batch.template_backbone_mask[0].tolist() == resolved
    steps = np.linalg.norm(np.diff(batch.template_backbone[0, 2:20, 1].numpy(), axis=0), axis=1)
    np.testing.assert_allclose(steps, 3.8, atol=0.02)
    used = [int(dataset[SampleRequest(n, 1, 40, 400, 4)].check().template_mask.sum()) for n in range(40)]
    assert 8 < sum(used) < 32  # U{0, 1}
    assert not dataset.n_bad


def test_later_structures_bring_an_entry_up_to_date(tmp_path, structures, writer_of, capsys):
    changed = QUERY[:-1] + "T"
    text = f">2old_A/1-20\n{changed}\n"
    store = prepare(tmp_path, structures, writer_of, text)
    assert store.entry("exam").template_entities.tolist() == []
    assert "template_hit_without_structure" in (store.path / "report.json").read_text()
    (structures / "2old.cif").write_text((structures / "1old.cif").read_text())
    store = prepare(tmp_path, structures, writer_of, text)
    assert store.entry("exam").template_entities.tolist() == [0]
    store = prepare(tmp_path, structures, writer_of, text, "--templates-until", "2005-01-01")
    assert store.entry("exam").template_entities.tolist() == []
    store = prepare(tmp_path, structures, writer_of, ">1old_A\nGASV\n")
    assert "template_mismatch" in (store.path / "report.json").read_text()
    assert main(["--structures", str(tmp_path / "mmcif"), "--templates", str(tmp_path / "hits"), "--out",
                 str(tmp_path / "other")]) == 1  # fmt: skip
    assert "--template-structures" in capsys.readouterr().err


def test_atomised_tokens_have_no_template(tmp_path, structures, writer_of):
    path = writer_of["new"]("exam").protein("A", ["ALA", "SEP", *(CODES[x] for x in QUERY[2:])], 0.0)
    dated(path.write(tmp_path / "mmcif"), "2015-06-01")
    (tmp_path / "hits").mkdir()
    (tmp_path / "hits" / "exam_A.a3m").write_text(f">1old_A/1-20\n{QUERY[:-1]}T\n")
    arguments = ["--structures", tmp_path / "mmcif", "--templates", tmp_path / "hits", "--out",
                 tmp_path / "store", "--template-structures", structures, "--workers", 1,
                 "--n-conformers", 1]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    dataset = StoreDataset(DataConfig(root=str(tmp_path / "store"), n_templates=1), 0)
    batch = dataset.full_example("exam", 1, 4).batch.check()
    assert batch.is_atomised.any()
    assert (batch.template_restype[0, batch.is_atomised] == GAP).all()
    assert (batch.template_restype[0, ~batch.is_atomised] != GAP).all()


LYSOZYME = (  # UniProt P61626
    "MKALIVLGLVLLSVTVQGKVFERCELARTLKRLGMDGYRGISLANWMCLAKWESGYNTRATNYNAGDRSTDYGIFQINSRYWCNDGKTPGAVNACHLSCSAL"
    "LQDNIADAVACAKRVVRDPQGIRAWVAWRNRCQNRDVRQYVQGCGV"
)


def internal_difference(one: np.ndarray, two: np.ndarray) -> float:
    """Root mean square difference in Å of all distances within two structures of the same residues."""
    matrices = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (one, two)]
    return float(np.sqrt(((matrices[0] - matrices[1]) ** 2).mean()))


@pytest.mark.corpus
def test_real_hmmsearch_hits_of_lysozyme_have_its_fold():
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    hits = read_hits(CORPUS / "templates" / "P61626.pdb_seqres_hmmsearch.sto.gz", LYSOZYME)
    library, changes = TemplateLibrary(CORPUS / "mmcif"), Counter()
    templates = select_templates(hits, LYSOZYME, library, "2025-01-01", TemplateConfig(), changes)
    assert len(templates.names) == 20
    assert changes["template_hit_other_sequence"] == 0
    query = np.array([MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in LYSOZYME])
    best = int(templates.backbone_mask.sum(axis=1).argmax())
    for restype, coords, mask in zip(
        templates.restype, templates.coords, templates.backbone_mask, strict=True
    ):
        assert (restype[mask] == query[mask]).mean() > 0.3
        both = mask & templates.backbone_mask[best]
        assert both.sum() > 90
        assert internal_difference(coords[both, 1] * 0.01, templates.coords[best][both, 1] * 0.01) < 1.5


@pytest.mark.corpus
def test_real_hhr_hits_from_files_to_the_batch(tmp_path):
    """Templates of an antibody's heavy chain look like the chain itself, and all are older."""
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS} is not there")
    (tmp_path / "mmcif").mkdir()
    (tmp_path / "hits").mkdir()
    shutil.copy(CORPUS / "mmcif" / "1a2y.cif.gz", tmp_path / "mmcif")
    shutil.copy(CORPUS / "templates" / "1a2y_B.pdb70.hhr.gz", tmp_path / "hits" / "1a2y_B.hhr.gz")
    arguments = ["--structures", tmp_path / "mmcif", "--templates", tmp_path / "hits", "--out",
                 tmp_path / "store", "--template-structures", CORPUS / "mmcif", "--workers", 1,
                 "--n-conformers", 1]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    store = Store(tmp_path / "store")
    entity = int(store.entry("1a2y").template_entities[0])
    names = store.templates("1a2y", [entity])[entity].names.tolist()
    library, released = TemplateLibrary(CORPUS / "mmcif"), store.manifest()["release_date"][0].as_py()
    assert names
    assert all(library[name[:4]].release_date < released for name in names)
    assert not any(name.startswith("1a2y") for name in names)
    batch = build_full(store.entry("1a2y"), store, 1, 4, 4, 0, 0).check()
    native = batch.atom_coords[batch.centre_atom.long()].numpy()
    resolved = batch.atom_resolved[batch.centre_atom.long()]
    for slot in range(int(batch.template_mask.sum())):
        both = (batch.template_backbone_mask[slot] & resolved).numpy()
        assert both.sum() > 60
        assert internal_difference(native[both], batch.template_backbone[slot, both, 1].numpy()) < 4
        same = (batch.template_restype[slot] == batch.restype).numpy()[both].mean()
        assert same > 0.2


def test_unused_slots_need_no_templates():
    assert (
        template_features([], np.zeros(0, np.int32), np.zeros(0, np.int32), 2, None)["template_mask"].sum()
        == 0
    )
