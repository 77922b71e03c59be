# SPDX-License-Identifier: Apache-2.0
"""The species of an alignment's rows, told from their headers: what pairs rows of different chains.

Source: AF3 SI 2.3 pairs rows of one species. A species is a short text, the same in every file that names it
the same way:

    9606           taxonomy id: `OX=9606` (UniProt), `TaxID=9606` (UniRef, any case), `UniRef100_X_9606/`
    HUMAN          UniProt's mnemonic, `sp|P68871|HBB_HUMAN`, where the header has no id
    homo sapiens   UniRef's `Tax=Homo sapiens`, where the header has neither
    #17            the key of a keyed CSV file
    (empty)        unknown: the row pairs with nothing
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ID = re.compile(rb"\b(?:OX|[Tt]ax[Ii][Dd])=(\d+)")
_UNIREF_ID = re.compile(rb"UniRef\d+_[A-Z0-9-]+_(\d+)(?:[/\s]|$)")
_MNEMONIC = re.compile(rb"(?:sp|tr)\|[A-Z0-9-]+\|[A-Z0-9]+_([A-Z0-9]{1,5})(?:[/\s]|$)")
_NAME = re.compile(rb"\bTax=(.+?)(?: TaxID=| RepID=|$)")


def species_of(header: bytes) -> str:
    """The species of one header (without the `>`), empty if it names none."""
    if found := _ID.search(header) or _UNIREF_ID.match(header) or _MNEMONIC.match(header):
        text = found[1].decode()
        return text.lstrip("0") if text.isdigit() else text
    found = _NAME.search(header)
    return found[1].decode("utf-8", "replace").strip().lower() if found else ""


def row_species(headers: Iterable[bytes]) -> tuple[str, ...]:
    """The species of all rows; the first, the query, has none: it is paired as itself."""
    return tuple("" if row == 0 else species_of(header) for row, header in enumerate(headers))


def key_species(key: int) -> str:
    """The species text of a keyed CSV's key; negative keys mark rows that pair with nothing."""
    return f"#{key}" if key >= 0 else ""
