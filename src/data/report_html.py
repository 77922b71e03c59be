# SPDX-License-Identifier: Apache-2.0
"""A table and histograms as one HTML file: no scripts, no network, the pictures are SVG within it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BINS = 24
_WIDTH, _HEIGHT, _BOTTOM = 420, 150, 18  # pixels; the labels stand in the last of the height
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd}td:nth-child(2){text-align:right;font-variant-numeric:tabular-nums}
td:nth-child(3){overflow-wrap:anywhere}.rejected{color:#a11}.left,.warning{color:#850}
figure{display:inline-block;margin:1rem 1.5rem 0 0}rect{fill:#47a}text{font-size:11px;fill:#444}"""


class Histogram(NamedTuple):
    """Numbers to be drawn; those that are not above zero are left out of a logarithmic one."""

    title: str
    values: Sequence[float]
    logarithmic: bool


def html_page(title: str, rows: Sequence[tuple[str, str, str]], histograms: Sequence[Histogram]) -> str:
    """The page: a table of (outcome, count, example), and the histograms that have any value."""
    body = [f"<h1>{escape(title)}</h1>", "<table><tr><th>outcome<th>count<th>example</tr>"]
    for name, count, example in rows:
        kind = name.partition(":")[0].split(" ")[0] if ":" in name else ""
        cells = "".join(f"<td>{escape(text)}</td>" for text in (name, count, example))
        body.append(f'<tr class="{escape(kind)}">{cells}</tr>')
    body.append("</table>")
    body += [figure for histogram in histograms if (figure := histogram_figure(histogram))]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def histogram_figure(histogram: Histogram) -> str:
    """A captioned picture; empty where there is no value."""
    values = np.asarray(histogram.values, np.float64)
    left_out = int((values <= 0).sum()) if histogram.logarithmic else 0
    if histogram.logarithmic:
        values = values[values > 0]
    if not len(values):
        return ""
    counts, edges = np.histogram(values, _edges(values, histogram.logarithmic))
    note = f"{len(values)} values, median {np.median(values):.4g}" + f", {left_out} of zero" * bool(left_out)
    caption = f"<figcaption>{escape(histogram.title)}<br><small>{note}</small></figcaption>"
    return f"<figure>{caption}{_svg(counts, edges)}</figure>"


def _edges(values: NDArray[np.float64], logarithmic: bool) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low * 0.9, high * 1.1 + (high == 0)
    return np.geomspace(low, high, _BINS + 1) if logarithmic else np.linspace(low, high, _BINS + 1)


def _svg(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> str:
    width = _WIDTH / len(counts)
    heights = (_HEIGHT - _BOTTOM) * counts / counts.max()
    bars = [
        f'<rect x="{i * width:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" width="{width - 1:.1f}" '
        f'height="{height:.1f}"><title>{low:.4g} to {high:.4g}: {count}</title></rect>'
        for i, (height, count, low, high) in enumerate(zip(heights, counts, edges, edges[1:], strict=False))
    ]
    marks = ((0, "start"), (len(counts) // 2, "middle"), (len(counts), "end"))
    labels = [
        f'<text x="{i * width:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{edges[i]:.3g}</text>'
        for i, anchor in marks
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        + "".join([*bars, *labels])
        + "</svg>"
    )
