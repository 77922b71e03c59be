# SPDX-License-Identifier: Apache-2.0
"""Commands of the README and of docs/training.md run, or, for a cluster, compose; make targets exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from forked import Forked

from foldwright.data.clusters import sequence_of
from foldwright.data.sample import store_path
from foldwright.data.store import Store
from foldwright.data.write_mmcif import write_structure
from foldwright.training.config import compose_config
from foldwright.training.pipeline import plan

ROOT = Path(__file__).parent.parent
GUIDE = "docs/training.md"


def commands(tag: str, page: str = "README.md") -> list[str]:
    blocks = re.findall(r"```bash ?(\w*)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [line for kind, block in blocks if kind == tag for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: three structures of the sample as mmCIF files, and one alignment."""
    if shutil.which("make") is None or shutil.which("mmseqs") is None:
        pytest.skip("needs make and MMseqs2")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_structures").mkdir()
    (folder / "my_msas").mkdir()
    store = Store(store_path())
    for name in ("1as5", "5pti", "1pfe"):
        structure = store.entry(name).structure
        path = folder / "my_structures" / f"{name}.cif"
        write_structure(structure, structure.atom_coords, path, mask=structure.atom_resolved)
    sequence = sequence_of(store.entry("5pti").structure, 0)
    (folder / "my_msas" / "5pti_A.a3m").write_text(f">5pti\n{sequence}\n>other\nM{sequence[1:]}\n")
    for name in ("train.py", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_make_targets_exist():
    assert commands("make") == ["make train", "make test"]
    for command in commands("make"):
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def run(command, folder):
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    process = Forked(arguments, folder, script=folder / script)
    process.wait(timeout=200)
    assert process.returncode == 0, f"{command}\n{process.said()}"


@pytest.mark.slow
def test_commands_run_in_their_order(folder):
    assert len(commands("")) == 3
    for command in commands(""):
        run(command, folder)
    assert (folder / "my_store" / "manifest.parquet").is_file()
    assert (folder / "runs" / "mine" / "prediction.cif").is_file()


@pytest.mark.thorough
def test_commands_of_the_guide_run_in_their_order(folder):
    """Its preparation is the README's, on the same folder."""
    prepare = [command for command in commands("", GUIDE) if "scripts/" in command]
    assert prepare == [command for command in commands("") if "scripts/" in command]
    for command in [command for command in commands("", GUIDE) if command not in prepare]:
        run(command, folder)


@pytest.mark.parametrize("command", commands("cluster") + commands("cluster", GUIDE))
def test_cluster_commands_compose(command):
    words = shlex.split(command)
    assert any((ROOT / word).is_file() for word in words)
    if "train.py" in words:
        overrides = words[words.index("train.py") + 1 :]
        config = compose_config(overrides)
        if config.pipeline.stages:
            plan(config, overrides)
    elif "scripts/affinity_features.py" in words:
        compose_config(words[2:])
    elif "scripts/benchmark_step.py" in words:
        compose_config(["data=pdb", "data.n_templates=4", *words[2:]])
