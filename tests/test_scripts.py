# SPDX-License-Identifier: Apache-2.0
"""Scripts explain their options, and do nothing when imported: worker processes import them again."""

import argparse
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([ROOT / "train.py", *(ROOT / "scripts").rglob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_spawned_worker_can_import_the_script(script, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    runpy.run_path(str(script), run_name="__mp_main__")  # what multiprocessing.spawn calls it; no SystemExit


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_every_option_says_what_it_is(script, monkeypatch):
    shown = []

    def stop(parser, *_):
        shown.append(parser)
        raise SystemExit(0)

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr("sys.argv", [str(script)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    silent = [action.dest for parser in shown for action in parser._actions if not action.help]
    assert not silent
