# SPDX-License-Identifier: Apache-2.0
"""A training step as CUDA graphs: captured once per shape, then replayed by a few launches.

A step launches some hundred thousand kernels, more than a host can issue in the time that they take. Shapes
are static by bucket, so forward and backward are recorded and replayed. The first batch of a shape runs as
usual and is its own warm-up; the second is captured; all graphs share one memory pool, since only one runs at
a time. A pool belongs to its graphs as long as they live, and beside it a batch that runs as usual would need
the step's memory twice: so all graphs go before the first batch of a further shape, and are captured anew
when next met. What cannot be captured, because its sizes change with every example, runs between two graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from foldwright.batch import SCHEMA, Batch
from foldwright.kernels.casts import WeightCopies
from foldwright.permutation import Labels
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.gradients import FlatGradients, Gradients
from foldwright.training.step import Apart, directly

VARIABLE_AXES = frozenset("GFYV")  # of the truths that could be exchanged: read by the permutation alone
_CAPTURED = frozenset(name for name, feature in SCHEMA.items() if not VARIABLE_AXES & {*feature.axes})

Losses = Callable[[Any, PhaseConfig, Apart], dict[str, Tensor]]
"""(batch, phase, apart) -> scalars, `loss` among them."""
_Permutation = Callable[[Batch, Tensor], Labels]


class Execution(Protocol):
    """How a batch's forward and backward are run."""

    def forward(self, batch: Any, phase: PhaseConfig) -> dict[str, Tensor]:
        """Scalars of a batch."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the last forward's loss, given as the trainer scaled it."""
        ...


class Eager:
    """Kernel by kernel. `copies` of the weights: None where these are not plain, whole tensors."""

    def __init__(self, losses: Losses, gradients: Gradients, copies: WeightCopies | None) -> None:
        self.losses, self.gradients, self.copies = losses, gradients, copies

    def forward(self, batch: Any, phase: PhaseConfig) -> dict[str, Tensor]:
        with nullcontext() if self.copies is None else self.copies.opened():
            return self.losses(batch, phase, directly)

    def backward(self, loss: Tensor) -> None:
        try:
            with self.gradients.gathered():
                loss.backward()
        finally:  # a failure, as for want of memory, must not leave the copies to what a handler of it does
            if self.copies is not None:
                self.copies.close()


class Graphed:
    """By CUDA graphs. `scale` is what the trainer multiplies a loss by: one over the accumulated batches.

    Gradients must stay in the same memory from step to step (`FlatGradients`).
    """

    def __init__(self, losses: Losses, gradients: FlatGradients, scale: float) -> None:
        self.losses, self.gradients, self.scale = losses, gradients, scale
        self.copies = WeightCopies()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # of warm-up and capture alike: autograd remembers it by parameter
        self._recordings: dict[Hashable, _Recording | None] = {}
        self._current: _Recording | None = None

    def forward(self, batch: Batch, phase: PhaseConfig) -> dict[str, Tensor]:
        key = (phase.diffusion_samples, *(getattr(batch, name).shape for name in sorted(_CAPTURED)))
        if key not in self._recordings:
            self._forget()
            self._recordings[key] = None
            return self._warm_up(batch, phase)
        self._current = self._recordings[key]
        if self._current is None:
            self._current = self._recordings[key] = _Recording(self._pool, self._stream, batch)
            return self._current.record(self.losses, phase, self.scale, self.gradients, self.copies)
        return self._current.replay(batch)

    def _forget(self) -> None:
        """Give the memory of all graphs back; the shapes stay known, and need no second warm-up."""
        if not any(self._recordings.values()):
            return
        torch.cuda.synchronize()  # none is running any more
        self._recordings = dict.fromkeys(self._recordings)
        self._pool = torch.cuda.graph_pool_handle()  # the old one ends with the last of its graphs
        torch.cuda.empty_cache()

    def _warm_up(self, batch: Batch, phase: PhaseConfig) -> dict[str, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), self.copies.opened():
            terms = self.losses(batch, phase, directly)
        torch.cuda.current_stream().wait_stream(self._stream)
        return terms

    def backward(self, loss: Tensor) -> None:
        if self._current is None:
            try:
                with self.gradients.gathered():
                    loss.backward()
            finally:
                self.copies.close()
        else:
            self._current.backward.replay()
            self._current = None


class _Recording:
    """The graphs of one shape, the batch they read and the scalars they write."""

    def __init__(self, pool: torch.cuda._POOL_HANDLE, stream: torch.cuda.Stream, batch: Batch) -> None:
        self.pool, self.stream = pool, stream
        self.batch = batch.map(torch.clone)
        self.segments: list[torch.cuda.CUDAGraph] = []
        self.between: list[tuple[_Permutation, Tensor, Labels]] = []  # function, its structure, its result
        self.backward = torch.cuda.CUDAGraph()
        self.terms: dict[str, Tensor] = {}
        self._capturing: torch.cuda.graph | None = None

    def record(
        self,
        losses: Losses,
        phase: PhaseConfig,
        scale: float,
        gradients: FlatGradients,
        copies: WeightCopies,
    ) -> dict[str, Tensor]:
        """Capture, and run segment by segment: capturing computes nothing by itself. Every replay makes the
        copies of the weights anew.
        """
        try:
            self._begin()
            with copies.opened():
                terms = losses(self.batch, phase, self._apart)
                loss = terms["loss"] * scale
                self._end()
        finally:
            self._stop()  # a failure, as for want of memory, must not leave the device capturing
        try:
            with self._capture(self.backward), gradients.gathered():
                loss.backward()
        finally:
            copies.close()
        self.terms = {name: term.detach() for name, term in terms.items()}
        return self._results()

    def replay(self, batch: Batch) -> dict[str, Tensor]:
        """Compute anew, for another batch of the same shape."""
        for name in SCHEMA:
            if name in _CAPTURED:
                getattr(self.batch, name).copy_(getattr(batch, name), non_blocking=True)
            else:
                setattr(self.batch, name, getattr(batch, name))
        self.segments[0].replay()
        for (function, x, kept), segment in zip(self.between, self.segments[1:], strict=True):
            for old, new in zip(kept, function(self.batch, x), strict=True):
                old.copy_(new)
            segment.replay()
        return self._results()

    def _results(self) -> dict[str, Tensor]:
        """Copies, since the next batch overwrites the originals."""
        return {name: term.clone() for name, term in self.terms.items()}

    def _apart(self, function: _Permutation, batch: Batch, x: Tensor) -> Labels:
        self._end()
        labels = function(batch, x)
        self.between.append((function, x, labels))
        self._begin()
        return labels

    def _begin(self) -> None:
        graph = torch.cuda.CUDAGraph()
        self.segments.append(graph)
        self._capturing = self._capture(graph)
        self._capturing.__enter__()

    def _capture(self, graph: torch.cuda.CUDAGraph) -> torch.cuda.graph:
        """Other threads (a loader's, that pins memory) may go on with what a capture forbids."""
        return torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")

    def _end(self) -> None:
        self._stop()
        self.segments[-1].replay()

    def _stop(self) -> None:
        if self._capturing is not None:
            capturing, self._capturing = self._capturing, None
            capturing.__exit__(None, None, None)
