# SPDX-License-Identifier: Apache-2.0
"""The store's Parquet tables: written in one step with a checksum a page, which reading verifies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_DIGEST = b"content"  # in the schema's metadata: what the pages' checksums do not see


def write_table(table: pa.Table, path: Path) -> None:
    """Write beside `path` and rename: a reader sees the old table or the new one."""
    described = table.replace_schema_metadata({**(table.schema.metadata or {}), _DIGEST: _shape(table)})
    temporary = path.with_name(path.name + ".new")
    pq.write_table(described, temporary, write_page_checksum=True)
    os.replace(temporary, path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, or some of its columns; ValueError if the file is damaged.

    A table that something else wrote, without checksums, is taken as it is.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns and list(columns))
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the table {path} cannot be read ({error}); prepare the store again") from error
    metadata = dict(table.schema.metadata or {})
    written = metadata.pop(_DIGEST, None)
    if columns is None and written not in (None, _shape(table)):
        raise ValueError(f"the table {path} is not as it was written; prepare the store again")
    return table.replace_schema_metadata(metadata)


def _shape(table: pa.Table) -> bytes:
    """Number of rows, names and types of the columns."""
    fields = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
    return f"{table.num_rows} rows of {fields}".replace("<element:", "<item:").encode()  # Parquet renames it
