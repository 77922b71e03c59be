# SPDX-License-Identifier: Apache-2.0
"""Units of binding constants: every way of writing one to y = log10(K / µM) and the side that it bounds.

Source: spec 6. Ki, Kd, IC50, EC50, AC50 and Potency are treated alike; a Ka is the inverse of a Kd; pK is
-log10(K / M); a free energy of binding is RT ln(K / M) at 298 K, negative for whatever binds.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = ("Ki", "Kd", "IC50", "EC50", "AC50", "Potency", "dG")
_KIND_OF = {kind.lower(): kind for kind in KINDS}
_MICROMOLAR = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "pm": 1e-6, "fm": 1e-9}
_RELATIONS = {
    "": "=", "=": "=", "==": "=", "~": "=", "≈": "=", ">": ">", ">=": ">", ">>": ">", "≥": ">",
    "<": "<", "<=": "<", "<<": "<", "≤": "<",
}  # fmt: skip
_OPPOSITE = {"=": "=", "<": ">", ">": "<"}
_RT = 0.0019872043 * 298.15  # kcal/mol
_NUMBER = re.compile(
    r"^\s*([<>=~≈≤≥]{0,2})\s*([-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$"
)
_COLUMN = re.compile(r"^(p?)(Ki|Kd|IC50|EC50|AC50|Potency)(?:[_ (\[]+([pnuµμmf]?M)[)\]]?)?$", re.IGNORECASE)
_TEXT = re.compile(
    r"(Ki|Kd|Ka|IC50|EC50)\s*([<>=~]{1,2})\s*([\d.]+(?:[eE][-+]?\d+)?)\s*(M\^-1|[fpnuµm]?M)", re.IGNORECASE
)


class Constant(NamedTuple):
    """`y` log10(K / µM); `relation`: "=", ">" (K is at least that: weaker) or "<"; `kind`: Ki, Kd, ..."""

    y: float
    relation: str
    kind: str


class Column(NamedTuple):
    """What the name of a column says: the kind, and whether it holds "p" values, energies or a unit."""

    kind: str
    scale: str  # "p", "kcal" or a unit of _MICROMOLAR


def read_column(name: str) -> Column | None:
    """`Kd_nM`, `IC50 (nM)`, `Ki[uM]`, `pKd`, `pIC50`, `pValue`, `dG_kcal`; None for anything else.

    A constant without a unit in its name is None too: a number without unit is not guessed at.
    """
    stripped = name.strip()
    if stripped.lower() in ("pvalue", "p_value", "paffinity", "pchembl_value", "pchembl value"):
        return Column("Kd", "p")
    if re.fullmatch(r"(exp_)?dG[_ (]*kcal(/mol)?\)?", stripped, re.IGNORECASE):
        return Column("dG", "kcal")
    match = _COLUMN.match(stripped)
    if match is None or bool(match[1]) == bool(match[3]):
        return None
    return Column(_KIND_OF[match[2].lower()], "p" if match[1] else match[3].lower())


def read_value(text: str, column: Column, relation: str = "") -> Constant | None:
    """A cell under a column: `43`, `>10000`, `1e4`; None if it is empty, no number, or not positive.

    Commas group thousands: "1,5", by which some mean 1.5, is no number. `relation` is that of a column of its
    own, about K (ChEMBL's); that of the cell is about the number as written: "pKd > 6" means K < 1 µM. A
    cell's own goes first.
    """
    match = _NUMBER.match(text)
    if match is None:
        return None
    written, number = _RELATIONS.get(match[1]), float(match[2].replace(",", ""))
    about_k = _RELATIONS.get(relation.strip(" '\""))
    if written is None or about_k is None:
        return None
    if column.scale == "p":
        side = _OPPOSITE[written] if match[1] else about_k
        return Constant(6.0 - number, side, column.kind)
    side = written if match[1] else about_k
    if column.scale == "kcal":
        return Constant(number / (_RT * math.log(10)) + 6.0, side, column.kind)
    return _positive(number, _MICROMOLAR[column.scale], side, column.kind)


def read_measurement(kind: str, value: str, unit: str, relation: str = "") -> Constant | None:
    """A constant in three or four cells: type, value, unit (empty for p values) and relation."""
    name = kind.strip()
    if name.lower().startswith("p") and name.lower()[1:] in _KIND_OF and not unit.strip():
        return read_value(value, Column(_KIND_OF[name.lower()[1:]], "p"), relation)
    if name.lower() not in _KIND_OF or unit.strip().lower() not in _MICROMOLAR:
        return None
    return read_value(value, Column(_KIND_OF[name.lower()], unit.strip().lower()), relation)


def read_text(text: str) -> Constant | None:
    """A constant as PDBbind and Binding MOAD write it: `Ki=400mM`, `Kd<10uM`, `IC50~3nM`, `Ka=5700M^-1`."""
    match = _TEXT.search(text)
    if match is None:
        return None
    relation, number = _RELATIONS.get(match[2]), float(match[3])
    if relation is None or not number > 0:
        return None
    if match[1].lower() == "ka":
        return _positive(1.0 / number, 1e6, _OPPOSITE[relation], "Kd") if "^" in match[4] else None
    if "^" in match[4]:
        return None
    return _positive(number, _MICROMOLAR[match[4].lower()], relation, _KIND_OF[match[1].lower()])


def _positive(number: float, micromolar: float, relation: str, kind: str) -> Constant | None:
    return Constant(math.log10(number * micromolar), relation, kind) if number > 0 else None
