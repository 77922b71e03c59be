# SPDX-License-Identifier: Apache-2.0
"""pyproject's explicit package list names every package there is, and the package data every YAML."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_package_list_matches_the_folders():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(("foldwright", *path.parent.relative_to(ROOT / "src").parts))
        for path in (ROOT / "src").rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found | {"foldwright.configs"})
