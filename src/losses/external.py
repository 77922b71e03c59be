# SPDX-License-Identifier: Apache-2.0
"""Loss terms that other packages provide: `losses.external.NAME=WEIGHT` adds an entry point of theirs.

The group is `foldwright.losses`; an entry point is a function of the network's output, the batch with its
truth permuted onto the mini-rollout, and the noised samples or None, to a scalar: the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from foldwright.batch import Batch

GROUP = "foldwright.losses"

ExternalLoss = Callable[[Any, Batch, Any], Tensor]
"""(model.Output, truth, diffusion.NoisedSamples | None) -> scalar."""


@cache
def external_loss(name: str) -> ExternalLoss:
    """The loss term of an installed package; ValueError for a name that none has."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise ValueError(
            f"losses.external: got {name!r}, expected one of {sorted(found)}, the entry points {GROUP!r} "
            "of the packages installed here; install the package that has it"
        )
    loss: ExternalLoss = found[name].load()
    return loss
