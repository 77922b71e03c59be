# SPDX-License-Identifier: Apache-2.0
"""A look at the result: a structure of the store that the averaged model predicted from noise.

`write` leaves prediction.cif, loss.png and distances.png in the run directory, `lines`
says the first and last loss, the LDDT to the truth and where everything lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldwright.data.dataset import StoreDataset
from foldwright.data.write_mmcif import write_structure
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.training.prediction import Prediction


@dataclass
class SummaryConfig:
    """What is sampled after training: `entry` (default: the smallest of the store), from noise."""

    entry: str | None = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


def choose_entry(dataset: StoreDataset, wanted: str | None) -> str:
    """The wanted entry, or the store's smallest; ValueError if the store lacks it."""
    manifest = dataset.store.manifest()
    sizes = dict(zip(manifest["entry"].to_pylist(), manifest["n_tokens"].to_pylist(), strict=True))
    if wanted is None:
        return min(sizes, key=lambda entry: (sizes[entry], entry))
    if wanted not in sizes:
        raise ValueError(f"summary.entry: got {wanted!r}, which is not in the store {dataset.store.path}")
    return wanted


def write(prediction: Prediction, rows: list[dict[str, float]], run_dir: Path) -> None:
    """Write prediction.cif, distances.png and, given rows of metrics.csv, loss.png."""
    write_structure(prediction.structure, prediction.coords[0], run_dir / "prediction.cif")
    batch = prediction.batch
    shown = batch.representative_atom[0][batch.token_mask[0]].long().cpu().numpy()
    true, resolved = batch.atom_coords[0].cpu().numpy(), batch.atom_resolved[0].cpu().numpy()
    plot_distances(prediction.coords[0, shown], true[shown], resolved[shown], run_dir / "distances.png")
    if rows:
        plot_losses(rows, run_dir / "loss.png")


def lines(
    prediction: Prediction, rows: list[dict[str, float]], run_dir: Path, checkpoint: Path | None
) -> list[str]:
    """The few lines that end a run; paths stay whole however narrow the terminal."""
    pairs: list[tuple[str, str]] = []
    if rows:
        window = max(1, len(rows) // 10)
        for name, part in (("first", rows[:window]), ("last", rows[-window:])):
            mean = np.mean([row["loss"] for row in part])
            steps = f"steps {part[0]['step']:.0f}-{part[-1]['step']:.0f}"
            pairs.append((f"{name} loss", f"{mean:#.4g} (mean of {steps})"))
    entry, tokens = prediction.structure.entry_id, int(prediction.batch.token_mask.sum())
    sampled = f"{entry}, {tokens} tokens, by the averaged weights: LDDT {prediction.lddt[0]:.3f}"
    pairs += [
        ("sampled", sampled),
        ("structure", str(run_dir / "prediction.cif")),
        ("metrics", str(run_dir / "metrics.csv")),
        ("figures", f"{run_dir / 'loss.png'}, {run_dir / 'distances.png'}"),
        ("checkpoint", str(checkpoint)),
    ]
    return [f"{name:>10}  {value}" for name, value in pairs]


def plot_losses(rows: list[dict[str, float]], path: Path) -> None:
    """Loss and its terms over steps, as PNG, with the loss's running mean over a twentieth of the run."""
    figure, axes = _figure(8, 4.5)
    steps = np.array([row["step"] for row in rows])
    names = [name for name in rows[0] if name in ("loss", "weighted_mse", "smooth_lddt", "distogram")]
    for name in names:
        axes.plot(steps, [row[name] for row in rows], label=name, alpha=0.5, linewidth=0.8)
    window = max(1, len(rows) // 20)
    losses = np.array([row["loss"] for row in rows])
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(steps[window - 1 :], mean, color="black", label=f"loss, mean of {window}")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_distances(
    predicted: NDArray[np.floating], true: NDArray[np.floating], resolved: NDArray[np.bool_], path: Path
) -> None:
    """Distance maps [N, N] of representative atoms in Å side by side, as PNG; unresolved pairs are blank."""
    figure, axes = _figure(10, 4.5, columns=2)
    shown = resolved[:, None] & resolved[None, :]
    for axis, x, title in zip(axes, (predicted, true), ("predicted", "true"), strict=True):
        distance = np.linalg.norm(x[:, None] - x[None, :], axis=-1)
        image = axis.imshow(np.where(shown, distance, np.nan), vmin=0, vmax=30, cmap="viridis_r")
        axis.set(title=f"{title} distance / Å", xlabel="token", ylabel="token")
    figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure without pyplot, whose global state and windows have no place in a training process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)
