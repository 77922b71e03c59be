# SPDX-License-Identifier: Apache-2.0
"""What the store's values mean: entries, templates and components to bytes and back.

Each is a dataclass of NumPy arrays and plain attributes, laid out by `arrays.encode`. A field `x` of the
structure of an entry is the array or attribute `structure.x`, likewise `tokens.x`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from foldwright.data.arrays import decode, encode
from foldwright.data.structure import Component, Ints, Structure, Tokens
from foldwright.data.templates import Templates


@dataclass(frozen=True)
class Entry:
    """What the store keeps of one entry. `atom_reference` [L]: each atom's index in its component.

    `msa_entities` and `template_entities` list the entities that have an alignment, or templates, in the
    store.
    """

    structure: Structure
    tokens: Tokens
    atom_reference: Ints
    msa_entities: Ints
    template_entities: Ints


Record = TypeVar("Record", Templates, Component)


def encode_entry(entry: Entry) -> bytes:
    """An entry as stored bytes; `decode_entry` is its inverse."""
    arrays: dict[str, NDArray[Any]] = {}
    attributes: dict[str, Any] = {}
    _collect(entry, "", arrays, attributes)
    return encode(arrays, attributes)


def decode_entry(data: bytes | memoryview) -> Entry:
    """Raises ValueError if the bytes are damaged."""
    arrays, attributes = decode(data)
    values = arrays | attributes
    structure = Structure(**{f.name: values[f"structure.{f.name}"] for f in fields(Structure)})
    tokens = Tokens(**{f.name: values[f"tokens.{f.name}"] for f in fields(Tokens)})
    rest = (values[name] for name in ("atom_reference", "msa_entities", "template_entities"))
    return Entry(structure, tokens, *rest)


def encode_record(record: Record) -> bytes:
    """Templates or a component as stored bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    attributes: dict[str, Any] = {}
    _collect(record, "", arrays, attributes)
    return encode(arrays, attributes)


def decode_record(kind: type[Record], data: bytes | memoryview) -> Record:
    """The templates or component that `encode_record` made; ValueError if the bytes are damaged."""
    arrays, attributes = decode(data)
    values: dict[str, Any] = arrays | attributes
    return kind(**values)


def _collect(record: Any, prefix: str, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> None:
    for declared in fields(record):
        value = getattr(record, declared.name)
        name = prefix + declared.name
        if is_dataclass(value):
            _collect(value, name + ".", arrays, attributes)
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            attributes[name] = value
