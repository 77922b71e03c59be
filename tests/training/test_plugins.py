# SPDX-License-Identifier: Apache-2.0
"""A package installed beside ours adds a kernel, a loss term and a data set, and trains by config."""

import pytest

from foldwright.data.external import open_store
from foldwright.losses import external_loss

MODULE = """
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.kernels.reference import swiglu
from foldwright.kernels.registry import register

calls = {"swiglu": 0, "store": 0}


@register("swiglu", "counted", preference=-1)
def counted_swiglu(h):
    if not calls["swiglu"]:
        print("the plugin's swiglu ran")
    calls["swiglu"] += 1
    return swiglu(h)


def contacts(output, truth, noised):
    assert noised is not None and truth.token_mask.any()
    return (output.distogram_logits.float() ** 2).mean() + 1.0


class Watched(Store):
    def entry(self, name):
        if not calls["store"]:
            print("the plugin's store was read", flush=True)
        calls["store"] += 1
        return super().entry(name)


def sample():
    return Watched(store_path())
"""
ENTRY_POINTS = """
[foldwright.kernels]
counted = foldwright_plugin
[foldwright.losses]
contacts = foldwright_plugin:contacts
[foldwright.datasets]
watched = foldwright_plugin:sample
"""


@pytest.mark.slow
def test_a_plugin_trains_by_config(runs, tmp_path):
    """Laid out as pip leaves a package: a module, and a dist-info with its entry points."""
    (tmp_path / "foldwright_plugin.py").write_text(MODULE)
    info = tmp_path / "foldwright_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foldwright-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    settings = (
        "trainer.max_steps=2",
        "loader.workers=0",
        "+kernels.ops.swiglu=counted",
        "+losses.external.contacts=0.5",
        "data.datasets.pdb.root=plugin:watched",
    )
    script = tmp_path / "train.py"  # its own folder is where a script looks for packages first
    script.write_text("from foldwright.training.cli import main\nmain()\n")
    run = runs.start("plugin", *settings, script=script)
    said = run.wait(timeout=100)
    assert run.returncode == 0, said
    assert "the plugin's swiglu ran" in said
    assert "the plugin's store was read" in said
    runs.here("without_plugin", "trainer.max_steps=2")
    first, plain = runs.metrics("plugin")[0], runs.metrics("without_plugin")[0]
    assert first["contacts"] >= 1.0
    assert first["loss"] == pytest.approx(plain["loss"] + 0.5 * first["contacts"], rel=1e-6)
    assert first["mse"] == plain["mse"]


def test_unknown_names_are_answered_with_what_is_installed():
    with pytest.raises(ValueError, match=r"losses.external: got 'nothing', expected one of \["):
        external_loss("nothing")
    with pytest.raises(ValueError, match=r"got 'plugin:nothing', expected plugin:NAME with one of \["):
        open_store("plugin:nothing")
