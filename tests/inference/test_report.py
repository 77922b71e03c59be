# SPDX-License-Identifier: Apache-2.0
"""The report, opened and clicked through in a browser; what is shown is what the tables say."""

import json
import re
import shutil

import browser
import matplotlib.image
import numpy as np
import pytest

from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.write_mmcif import write_structure
from foldwright.inference import evaluate, report, viewer

NAMES = ("1as5", "1lcd")
BEST = 1  # of the two samples of a target: the nearer to the truth, and the one that ranks first


@pytest.fixture(scope="module")
def script():
    try:
        return viewer.viewer_script(DEFAULT_CACHE)
    except ValueError as error:
        pytest.skip(f"no viewer: {error}")


@pytest.fixture(scope="module")
def written(script, tmp_path_factory):
    """A report of a run of three steps and of two targets of the sample, as predicted by adding noise."""
    folder = tmp_path_factory.mktemp("report")
    predictions, truth, run = folder / "predictions", folder / "true", folder / "run"
    for place in (truth, run):
        place.mkdir()
    store, dictionary, rng = Store(store_path()), Dictionary.open(DEFAULT_CACHE), np.random.default_rng(0)
    for name in NAMES:
        entry = store.entry(name)
        s, n_tokens = entry.structure, len(entry.tokens.token_residue)
        write_structure(s, s.atom_coords, truth / f"{name}.cif", dictionary, mask=s.atom_resolved)
        (predictions / name).mkdir(parents=True)
        (predictions / name / "done.json").write_text(json.dumps({"name": name}))
        for sample in range(2):
            file = predictions / name / f"seed-1_sample-{sample}.cif"
            x = s.atom_coords + rng.normal(size=s.atom_coords.shape).astype(np.float32) / (1 + 4 * sample)
            plddt = rng.uniform(0, 100, len(x)).astype(np.float32)
            write_structure(s, x, file, dictionary, plddt)
            pae = rng.uniform(0, 30, (n_tokens, n_tokens))
            scores = {"ranking_score": float(sample), "plddt": plddt.tolist(), "pae": pae.tolist()}
            file.with_suffix(".json").write_text(json.dumps(scores))
    evaluate.main([str(predictions), f"--truth={truth}", f"--out={folder / 'evaluation'}"])
    (run / "metrics.csv").write_text("step,loss,lr\n1,4.0,0.1\n2,2.0,0.1\n3,1.0,0.1\n")
    (run / "validation.csv").write_text("step,lddt\n0,0.2\n3,0.5\n")
    arguments = [f"--out={folder / 'report.html'}", f"--run={run}", f"--predictions={predictions}"]
    assert report.main([*arguments, f"--evaluation={folder / 'evaluation'}", f"--truth={truth}"]) == 0
    return folder


def test_one_file_that_asks_nothing_of_a_network(written, script):
    text = (written / "report.html").read_text()
    own = text.replace(script.replace("</script", "<\\/script"), "")
    assert len(own) < len(text)
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", own)
    assert set(re.findall(r"https?://[^\"'\s>]+", own)) <= {"http://www.w3.org/2000/svg"}
    for heading in ("Training", "Validation", "Metrics", "Distributions", "Error against size", "Targets"):
        assert f"<h2>{heading}" in own
    summary = json.loads((written / "evaluation" / "summary.json").read_text())
    lddt = summary["metrics"]["lddt"]["ranked"]
    assert f"<tr><td>lddt<td>{lddt['mean']:.3f} [{lddt['low']:.3f}, {lddt['high']:.3f}]<td>" in own
    assert lddt["mean"] > 0.8


@pytest.mark.slow
@pytest.mark.skipif(bool(browser.MISSING), reason=f"not installed: {', '.join(browser.MISSING)}")
def test_a_browser_draws_the_target_that_is_clicked(written, tmp_path):
    store = Store(store_path())
    with browser.chromium(tmp_path) as page:
        page.open(written / "report.html")
        assert page.run("return [...document.images].every(image => image.naturalWidth > 0)")
        for number, name in enumerate(NAMES):
            page.click(f"#targets button[data-target='{number}']")
            page.wait(f"document.body.dataset.drawn == '{number}'")
            assert text_of(page, "h3") == name
            counts = page.run(
                "return Object.fromEntries(Object.entries(held.models)"
                ".map(([kind, model]) => [kind, model.selectedAtoms({}).length]))"
            )
            structure = store.entry(name).structure
            assert counts == {"predicted": len(structure.atom_name), "truth": structure.atom_resolved.sum()}
            assert text_of(page, "tr:nth-child(3)") == f"sample{BEST}"
            assert drawn(page, tmp_path / f"{name}.png") > 5000
        both = drawn(page, tmp_path / "both.png")
        page.click("#stage input[name=predicted]")
        alone = drawn(page, tmp_path / "truth.png")
        assert 0 < alone < both
        assert coloured(tmp_path / "truth.png") < coloured(tmp_path / "both.png") / 10  # the truth is grey
        page.click("#stage input[name=truth]")
        assert drawn(page, tmp_path / "nothing.png") == 0
        loaded = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert page.errors() == []


def text_of(page, selector):
    return page.run(f"return document.querySelector('.target:not([hidden]) {selector}').textContent")


def viewer_pixels(path):
    """Colours [height, width, 3] of a screenshot whose top is the viewer's, without its border."""
    return matplotlib.image.imread(path)[3:440, 30:1130, :3]


def drawn(page, path):
    """How many pixels of the viewer are not of its background, in a screenshot left at `path`."""
    page.run("document.querySelector('#viewer').scrollIntoView({block: 'start'})")
    page.screenshot(path)
    return int((np.abs(viewer_pixels(path) - 1) > 0.05).any(-1).sum())


def coloured(path):
    return int((np.ptp(viewer_pixels(path), axis=-1) > 0.2).sum())


def test_what_is_not_there(tmp_path, capsys, monkeypatch):
    out = f"--out={tmp_path / 'r.html'}"
    assert report.main([out]) == 1
    assert "got nothing to report" in capsys.readouterr().err
    assert report.main([out, f"--run={tmp_path}"]) == 1
    assert "expected a run directory" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no npm to fetch it with; put https"):
        viewer.viewer_script(tmp_path)
    (tmp_path / f"3dmol-{viewer.VERSION}.tgz").write_bytes(b"another")
    with pytest.raises(ValueError, match="expected kqNH"):
        viewer.viewer_script(tmp_path)
