# SPDX-License-Identifier: Apache-2.0
"""What a GPU works on, kernel by kernel, without the time that Python needs to launch it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel."""

    name: str
    calls: int
    seconds: float


def kernel_times(function: Callable[[], Any]) -> list[KernelTime]:
    """Every kernel, copy and fill of one call on the current GPU, the costliest first.

    Read from the profiler's raw results: its table of a step of 130,000 launches takes it the better part of
    a minute.
    """
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    results = profiler.profiler and profiler.profiler.kineto_results
    assert results
    launches: defaultdict[str, list[float]] = defaultdict(list)
    for event in results.events():
        if event.device_type() == torch.autograd.DeviceType.CUDA:
            launches[event.name()].append(event.duration_ns() / 1e9)
    kernels = [KernelTime(name, len(each), sum(each)) for name, each in launches.items()]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)


def gpu_milliseconds(function: Callable[[], Any], calls: int = 10) -> float:
    """What the GPU works on one call: the sum over its kernels, averaged over a number of calls."""
    kernels = kernel_times(lambda: [function() for _ in range(calls)])
    return 1e3 * sum(kernel.seconds for kernel in kernels) / calls
