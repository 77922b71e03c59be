# SPDX-License-Identifier: Apache-2.0
"""Queries in the JSON format of AlphaFold 3's inference code ("dialect": "alphafold3", versions 1 to 4).

Source: its published description of the input format. Paths are relative to the file. Beyond the format, a
ligand may be given by `sdfPath`. Every error names the field, what was got and what is expected. What the
format has and this reader has no use for (descriptions) is passed over; unknown fields are refused.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwright.data.ccd import Definition, parse_components, read_components
from foldwright.data.ligands import definition_from_sdf, definition_from_smiles
from foldwright.data.query import (
    BadQueries,
    BondEnd,
    ChainInput,
    Query,
    TemplateInput,
    components_of_sequence,
)
from foldwright.vocabulary import MoleculeType

_TOP = {
    "name", "modelSeeds", "sequences", "bondedAtomPairs", "userCCD", "userCCDPath", "dialect", "version",
}  # fmt: skip
_POLYMERS = {"protein": MoleculeType.PROTEIN, "rna": MoleculeType.RNA, "dna": MoleculeType.DNA}
_ALIGNMENT = {"unpairedMsa", "unpairedMsaPath"}
_FIELDS = {
    "protein": {"id", "sequence", "modifications", "description", "templates", "pairedMsa", "pairedMsaPath"}
    | _ALIGNMENT,
    "rna": {"id", "sequence", "modifications", "description"} | _ALIGNMENT,
    "dna": {"id", "sequence", "modifications", "description"},
    "ligand": {"id", "ccdCodes", "smiles", "sdfPath", "description"},
}
_MODIFICATION = {
    "protein": ("ptmType", "ptmPosition"),
    "rna": ("modificationType", "basePosition"),
    "dna": ("modificationType", "basePosition"),
}
_VERSIONS = (1, 2, 3, 4)
_MAX_SEED = 2**32 - 1


def read_json(path: Path) -> list[Query]:
    """The queries of a file: one, or a list of them. ValueError names file and field; BadQueries has the good
    ones of a list.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: got no JSON ({error}); expected AlphaFold 3's input format") from error
    jobs = content if isinstance(content, list) else [content]
    if not jobs:
        raise ValueError(f"{path}: got an empty list, expected at least one job")
    queries, errors = [], []
    for number, job in enumerate(jobs):
        try:
            queries.append(_query(job, path.parent, path.stem))
        except ValueError as error:
            where = f"{path}: job {number}" if len(jobs) > 1 else f"{path}"
            errors.append(f"{where}: {error}")
    if errors:
        raise BadQueries(errors, queries)
    return queries


def _query(job: Any, folder: Path, fallback: str) -> Query:
    job = _mapping(job, "the file", _TOP)
    if job.get("dialect", "alphafold3") != "alphafold3":
        raise ValueError(f"dialect: got {job['dialect']!r}, expected 'alphafold3'")
    if job.get("version", 1) not in _VERSIONS or type(job.get("version", 1)) is not int:
        raise ValueError(f"version: got {job['version']!r}, expected one of {_VERSIONS}")
    definitions = _user_components(job, folder)
    chains = []
    for number, item in enumerate(_sequence(job.get("sequences"), "sequences")):
        where = f"sequences[{number}]"
        if not isinstance(item, dict) or len(item) != 1 or next(iter(item)) not in _FIELDS:
            raise ValueError(f"{where}: got {_short(item)}, expected one of {', '.join(_FIELDS)} in braces")
        kind, fields = next(iter(item.items()))
        try:
            chains.append(_chain(kind, _mapping(fields, kind, _FIELDS[kind]), folder, definitions))
        except ValueError as error:
            raise ValueError(f"{where}.{kind}: {error}") from error
    name = job.get("name", fallback)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name: got {name!r}, expected a text")
    return Query(name, _seeds(job), tuple(chains), _bonds(job), definitions)


def _seeds(job: Mapping[str, Any]) -> tuple[int, ...]:
    seeds = job.get("modelSeeds", [1])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"modelSeeds: got {_short(seeds)}, expected a list of whole numbers")
    if outside := [seed for seed in seeds if not 0 <= seed <= _MAX_SEED]:
        raise ValueError(f"modelSeeds: got {outside[0]}, expected 0 to {_MAX_SEED}")
    return tuple(dict.fromkeys(seeds))


def _bonds(job: Mapping[str, Any]) -> tuple[tuple[BondEnd, BondEnd], ...]:
    bonds = []
    for number, pair in enumerate(_optional_list(job.get("bondedAtomPairs"), "bondedAtomPairs")):
        well = isinstance(pair, list) and len(pair) == 2
        well = well and all(
            isinstance(end, list) and len(end) == 3 and [type(x) for x in end] == [str, int, str]
            for end in pair
        )
        if not well:
            raise ValueError(
                f"bondedAtomPairs[{number}]: got {_short(pair)}, expected two of [chain, residue, atom]"
            )
        if pair[0] == pair[1]:
            raise ValueError(f"bondedAtomPairs[{number}]: got {_short(pair)}, expected two atoms")
        bonds.append((BondEnd(*pair[0]), BondEnd(*pair[1])))
    return tuple(bonds)


def _user_components(job: Mapping[str, Any], folder: Path) -> dict[str, Definition]:
    inline, path = _optional_text(job, "userCCD"), _optional_text(job, "userCCDPath")
    if inline and path:
        raise ValueError("userCCD: got userCCDPath too, expected one of them")
    try:
        if path:
            return read_components(folder / path)
        return parse_components(inline) if inline else {}
    except ValueError as error:
        raise ValueError(f"{'userCCDPath' if path else 'userCCD'}: {error}") from error


# --- chains ---


def _chain(
    kind: str, fields: Mapping[str, Any], folder: Path, definitions: dict[str, Definition]
) -> ChainInput:
    names = _names(fields.get("id"))
    if kind == "ligand":
        return ChainInput(names, MoleculeType.LIGAND, _ligand(names, fields, folder, definitions))
    sequence = fields.get("sequence")
    if not isinstance(sequence, str):
        raise ValueError(f"sequence: got {_short(sequence)}, expected a text")
    components = components_of_sequence(sequence, _POLYMERS[kind], _modifications(kind, fields))
    return ChainInput(
        names,
        _POLYMERS[kind],
        components,
        _alignment(fields, "unpairedMsa", folder),
        _alignment(fields, "pairedMsa", folder),
        tuple(
            _template(number, item, folder)
            for number, item in enumerate(_optional_list(fields.get("templates"), "templates"))
        ),
    )


def _names(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name and name.isascii() for name in names):
        raise ValueError(f"id: got {_short(value)}, expected a chain name or a list of them")
    if bad := [name for name in names if not name.isalnum()]:
        raise ValueError(f"id: got {bad[0]!r}, expected letters and digits")
    return tuple(names)


def _modifications(kind: str, fields: Mapping[str, Any]) -> dict[int, str]:
    type_field, position_field = _MODIFICATION[kind]
    found: dict[int, str] = {}
    for number, item in enumerate(_optional_list(fields.get("modifications"), "modifications")):
        where = f"modifications[{number}]"
        item = _mapping(item, where, {type_field, position_field})
        code, position = item.get(type_field), item.get(position_field)
        if not isinstance(code, str) or type(position) is not int:
            raise ValueError(f"{where}: got {_short(item)}, expected {type_field} and {position_field}")
        found[position] = code.removeprefix("CCD_")
    return found


def _ligand(
    names: tuple[str, ...], fields: Mapping[str, Any], folder: Path, definitions: dict[str, Definition]
) -> tuple[str, ...]:
    given = [name for name in ("ccdCodes", "smiles", "sdfPath") if fields.get(name)]
    if len(given) != 1:
        raise ValueError(f"got {given or 'none'} of ccdCodes, smiles and sdfPath, expected one of them")
    value = fields[given[0]]
    if given[0] == "ccdCodes":
        codes = value if isinstance(value, list) else [value]
        if not all(isinstance(code, str) and code for code in codes):
            raise ValueError(f"ccdCodes: got {_short(value)}, expected a list of codes")
        return tuple(code.removeprefix("CCD_") for code in codes)
    if not isinstance(value, str):
        raise ValueError(f"{given[0]}: got {_short(value)}, expected a text")
    code = f"LIG_{names[0]}"
    try:
        definitions[code] = (
            definition_from_smiles(code, value)
            if given[0] == "smiles"
            else definition_from_sdf(code, folder / value)
        )
    except ValueError as error:
        raise ValueError(f"{given[0]}: {error}") from error
    return (code,)


def _alignment(fields: Mapping[str, Any], name: str, folder: Path) -> str | None:
    """Text of an alignment given inline or by path; None where there is none, or an empty one."""
    inline, path = _optional_text(fields, name), _optional_text(fields, f"{name}Path")
    if inline and path:
        raise ValueError(f"{name}: got {name}Path too, expected one of them")
    return (_read_text(folder / path, f"{name}Path") if path else inline) or None


def _template(number: int, item: Any, folder: Path) -> TemplateInput:
    where = f"templates[{number}]"
    item = _mapping(item, where, {"mmcif", "mmcifPath", "queryIndices", "templateIndices"})
    inline, path = _optional_text(item, "mmcif"), _optional_text(item, "mmcifPath")
    if bool(inline) == bool(path):
        raise ValueError(f"{where}: got {list(item)}, expected one of mmcif and mmcifPath")
    text = inline or _read_text(folder / path, f"{where}.mmcifPath")
    query, residues = (
        _optional_list(item.get(name), f"{where}.{name}") for name in ("queryIndices", "templateIndices")
    )
    whole = all(type(index) is int and index >= 0 for index in [*query, *residues])
    if len(query) != len(residues) or not query or not whole:
        raise ValueError(
            f"{where}: got {len(query)} queryIndices and {len(residues)} templateIndices, expected as many "
            "of each, whole numbers from 0"
        )
    if len(set(query)) != len(query):
        raise ValueError(f"{where}: got a residue twice in queryIndices, expected each once")
    return TemplateInput(text, np.array(query, np.int32), np.array(residues, np.int32))


def _read_text(path: Path, field: str) -> str:
    openers = {".gz": gzip.open, ".xz": lzma.open}
    try:
        with openers.get(path.suffix, open)(path, "rt") as file:  # type: ignore[operator]
            return str(file.read())
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise ValueError(f"{field}: cannot read {path} ({error})") from error


# --- shapes of values ---


def _mapping(value: Any, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: got {_short(value)}, expected fields in braces")
    if unknown := sorted(value.keys() - known):
        raise ValueError(
            f"{where}: got the unknown field {unknown[0]!r}, expected {', '.join(sorted(known))}"
        )
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: got {_short(value)}, expected a list with at least one chain")
    return value


def _optional_list(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{where}: got {_short(value)}, expected a list")
    return value or []


def _optional_text(fields: Mapping[str, Any], name: str) -> str:
    """ "" where there is none."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: got {_short(value)}, expected a text")
    return value or ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
