# SPDX-License-Identifier: Apache-2.0
"""Before a run's first step its kernels are tested at the model's widths, on GPUs alone."""

import io

import pytest
import torch
from rich.console import Console

from foldwright.kernels.cases import CASES
from foldwright.training import self_test
from foldwright.training.config import ConfigError, compose_config

GPU = torch.device("cuda", 1)


def config(name):
    return compose_config([f"model={name}"]).model


@pytest.mark.parametrize("name", ["base", "small", "tiny"])
def test_sizes_are_those_of_the_model(name, ops):
    """A model's own widths hold for every case: heads divide channels, windows divide atoms."""
    model = config(name)
    sizes = self_test.small_sizes(model)
    assert (sizes.pair, sizes.token) == (model.widths.pair, model.widths.token)
    for case in CASES:
        inputs = case.inputs(torch.device("cpu"), torch.float32, sizes)
        if case.op == "triangle_attention":
            assert inputs[0].shape[-2:] == (sizes.pair_heads, sizes.pair // sizes.pair_heads)
        if case.op in ("attention_pair_bias", "window_attention", "pair_weighted_average"):
            assert case.bound(getattr(ops, case.op), inputs)(*case.varied(inputs)).isfinite().all()


def test_each_dtype_of_products_is_tested_on_the_ranks_own_gpu(monkeypatch, ops):
    tested = []
    monkeypatch.setattr(self_test, "self_test", lambda ops, device, dtype, *_: tested.append((device, dtype)))
    model = config("base")
    self_test.check_kernels(model, ops, GPU, Console(file=io.StringIO()))
    assert tested == [(GPU, torch.bfloat16)]
    model.diffusion_dtype = type(model.diffusion_dtype).float32
    self_test.check_kernels(model, ops, GPU, Console(file=io.StringIO()))
    assert tested[1:] == [(GPU, torch.bfloat16), (GPU, torch.float32)]
    self_test.check_kernels(model, ops, torch.device("cpu"), Console(file=io.StringIO()))
    assert len(tested) == 3


def test_a_failure_is_an_error_of_the_configuration(monkeypatch, ops):
    def fails(*_):
        raise ValueError("kernels: swiglu=triton fails its self-test")

    monkeypatch.setattr(self_test, "self_test", fails)
    with pytest.raises(ConfigError, match="swiglu=triton fails"):
        self_test.check_kernels(config("tiny"), ops, GPU, Console(file=io.StringIO()))
