# SPDX-License-Identifier: Apache-2.0
"""The 3D viewer of a report: 3Dmol.js (BSD-3-Clause), one pinned release of its npm package, by its digest.

No package of PyPI ships a viewer that a page can load (py3Dmol points at a server; ipymolstar, dash-molstar
and chemiscope wrap theirs in a widget), so the archive is fetched with `npm pack` the first time and kept. It
is read when a report is written and becomes part of it.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "2.5.5"
INTEGRITY = "kqNHouGqq3YfW58174tdERvm0XYTmP0tavQKOqIw1ouc2OJ7epkXEFrtEkVXV0clBZT2Ze2xHRC/qxX0u0qCdw=="
URL = f"https://registry.npmjs.org/3dmol/-/3dmol-{VERSION}.tgz"
_SCRIPT, _LICENSE = "package/build/3Dmol-min.js", "package/LICENSE"
_LIMIT_S = 60


def viewer_script(cache: Path) -> str:
    """The JavaScript of 3Dmol.js with its licence as a comment before it, from the archive kept in `cache`.

    Raises ValueError where the archive is not there and cannot be fetched, or is another than the pinned one.
    """
    archive = cache / f"3dmol-{VERSION}.tgz"
    if not archive.is_file():
        _fetch(archive)
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ValueError(
            f"{archive}: got SHA-512 {found}, expected {INTEGRITY} of 3dmol {VERSION}; delete the file"
        )
    with tarfile.open(archive) as package:
        script, licence = (_member(package, name) for name in (_SCRIPT, _LICENSE))
    return "/* 3Dmol.js " + VERSION + "\n" + licence.replace("*/", "* /") + "*/\n" + script


def _member(package: tarfile.TarFile, name: str) -> str:
    file = package.extractfile(name)
    assert file is not None, name
    return file.read().decode()


def _fetch(archive: Path) -> None:
    by_hand = f"put {URL} there by hand"
    if shutil.which("npm") is None:
        raise ValueError(f"the report's viewer: got no {archive} and no npm to fetch it with; {by_hand}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = ["npm", "pack", f"3dmol@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the report's viewer: npm pack took over {_LIMIT_S} s; {by_hand}") from error
        if done.returncode:
            reason = done.stderr.strip()[-300:]
            raise ValueError(f"the report's viewer: {archive} is missing, npm pack: {reason!r}; {by_hand}")
        (Path(folder) / archive.name).replace(archive)
