# SPDX-License-Identifier: Apache-2.0
"""Scripts do nothing when they are imported, as the worker processes that a script spawns import it again."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([ROOT / "train.py", *(ROOT / "scripts").rglob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_spawned_worker_can_import_the_script(script, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    runpy.run_path(str(script), run_name="__mp_main__")  # what multiprocessing.spawn calls it; no SystemExit
