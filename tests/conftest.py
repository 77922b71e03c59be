# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures. Kernels run under Triton's interpreter where there is no GPU: this is the only place
that says so.
"""

import os
import signal

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# a shell has its background jobs ignore Ctrl-C, and runs that they start inherit it
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from foldwright.batch import collate
from foldwright.confidence.head import ConfidenceConfig
from foldwright.data.synthetic import synthetic_example
from foldwright.diffusion.module import DiffusionConfig
from foldwright.kernels import KernelConfig, select
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.widths import Widths
from foldwright.model import AlphaFold3, ModelConfig, Precision
from foldwright.pairformer.msa import MSAConfig
from foldwright.pairformer.pairformer import PairformerConfig
from foldwright.pairformer.template import TemplateConfig
from foldwright.pairformer.trunk import TrunkConfig


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough, too")
    parser.addoption("--require-gpu", action="store_true", help="a test skipped for want of a GPU fails")
    parser.addoption("--record-golden", action="store_true", help="record the golden losses anew")


def pytest_collection_modifyitems(config, items):
    # whole runs first: beside the last of many small tests no process waits for a long one
    items.sort(key=lambda item: not {"training", "golden"} & set(item.path.parts))
    count = torch.cuda.device_count()
    for item in items:
        if item.get_closest_marker("thorough") and not config.getoption("--thorough"):
            item.add_marker(pytest.mark.skip(reason="too long for every run: `make thorough` runs it"))
        needed = 2 if item.get_closest_marker("multigpu") else 1 if item.get_closest_marker("gpu") else 0
        if count < needed and not config.getoption("--require-gpu"):
            item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA device(s), found {count}"))


@pytest.fixture(scope="session")
def ops():
    return select(KernelConfig("reference"), "cpu")


@pytest.fixture(scope="session")
def miniature() -> ModelConfig:
    """Every module of AF3 in the smallest widths that keep all shapes distinct, in float32."""
    return ModelConfig(
        widths=Widths(single=24, pair=16, msa=12, atom=20, atom_pair=6, token=32),
        trunk=TrunkConfig(
            pairformer=PairformerConfig(blocks=2, pair_heads=2, single_heads=4),
            msa=MSAConfig(blocks=2, c_outer=5, heads=2, c_head=3, pair_heads=2),
            template=TemplateConfig(blocks=1, channels=8, heads=2),
            atom=AtomTransformerConfig(blocks=1, heads=2),
        ),
        diffusion=DiffusionConfig(blocks=2, heads=4, c_fourier=16, atom=AtomTransformerConfig(1, 2)),
        confidence=ConfidenceConfig(PairformerConfig(1, 2, 4, dropout=0.0)),
        trunk_dtype=Precision.float32,
        diffusion_dtype=Precision.float32,
    )


@pytest.fixture
def batch():
    """Two examples of 20 tokens and at most 160 atoms, two cycles of nine MSA rows, two templates."""
    examples = [
        synthetic_example(20, 160, n_rows=9, n_cycles=2, n_templates=2, seed=s, sample_number=s)
        for s in (3, 4)
    ]
    return collate(examples, {})


@pytest.fixture
def awake(ops):
    """Build a model whose zero-initialised weights are drawn too, so that every branch matters."""

    def build(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> AlphaFold3:
        torch.manual_seed(seed)
        model = AlphaFold3(config, ops)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.to(dtype)

    return build
