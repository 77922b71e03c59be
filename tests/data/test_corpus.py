# SPDX-License-Identifier: Apache-2.0
"""A tenth of the corpus against biotite, entry by entry; docs/benchmarks/corpus.md has all of it."""

import pytest
from corpus_comparison import MAX_BYTES, outcome_of
from handmade import CORPUS


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/data is absent")
def test_entries_agree_with_biotite_or_say_what_was_left_out():
    small = [
        path for path in sorted((CORPUS / "mmcif").glob("*.cif.gz")) if path.stat().st_size < MAX_BYTES / 10
    ]
    compared = 0
    for path in small[::10]:
        outcome, found, _ = outcome_of(path)
        compared += outcome == "kept"
        for what in ("chains", "copies", "sequence"):
            assert found.get(what, True), (path.name, what)
    assert compared >= 0.8 * len(small[::10])
