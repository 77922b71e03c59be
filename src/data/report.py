# SPDX-License-Identifier: Apache-2.0
"""What a preparation kept, changed and left out, counted by reason: a table on the screen, and three files.

STORE/report.json   all counts, with a few examples of every reason
STORE/report.txt    the table
STORE/report.html   the same with histograms, one file that needs no network
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foldwright.data.report_html import Histogram, html_page

JSON, TEXT, HTML = "report.json", "report.txt", "report.html"
_EXAMPLES = 5
_HISTOGRAMS = {  # title by the name of a number of each entry; all but the second are drawn over logarithms
    "n_tokens": "tokens of an entry",
    "resolution": "resolution, Å (where reported)",
    "n_chains": "chains of an entry",
    "msa_depth": "alignment rows of a polymer chain",
    "n_bytes": "stored bytes of an entry",
    "seconds": "seconds to prepare an entry",
}


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
        self.unclustered: int | None = None  # protein sequences without cluster; None: nothing is clustered
        self.dropped_splits: list[str] = []
        self.numbers: dict[str, list[float]] = {name: [] for name in _HISTOGRAMS}
        self._clusters: set[str] = set()
        for name in unmatched:
            self.notes.setdefault("msa_without_structure", []).append(name)

    def failed(self, entry: str, reason: str, detail: str) -> None:
        """Count an entry that was left out."""
        self.rejected.setdefault(reason, []).append(f"{entry}: {detail}")

    def kept(
        self,
        entry: str,
        row: Mapping[str, Any],
        changes: Mapping[str, int],
        notes: Iterable[tuple[str, str]],
        seconds: float,
    ) -> None:
        """Count an entry that the store holds, by its row of the manifest and what was changed in it."""
        self.n_kept += 1
        self.changes.update(changes)
        self.totals["tokens"] += row["n_tokens"]
        self.totals["chains"] += row["n_chains"]
        self.totals["polymer chains"] += sum(kind != "LIGAND" for kind in row["chain_types"])
        self.totals["chains with alignment"] += sum(depth > 0 for depth in row["chain_msa_depths"])
        self.totals["stored bytes"] += row["n_bytes"]
        self._clusters.update(row["chain_clusters_100"])
        kinds = zip(row["chain_types"], row["chain_msa_depths"], strict=True)
        self.numbers["msa_depth"] += [depth for kind, depth in kinds if kind != "LIGAND"]
        for name in ("n_tokens", "n_chains", "n_bytes"):
            self.numbers[name].append(row[name])
        self.numbers["resolution"] += [row["resolution"]] * bool(row["resolution"])
        self.numbers["seconds"].append(seconds)
        for reason, detail in notes:
            self.notes.setdefault(reason, []).append(f"{entry}: {detail}")

    def account(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Count entries with their done records of a store."""
        for entry, record in records:
            if "rejected" in record:
                self.failed(entry, *record["rejected"])
            else:
                self.kept(entry, record["row"], record["changes"], record["notes"], record["seconds"])

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
            "clusters_100": len(self._clusters),
            "sequences_without_cluster": self.unclustered,
            "splits_dropped": self.dropped_splits,
            "quantiles_0_10_50_90_100": {name: _quantiles(values) for name, values in self.numbers.items()},
            "rejected": _counted(self.rejected),
            "left_out_of_kept_entries": _counted(self.notes),
            "changes_in_kept_entries": dict(self.changes),
            "conformer_sources": dict(Counter(self.components.values())),
            "components_without_etkdg": {c: s for c, s in self.components.items() if s != "etkdg"},
            "settings": self.settings,
        }

    def write(self, folder: Path) -> None:
        """Write the three files into a folder."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, default=str)
        (folder / JSON).write_text(text + "\n")
        with (folder / TEXT).open("w") as file:
            self.show(Console(file=file, width=160))
        histograms = [
            Histogram(title, self.numbers[name], logarithmic=name != "resolution")
            for name, title in _HISTOGRAMS.items()
        ]
        (folder / HTML).write_text(html_page("What preparation did", self.rows(), histograms))

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: outcome, count, example or remark."""
        rows = [("entries kept", str(self.n_kept), f"{self.unchanged} unchanged since the last run")]
        rows += [(f"  {name}", str(count), self._remark(name)) for name, count in self.totals.items()]
        rows.append(("  distinct chains", str(len(self._clusters)), "sequences and ligands"))
        if self.unclustered:
            detail = "new protein sequences are clusters of their own until `cluster_data.py STORE` is run"
            rows.append(("warning: unclustered", str(self.unclustered), detail))
        rows += [
            ("warning: split dropped", "1", f"{name}: items of it are gone") for name in self.dropped_splits
        ]
        for kind, cases in (("rejected", self.rejected), ("left out", self.notes)):
            rows += [(f"{kind}: {reason}", str(len(all_)), all_[0]) for reason, all_ in sorted(cases.items())]
        rows += [(f"changed: {reason}", str(count), "") for reason, count in sorted(self.changes.items())]
        sources = Counter(self.components.values())
        rows += [(f"components: {source}", str(count), "") for source, count in sorted(sources.items())]
        return rows

    def _remark(self, name: str) -> str:
        if name != "chains with alignment" or not self.totals["polymer chains"]:
            return ""
        return f"{self.totals[name] / self.totals['polymer chains']:.0%} of the polymer chains"

    def show(self, console: Console) -> None:
        """Print the table of outcomes."""
        table = Table(title="prepared", title_justify="left")
        table.add_column("outcome")
        table.add_column("count", justify="right")
        table.add_column("example", overflow="fold")
        for row in self.rows():
            style = {"rejected": "red", "left out": "yellow", "warning": "yellow"}.get(
                row[0].partition(":")[0]
            )
            table.add_row(*map(escape, row), style=style)
        console.print(table)


def _quantiles(values: list[float]) -> list[float]:
    return [float(f"{q:.4g}") for q in np.quantile(values, [0, 0.1, 0.5, 0.9, 1])] if values else []


def _counted(cases: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    return {reason: {"count": len(all_), "examples": all_[:_EXAMPLES]} for reason, all_ in cases.items()}
