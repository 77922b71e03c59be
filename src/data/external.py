# SPDX-License-Identifier: Apache-2.0
"""Stores that other packages provide: `root: plugin:NAME` of a data set names an entry point of theirs.

The group is `foldwright.datasets`; an entry point is a function without arguments that returns a Store, or
one of a class of its own that answers the same questions (a database, a generator of examples).
"""

from __future__ import annotations

from importlib.metadata import entry_points

from foldwright.data.store import Store

GROUP = "foldwright.datasets"
PREFIX = "plugin:"


def open_store(root: str) -> Store:
    """The store of a folder or of an entry point; ValueError for a name that no installed package has."""
    if not root.startswith(PREFIX):
        return Store(root)
    found = {point.name: point for point in entry_points(group=GROUP)}
    name = root.removeprefix(PREFIX)
    if name not in found:
        raise ValueError(
            f"root: got {root!r}, expected {PREFIX}NAME with one of {sorted(found)}, the entry points "
            f"{GROUP!r} of the packages installed here; install the package that has it"
        )
    store: Store = found[name].load()()
    return store
