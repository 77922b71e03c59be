# SPDX-License-Identifier: Apache-2.0
import io
import json

from rich.console import Console

from foldwright.data.report import Report


def test_report_counts_by_reason_and_keeps_a_few_examples(tmp_path):
    report = Report(["x_A.a3m"])
    for number in range(9):
        report.failed(f"e{number}", "resolution", f"{number + 10} Å")
    row = {
        "n_tokens": 30,
        "n_chains": 3,
        "chain_types": ["PROTEIN", "RNA", "LIGAND"],
        "chain_msa_depths": [5, 0, 0],
    }
    report.kept("good", row, {"clash": 2}, [("msa_mismatch", "residue 3 differs")])
    report.kept("other", row, {"clash": 1}, [])
    report.components = {"ALA": "etkdg", "HEM": "ideal"}
    report.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["kept"] == 2
    assert read["rejected"]["resolution"]["count"] == 9
    assert read["rejected"]["resolution"]["examples"] == [f"e{n}: {n + 10} Å" for n in range(5)]
    assert read["totals"] == {"tokens": 60, "chains": 6, "polymer chains": 4, "chains with alignment": 2}
    assert read["changes_in_kept_entries"] == {"clash": 3}
    assert read["left_out_of_kept_entries"]["msa_mismatch"]["examples"] == ["good: residue 3 differs"]
    assert read["components_without_etkdg"] == {"HEM": "ideal"}
    assert report.summary() == "resolution x 9 (e.g. e0: 10 Å)"


def test_the_table_shows_every_reason():
    report = Report([])
    report.failed("bad", "unreadable", "no atoms")
    console = Console(record=True, width=120, file=io.StringIO())
    report.show(console)
    text = console.export_text()
    assert "rejected: unreadable" in text
    assert "bad: no atoms" in text
