# SPDX-License-Identifier: Apache-2.0
import io
import json
import re
from xml.etree import ElementTree

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
        "chain_clusters_100": ["a", "b", "LIGAND:ZN"],
        "n_bytes": 1000,
        "resolution": 2.0,
    }
    report.kept("good", row, {"clash": 2}, [("msa_mismatch", "residue 3 differs")], 0.5)
    report.kept("other", row, {"clash": 1}, [], 1.5)
    report.components = {"ALA": "etkdg", "HEM": "ideal"}
    report.write(tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["kept"] == 2
    assert read["rejected"]["resolution"]["count"] == 9
    assert read["rejected"]["resolution"]["examples"] == [f"e{n}: {n + 10} Å" for n in range(5)]
    assert read["totals"] == {"tokens": 60, "chains": 6, "polymer chains": 4, "chains with alignment": 2,
                              "stored bytes": 2000}  # fmt: skip
    assert read["quantiles_0_10_50_90_100"]["seconds"] == [0.5, 0.6, 1.0, 1.4, 1.5]
    assert read["clusters_100"] == 3
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


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path):
    report = Report([])
    row = {"n_tokens": 30, "n_chains": 1, "chain_types": ["PROTEIN"], "chain_msa_depths": [5],
           "chain_clusters_100": ["a"], "n_bytes": 1000, "resolution": 0.0}  # fmt: skip
    for tokens in (10, 20, 20, 4000):
        report.kept("good", row | {"n_tokens": tokens}, {}, [], 0.5)
    report.failed("bad", "unreadable", "<script>alert(1)</script> [bold]")
    report.unclustered, report.dropped_splits = 3, ["af3"]
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.findall(r'(?:src|href|url\()=?["(]?\s*http', page)
    tree = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page)[0])  # the first: tokens
    titles = [bar[0].text for bar in tree if bar.tag.endswith("rect")]
    assert sum(int(title.rpartition(" ")[2]) for title in titles) == 4
    assert "100% of the polymer chains" in page
    assert "resolution" not in page  # none is reported
    text = (tmp_path / "report.txt").read_text()
    assert "cluster_data.py" in text
    assert "af3: items of it are gone" in text
    assert "<script>alert(1)</script> [bold]" in text
