# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.kernels.gpu_time import kernel_times


@pytest.mark.gpu
def test_kernels_are_counted_and_timed_launched_and_replayed():
    """A product of 2 x 4096^3 FLOP takes 0.1 ms at least of any GPU there is."""
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(3):
            x @ x

    products()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        products()
    for run in (products, graph.replay):
        costliest = kernel_times(run)[0]
        assert costliest.calls == 3
        assert 3e-4 < costliest.seconds < 0.1
