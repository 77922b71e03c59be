# SPDX-License-Identifier: Apache-2.0
"""The built-in sample: a store of small PDB entries that ships with the package (docs/sample.md)."""

from __future__ import annotations

from pathlib import Path


def affinity_store_path() -> Path:
    """The built-in affinity sample's store: two targets with five measured ligands each."""
    return Path(__file__).parent / "sample_affinity"


def store_path() -> Path:
    """The sample's store directory."""
    return Path(__file__).parent / "sample_store"
