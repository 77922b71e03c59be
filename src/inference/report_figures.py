# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report as data URIs: curves, scatter plots and maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_POINTS = 2000  # of a curve; more do not show
_COLUMNS = 3  # small figures side by side
_LARGEST_DISTANCE = 30.0  # Å
Values = NDArray[np.floating]


def curves(steps: Values, columns: Mapping[str, Values], logarithmic: Sequence[str] = ()) -> str:
    """Each column over the steps in axes of its own, as SVG; one with less than two values is left out."""
    shown = {name: y for name, y in columns.items() if np.isfinite(y).sum() > 1}
    if not shown:
        return ""
    figure, axes = _grid(len(shown))
    stride = -(-len(steps) // _MOST_POINTS)
    for axis, (name, y) in zip(axes, shown.items(), strict=False):
        known = np.isfinite(y)
        axis.plot(steps[known][::stride], y[known][::stride], linewidth=0.8)
        axis.set_title(name, fontsize=9)
        if name in logarithmic and y[known].min() > 0:
            axis.set_yscale("log")
    return _uri(figure, "svg")


def against_size(size: Values, columns: Mapping[str, Values]) -> str:
    """Each column against the number of tokens, a point a target, as SVG."""
    shown = {name: y for name, y in columns.items() if np.isfinite(y).any()}
    if not shown:
        return ""
    figure, axes = _grid(len(shown))
    for axis, (name, y) in zip(axes, shown.items(), strict=False):
        axis.plot(size, y, "o", markersize=3)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("tokens", fontsize=8)
    return _uri(figure, "svg")


def maps(named: Mapping[str, Values]) -> str:
    """Square maps [N, N] in Å side by side, as PNG; NaN is blank."""
    figure, axes = _figure(4.2 * len(named), 3.8, 1, len(named))
    for axis, (title, values) in zip(axes, named.items(), strict=True):
        image = axis.imshow(values, vmin=0, vmax=_LARGEST_DISTANCE, cmap="viridis_r")
        axis.set(title=f"{title} / Å", xlabel="token", ylabel="token")
        figure.colorbar(image, ax=axis, shrink=0.8)
    return _uri(figure, "png")


def gap_picture(sizes: Values, by_size: Mapping[str, Values], edges: Mapping[str, Values]) -> bytes:
    """LDDT of each way of predicting against the number of tokens, a point a target; and against the distance
    to the cut, means over the tokens of all targets. An SVG file.

    sizes [T]; by_size: [T] each. edges: columns [E] of one length: `distance`, `tokens`, and LDDTs.
    """
    figure, (left, right) = _figure(11, 3.6, 1, 2)
    for mode, values in by_size.items():
        left.plot(sizes, values, "o", markersize=4, label=mode.replace("_", " "))
    left.set(xlabel="tokens", ylabel="LDDT")
    distances, place = np.unique(edges["distance"], return_inverse=True)
    counts = np.bincount(place, edges["tokens"])
    for mode, values in edges.items():
        if mode.startswith("lddt_"):
            means = np.bincount(place, edges["tokens"] * values) / counts
            right.plot(distances, means, label=mode.removeprefix("lddt_").replace("_", " "))
    right.set(xlabel="tokens to the crop's cut", ylabel="LDDT of tokens, pairs within the crop")
    for axis in (left, right):
        axis.legend(fontsize=8)
    return _drawn(figure, "svg")


def _grid(number: int) -> tuple[Any, list[Any]]:
    rows = -(-number // _COLUMNS)
    figure, axes = _figure(11, 2.4 * rows, rows, _COLUMNS)
    for axis in axes[number:]:
        axis.set_visible(False)
    for axis in axes:
        axis.tick_params(which="both", labelsize=7)
    return figure, axes


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel().tolist()


def _uri(figure: Any, kind: str) -> str:
    return data_uri(_drawn(figure, kind), "svg+xml" if kind == "svg" else kind)


def _drawn(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=90)
    return buffer.getvalue()


def data_uri(picture: bytes, kind: str) -> str:
    """A picture within a page: `kind` is png or svg+xml."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()
