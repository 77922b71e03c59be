# SPDX-License-Identifier: Apache-2.0
"""The self-test at start-up: every chosen kernel against its reference, once, at small sizes.

By the one tolerance rule (`kernels.testing`), forward and gradients, on the device that it is about to train
on: a compiler or driver that miscompiles is seen before a GPU hour is spent. The cases know ops, not
implementations: a new one is tested without an entry of its own.
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import torch
from rich.console import Console
from torch import Tensor

from foldwright.kernels.cases import CASES, Case, Sizes
from foldwright.kernels.registry import Ops, choices, implementations
from foldwright.kernels.testing import check_kernel

# Multiples of 16 and not of a tile: Triton takes the program that training takes, with its edges masked.
TOKENS, ATOMS, MSA_ROWS, SAMPLES = 48, 96, 16, 4

_FAULTS: tuple[type[Exception], ...] = (AssertionError, RuntimeError, TypeError, ValueError)
if find_spec("triton") is not None:
    from triton.errors import TritonError

    _FAULTS += (TritonError,)  # of its compiler, and for want of shared memory


def self_test(
    ops: Ops, device: torch.device, dtype: torch.dtype, sizes: Sizes, console: Console
) -> dict[str, float]:
    """Largest error of every op that does not run its reference; a line on the console says so.

    `dtype` is that of the model's products, `sizes` have its widths. Raises ValueError for an implementation
    that fails, with the op, what went wrong and how to do without it.
    """
    began = time.perf_counter()
    chosen = choices(ops)
    tested = [case for case in CASES if chosen[case.op] != "reference"]
    errors = {case.op: _check(case, ops, chosen[case.op], device, dtype, sizes) for case in tested}
    found = "nothing to test, every op runs its reference"
    if errors:
        worst = max(errors, key=lambda op: errors[op])
        found = f"{len(errors)} ops agree with their references, largest error {errors[worst]:.1e} ({worst})"
    seconds = time.perf_counter() - began
    console.print(f"kernel self-test on {device}: {found}; {seconds:.1f} s", highlight=False)
    return errors


def _check(case: Case, ops: Ops, name: str, device: torch.device, dtype: torch.dtype, sizes: Sizes) -> float:
    kernel = getattr(ops, case.op)
    reference = next(entry.function for entry in implementations(case.op) if entry.name == "reference")
    inputs = case.inputs(device, dtype, sizes)
    varied = case.varied(inputs)
    wide = [i for i, x in enumerate(varied) if isinstance(x, Tensor) and x.dtype == torch.float32]
    try:
        errors = check_kernel(
            case.bound(kernel, inputs), case.bound(reference, inputs), varied, dtype, str(device), wide
        )
    except _FAULTS as error:
        raise ValueError(
            f"kernels: {case.op}={name} fails its self-test on {device} in {dtype}: "
            f"{type(error).__name__}: {error}; train without it by +kernels.ops.{case.op}=reference"
        ) from error
    return max(own for own, _ in errors.values())
