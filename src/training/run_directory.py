# SPDX-License-Identifier: Apache-2.0
"""The run directory: one configuration each, so that rerunning a command resumes and nothing is mixed up.

config.yaml holds the resolved configuration; its fingerprint is the SHA-256 of the settings that decide what
is computed. Settings that only say where and how it runs may change from one start to the next, and so may
the place of a store. What it holds may not: data.json has the digests of the tables that examples are drawn
by, since a store prepared, clustered or split anew would give later steps other examples than those of their
numbers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import re
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from foldwright.training.config import ConfigError, TrainConfig, flatten, to_plain

CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
FREE_SETTINGS = (
    "trainer",
    "loader",
    "kernels",
    "checkpoint",
    "logger",
    "summary",
    "profile",
    "paths",
    "run_name",
    "pipeline",
    "affinity.cache",  # a pocket is known by what made it, wherever it lies
    "losses.smooth_lddt_chunk",  # of runs begun before 2026-11-22
)
LOCK_FILE = "lock"
_STORE_PLACE = re.compile(r"data\.(datasets\.[^.]+\.)?root")


def deciding(plain: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what is computed, flattened, without those in FREE_SETTINGS and the places of
    stores.
    """
    return {
        key: value
        for key, value in flatten(plain).items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_SETTINGS)
        and not _STORE_PLACE.fullmatch(key)
    }


def fingerprint(plain: dict[str, Any]) -> str:
    """SHA-256 of the deciding settings."""
    return hashlib.sha256(json.dumps(deciding(plain), sort_keys=True).encode()).hexdigest()


def claim(run_dir: Path, config: TrainConfig, is_writer: bool) -> IO[str] | None:
    """Make the directory this run's; ConfigError, saying what differs, if another configuration owns it.

    What the writer gets is a lock: until it is closed, or this process ends, another process is refused. A
    directory that cannot be written is a ConfigError too.
    """
    plain = to_plain(config)
    require_same(run_dir, config)
    if not is_writer:
        return None
    make_directory(run_dir)
    lock = _locked(run_dir)
    path = run_dir / CONFIG_FILE
    text = f"# fingerprint: {fingerprint(plain)}\n" + yaml.safe_dump(plain, sort_keys=False)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
    return lock


def _locked(run_dir: Path) -> IO[str]:
    """A record lock, which workers do not inherit: one that outlives a killed run must not keep it."""
    lock = (run_dir / LOCK_FILE).open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return lock  # a file system without locks
        raise ConfigError(
            f"{run_dir}: another process is training in it; wait for it, or end it, or start a run of its "
            "own with run_name=NAME"
        ) from error
    return lock


def make_directory(run_dir: Path) -> None:
    """Make the run directory; ConfigError if nothing can be written there."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=run_dir).close()
    except OSError as error:
        raise ConfigError(
            f"paths.run_dir: {run_dir} cannot be written ({error.strerror or error}); name another folder "
            "with paths.output_root=DIR"
        ) from error


def require_same(run_dir: Path, config: TrainConfig) -> None:
    """ConfigError, saying what differs, if the directory belongs to another configuration."""
    path = run_dir / CONFIG_FILE
    if path.exists():
        before = yaml.safe_load(path.read_text())
        _refuse_other(run_dir, deciding(before), deciding(to_plain(config)))


def table_digests(tables: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of those of the named tables that are there."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in tables.items() if path.is_file()
    }


def claim_data(run_dir: Path, tables: Mapping[str, Path], is_writer: bool) -> None:
    """Keep the digests of the named tables, by which examples are drawn; ConfigError if they were others."""
    now = table_digests(tables)
    path = run_dir / DATA_FILE
    before = json.loads(path.read_text()) if path.exists() else {}
    if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
        raise ConfigError(
            f"{run_dir} was begun on other data, changed since: {', '.join(changed)}. Put the store back as "
            "it was to resume, or go on from these weights in a run of its own with run_name=NAME "
            f"init_from.path={run_dir} init_from.stage=STAGE"
        )
    if is_writer:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(before | now, indent=1) + "\n")
        partial.replace(path)


def require_own(directory: Path, record: dict[str, Any], config: TrainConfig) -> None:
    """ConfigError if a checkpoint, of the same model though it be, was recorded by another run."""
    _refuse_other(directory, deciding(record), deciding(to_plain(config)))


def wandb_id(run_dir: Path) -> str:
    """The run's Weights & Biases id, made once and kept, so that a resumed run continues its curves."""
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()


def _refuse_other(run_dir: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    missing = "(not set)"
    differing = [
        f"  {key}: {before.get(key, missing)!r} there, {now.get(key, missing)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
    ]
    if differing:
        raise ConfigError(
            f"{run_dir} belongs to a run with another configuration:\n" + "\n".join(differing) + "\n"
            "Give the same settings to resume it, or run_name=NAME to start a run of its own."
        )
