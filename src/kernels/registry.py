# SPDX-License-Identifier: Apache-2.0
"""The kernel registry: which implementation of each op runs, decided once, said aloud.

An implementation registers under (op, name) with `supports`, which answers None or the reason why it cannot
run on a device. `select` resolves one `Ops` object at start-up; modules take it in their constructors, so no
kernel flag ever crosses a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from foldwright.kernels import tiles

Supports = Callable[[torch.device], str | None]


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op. A higher `preference` is tried first by `auto`."""

    op: str
    name: str
    function: Callable[..., Any]
    supports: Supports
    preference: int


@dataclass(frozen=True)
class Ops:
    """The chosen implementation of every op; signatures stand in the package docstring."""

    layer_norm: Callable[..., torch.Tensor]
    adaptive_layer_norm: Callable[..., torch.Tensor]
    gated_residual: Callable[..., torch.Tensor]
    swiglu: Callable[..., torch.Tensor]
    pair_bias: Callable[..., torch.Tensor]
    norm_and_pair_bias: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    transition: Callable[..., torch.Tensor]
    triangle_multiplication: Callable[..., torch.Tensor]
    triangle_attention: Callable[..., torch.Tensor]
    attention_pair_bias: Callable[..., torch.Tensor]
    window_attention: Callable[..., torch.Tensor]
    gather_pairs: Callable[..., torch.Tensor]
    outer_product_mean: Callable[..., torch.Tensor]
    pair_weighted_average: Callable[..., torch.Tensor]
    dropout_residual: Callable[..., torch.Tensor]
    projected_residual: Callable[..., torch.Tensor]
    smooth_lddt: Callable[..., torch.Tensor]
    weighted_rigid_align: Callable[..., torch.Tensor]


OP_NAMES = tuple(f.name for f in fields(Ops))


@dataclass
class KernelConfig:
    """`default` is `auto` or an implementation's name; `ops` names one for single ops.

    `auto` takes the fastest supported implementation of each op; a named one that cannot run raises.
    `self_test`: when training starts on a GPU, hold what was chosen against the references.
    """

    default: str = "auto"
    ops: dict[str, str] = field(default_factory=dict)
    self_test: bool = True


_REGISTRY: dict[str, list[Implementation]] = {name: [] for name in OP_NAMES}


def _anywhere(device: torch.device) -> str | None:
    return None


def register(
    op: str, name: str, *, supports: Supports = _anywhere, preference: int = 0
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that registers a function as implementation `name` of `op`."""
    if op not in _REGISTRY:
        raise ValueError(f"unknown op {op!r}; the ops are {', '.join(OP_NAMES)}")

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        if any(known.name == name for known in _REGISTRY[op]):
            raise ValueError(f"op {op!r} already has an implementation {name!r}")
        _REGISTRY[op].append(Implementation(op, name, function, supports, preference))
        return function

    return add


def implementations(op: str) -> list[Implementation]:
    """All implementations of an op, most preferred first."""
    _load_implementations()
    return sorted(_REGISTRY[op], key=lambda entry: -entry.preference)


@cache
def _load_implementations() -> None:
    """Import, once, the modules that register: here and not at the top, since they import this one."""
    names = ["reference", "sdpa"]
    if find_spec("triton") is not None:  # it has no wheels outside Linux on x86-64
        names += sorted(path.stem for path in Path(__file__).parent.glob("triton_*.py"))
    for name in names:
        import_module(f"foldwright.kernels.{name}")
    for point in entry_points(group="foldwright.kernels"):  # modules of other packages, which register, too
        point.load()


def _resolve(op: str, wanted: str, device: torch.device) -> tuple[Implementation, list[str]]:
    """The implementation to run, and why each faster one was passed over."""
    entries = implementations(op)
    passed_over: list[str] = []
    for entry in entries:
        reason = entry.supports(device)
        if wanted == "auto":
            if reason is None:
                return entry, passed_over
            passed_over.append(f"{entry.name}: {reason}")
        elif entry.name == wanted:
            if reason is not None:
                raise ValueError(f"kernels: {op}={wanted} cannot run here: {reason}; choose kernels=auto")
            return entry, passed_over
    names = [entry.name for entry in entries]
    raise ValueError(f"kernels: op {op} has no implementation {wanted!r}; expected auto or one of {names}")


def _check_names(config: KernelConfig) -> None:
    for op in config.ops:
        if op not in OP_NAMES:
            nearest = get_close_matches(op, OP_NAMES, 1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; the ops are {', '.join(OP_NAMES)}"
            raise ValueError(f"kernels.ops: unknown op {op!r}{hint}")
    known = {entry.name for op in OP_NAMES for entry in implementations(op)}
    if config.default not in known | {"auto"}:
        raise ValueError(f"kernels.default: got {config.default!r}, expected auto or one of {sorted(known)}")


def select(config: KernelConfig, device: torch.device | str, console: Console | None = None) -> Ops:
    """Resolve every op for a device and, given a console, print the table of what runs and why.

    A `default` other than auto applies to the ops that have an implementation of that name; all others run
    their reference, and the table says so.
    """
    device = torch.device(device)
    _check_names(config)
    chosen: dict[str, Callable[..., Any]] = {}
    rows: list[tuple[str, str, str]] = []
    for op in OP_NAMES:
        wanted = config.ops.get(op, config.default)
        has_it = wanted == "auto" or any(entry.name == wanted for entry in implementations(op))
        if not has_it and op not in config.ops:
            entry, reasons = _resolve(op, "reference", device)
            reasons = [f"has no {wanted}"]
        else:
            entry, reasons = _resolve(op, wanted, device)
        chosen[op] = entry.function
        rows.append((op, entry.name, "; ".join(reasons)))
    if console is not None:
        _print(rows, device, console)
        if device.type == "cuda" and (notice := tiles.notice()):
            console.print(notice, highlight=False)
    return Ops(**chosen)


def _print(rows: list[tuple[str, str, str]], device: torch.device, console: Console) -> None:
    table = Table(title=f"kernels on {device}", title_justify="left")
    for column in ("op", "runs", "passed over"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def choices(ops: Ops) -> Mapping[str, str]:
    """Name of the implementation behind every op of an `Ops`, for logs and for tests of what ran."""
    by_function = {id(entry.function): entry.name for op in OP_NAMES for entry in implementations(op)}
    return {op: by_function[id(getattr(ops, op))] for op in OP_NAMES}
