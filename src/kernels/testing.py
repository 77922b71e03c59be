# SPDX-License-Identifier: Apache-2.0
"""The one tolerance rule for kernels: no worse than twice PyTorch's own error in the same dtype, plus eps.

Forward and every gradient are compared with the reference in float64. The error of a tensor is
|out - ref| / |ref| (Frobenius norms); NaN never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

EPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}


def relative_error(out: Tensor, reference: Tensor) -> float:
    """|out - ref| / |ref|, or |out| where the reference is zero."""
    reference = reference.double().cpu()
    difference = (out.double().cpu() - reference).norm()
    scale = reference.norm()
    return float(difference / scale) if scale > 0 else float(difference)


def run(function: Callable[..., Tensor], inputs: Sequence[Any], seed: int = 0) -> list[Tensor]:
    """Output and gradients of every floating input, for a random incoming gradient that is the same each
    time; the output alone of an op without gradient.
    """
    leaves = [x.detach().clone().requires_grad_() if _is_float(x) else x for x in inputs]
    out = function(*leaves)
    if not out.requires_grad:
        return [out]
    generator = torch.Generator().manual_seed(seed)
    incoming = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    wanted = [x for x in leaves if _is_float(x)]
    gradients = torch.autograd.grad(out, wanted, incoming.to(out.device, out.dtype))
    return [out.detach(), *gradients]


def check_kernel(
    kernel: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Any],
    dtype: torch.dtype,
    device: str,
    wide: Sequence[int] = (),
) -> dict[str, tuple[float, float]]:
    """Errors (kernel, PyTorch in the same dtype) by tensor; AssertionError where the rule is broken.

    `inputs` are float64 tensors or other arguments; those whose position is in `wide` stay float32 whatever
    the dtype (parameters, float32 residual streams).
    """

    def cast(x: Any, position: int) -> Any:
        if not isinstance(x, Tensor):
            return x
        narrow = dtype if position not in wide else torch.float32
        return x.to(device, narrow) if _is_float(x) else x.to(device)

    low = [cast(x, i) for i, x in enumerate(inputs)]
    exact = [x.double().cpu() if _is_float(x) else x for x in low]
    expected = run(reference, [x.cpu() if isinstance(x, Tensor) else x for x in exact])
    errors: dict[str, tuple[float, float]] = {}
    for index, (truth, own, torchs) in enumerate(
        zip(expected, run(kernel, low), run(reference, low), strict=True)
    ):
        name = "output" if index == 0 else f"gradient {index}"
        errors[name] = (relative_error(own, truth), relative_error(torchs, truth))
        limit = 2 * errors[name][1] + EPS[dtype]
        assert errors[name][0] <= limit, f"{name}: error {errors[name][0]:.2e}, allowed {limit:.2e}"
    return errors


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
