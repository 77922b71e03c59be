# SPDX-License-Identifier: Apache-2.0
"""Whether a data set is fit to be trained on: refusals for what is usually forgotten, each with its key.

A store without clusters draws one protein family as often as it was solved; one without a single alignment
was usually prepared with misnamed files. Both train without complaint, and badly (lessons of other systems).
Overlap of splits is refused where they are read (`splits`).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from foldwright.data.dataset import DataConfig, Part
from foldwright.data.datasets import Sampling

_SEARCHED = ("PROTEIN", "RNA")  # kinds of chains that alignments are made for (AF3 SI 2.2)


def require_ready(parts: Mapping[str, Part], config: DataConfig) -> None:
    """Raise ValueError, naming what to run and the key that allows it, for a data set that is not ready."""
    for name, part in parts.items():
        path = part.store.path
        is_weighted = part.config.sampling is Sampling.weighted
        if is_weighted and not config.allow_missing_clusters and not _has_clusters(part):
            raise ValueError(
                f"data.datasets.{name}: the store {path} has no clusters, so that equation 1 would weigh "
                f"homologues as if they were unrelated; run `cluster_data.py {path}`, or train on it all the "
                "same with data.allow_missing_clusters=true"
            )
        if config.allow_missing_msas:
            continue
        aligned, chains = alignment_coverage(part.store.manifest())
        if chains and not aligned:
            raise ValueError(
                f"data.datasets.{name}: not one of {chains:,} protein and RNA chains of the store {path} has "
                "an alignment; prepare it with `prepare_data.py --msas DIR` (files <entry>_<chain>.a3m; its "
                "report lists what matched nothing), or train on sequences alone with "
                "data.allow_missing_msas=true"
            )


def _has_clusters(part: Part) -> bool:
    return "cluster" in part.store.items().column_names


def alignment_coverage(manifest: pa.Table) -> tuple[int, int]:
    """Protein and RNA chains of a store: those with an alignment, and all."""
    of_entry = zip(manifest["chain_types"].to_pylist(), manifest["chain_msa_depths"].to_pylist(), strict=True)
    depths = [
        depth for kinds, own in of_entry for kind, depth in zip(kinds, own, strict=True) if kind in _SEARCHED
    ]
    return sum(depth > 0 for depth in depths), len(depths)
