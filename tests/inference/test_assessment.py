# SPDX-License-Identifier: Apache-2.0
"""Which of several samples stands for a target."""

import pyarrow as pa
import pytest

from foldwright.inference.assessment import per_target

ROWS = [
    {"target": "a", "ranking_score": 0.9, "gpde": 2.0, "lddt": 0.5, "bad_bonds": 0.3, "rmsd": 4.0},
    {"target": "a", "ranking_score": 0.8, "gpde": 1.0, "lddt": 0.7, "bad_bonds": 0.1, "rmsd": 3.0},
    {"target": "a", "ranking_score": 0.7, "gpde": 3.0, "lddt": 0.6, "bad_bonds": 0.2, "rmsd": 5.0},
]


@pytest.mark.parametrize(
    ("metric", "ranked", "gpde", "best"),
    [("lddt", 0.5, 0.7, 0.7), ("rmsd", 4.0, 3.0, 3.0), ("bad_bonds", 0.3, 0.1, 0.1), ("gpde", 2.0, 1.0, 1.0)],
)
def test_the_best_sample_is_the_lowest_of_what_is_an_error(metric, ranked, gpde, best):
    table = pa.Table.from_pylist(ROWS)
    for choice, expected in {"ranked": ranked, "gpde": gpde, "best": best}.items():
        assert per_target(table, metric, choice) == {"a": pytest.approx(expected)}, choice
