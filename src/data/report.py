# SPDX-License-Identifier: Apache-2.0
"""What a preparation kept, changed and left out, counted by reason, as a table and as report.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_EXAMPLES = 5


class Report:
    """Collects outcomes. `unmatched` names alignments that belong to no structure file."""

    def __init__(self, unmatched: Iterable[str]) -> None:
        self.n_kept = 0
        self.unchanged = 0
        self.rejected: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}
        self.changes: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.components: dict[str, str] = {}
        self.settings: dict[str, Any] = {}
        for name in unmatched:
            self.notes.setdefault("msa_without_structure", []).append(name)

    def failed(self, entry: str, reason: str, detail: str) -> None:
        """Count an entry that was left out."""
        self.rejected.setdefault(reason, []).append(f"{entry}: {detail}")

    def kept(
        self, entry: str, row: Mapping[str, Any], changes: Mapping[str, int], notes: Iterable[tuple[str, str]]
    ) -> None:
        """Count an entry that the store holds, by its row of the manifest and what was changed in it."""
        self.n_kept += 1
        self.changes.update(changes)
        self.totals["tokens"] += row["n_tokens"]
        self.totals["chains"] += row["n_chains"]
        self.totals["polymer chains"] += sum(kind != "LIGAND" for kind in row["chain_types"])
        self.totals["chains with alignment"] += sum(depth > 0 for depth in row["chain_msa_depths"])
        for reason, detail in notes:
            self.notes.setdefault(reason, []).append(f"{entry}: {detail}")

    def summary(self) -> str:
        """Rejections on one line, an example each."""
        return "; ".join(
            f"{reason} x {len(cases)} (e.g. {cases[0]})" for reason, cases in self.rejected.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it, with a few examples of every reason."""
        return {
            "kept": self.n_kept,
            "unchanged_since_last_run": self.unchanged,
            "totals": dict(self.totals),
            "rejected": _counted(self.rejected),
            "left_out_of_kept_entries": _counted(self.notes),
            "changes_in_kept_entries": dict(self.changes),
            "conformer_sources": dict(Counter(self.components.values())),
            "components_without_etkdg": {c: s for c, s in self.components.items() if s != "etkdg"},
            "settings": self.settings,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str) + "\n")

    def show(self, console: Console) -> None:
        """Print the table of outcomes."""
        table = Table(title="prepared", title_justify="left")
        table.add_column("outcome")
        table.add_column("count", justify="right")
        table.add_column("example", overflow="fold")
        table.add_row("entries kept", str(self.n_kept), f"{self.unchanged} unchanged since the last run")
        for name, count in self.totals.items():
            table.add_row(f"  {name}", str(count), "")
        for reason, cases in sorted(self.rejected.items()):
            table.add_row(f"rejected: {reason}", str(len(cases)), cases[0], style="red")
        for reason, cases in sorted(self.notes.items()):
            table.add_row(f"left out: {reason}", str(len(cases)), cases[0], style="yellow")
        for reason, count in sorted(self.changes.items()):
            table.add_row(f"changed: {reason}", str(count), "")
        for source, count in sorted(Counter(self.components.values()).items()):
            table.add_row(f"components: {source}", str(count), "")
        console.print(table)


def _counted(cases: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    return {reason: {"count": len(all_), "examples": all_[:_EXAMPLES]} for reason, all_ in cases.items()}
