# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foldwright.batch import collate
from foldwright.confidence.head import ConfidenceHead
from foldwright.data.synthetic import synthetic_example
from foldwright.flops import StepSizes, confidence_head, diffusion_block, pairformer_block, step_flops
from foldwright.kernels import KernelConfig, select
from foldwright.layers.attention import ConditionedAttentionPairBias, PairBiases
from foldwright.layers.conditioned import ConditionedBlock
from foldwright.layers.transition import ConditionedTransition
from foldwright.model import ModelConfig
from foldwright.pairformer.pairformer import PairformerBlock

OPS = select(KernelConfig("reference"), "cpu")
BASE = ModelConfig()


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize(("n", "golden"), [(64, 5_318_377_472), (128, 22_242_394_112)])
def test_pairformer_block_executes_and_predicts_the_golden_flops(n, golden):
    with torch.device("meta"):
        block = PairformerBlock(BASE.trunk.pairformer, BASE.widths, OPS)
        s, z = torch.empty(1, n, 384), torch.empty(1, n, n, 128)
        mask, bias = torch.ones(1, n, dtype=torch.bool), torch.zeros(1, 1, 1, n)
        seeds = torch.zeros(1, 4, dtype=torch.int64)
        assert counted(lambda: block(s, z, mask, bias, seeds)) == golden
    assert pairformer_block(n, BASE) == golden


@pytest.mark.parametrize(("samples", "golden"), [(1, 2_231_369_728), (4, 8_724_152_320)])
def test_diffusion_block_executes_and_predicts_the_golden_flops(samples, golden):
    n = 128
    with torch.device("meta"):
        attention = ConditionedAttentionPairBias(768, 384, 16, OPS)
        block = ConditionedBlock(attention, ConditionedTransition(768, 384, 2, OPS))
        pair_bias = PairBiases(128, 16, OPS, blocks=1)
        a, s = torch.empty(1, samples, n, 768), torch.empty(1, samples, n, 384)
        z, mask = torch.empty(1, n, n, 128), torch.ones(1, n, dtype=torch.bool)
        assert counted(lambda: block(a, s, pair_bias(z, mask)[0])) == golden
    assert diffusion_block(n, samples, BASE) == golden


def test_a_step_agrees_with_the_spec_within_a_percent():
    """Spec 8.3 at 384 tokens, without rollout and confidence: 92.9 TF without templates, 2.5 cycles."""
    sizes = StepSizes(384, 3456, 1024, 0, 48, 2.5)
    assert step_flops(BASE, sizes)["total"] == pytest.approx(92.9e12, rel=0.01)


def test_rollout_and_confidence_agree_with_the_spec():
    """Spec 8.3 at 384 tokens: 3.68 TF for the 20 steps, 1.03 TF for the head forward."""
    parts = step_flops(BASE, StepSizes(384, 3456, 1024, 0, 48, 2.5, rollout_steps=20))
    assert parts["rollout"] == pytest.approx(3.68e12, rel=0.05)
    assert parts["confidence"] == pytest.approx(3 * 1.03e12, rel=0.01)


def test_the_confidence_head_executes_the_predicted_flops():
    n, atoms = 64, 512
    with torch.device("meta"):
        head = ConfidenceHead(BASE.confidence, BASE.widths, OPS)
    batch = collate([synthetic_example(n, atoms)], {}).to("meta")
    s_inputs, s = torch.empty(1, n, 449, device="meta"), torch.empty(1, n, 384, device="meta")
    z, x = torch.empty(1, n, n, 128, device="meta"), torch.empty(1, atoms, 3, device="meta")
    seed = torch.zeros(1, dtype=torch.int64, device="meta")
    found = counted(lambda: head(batch, s_inputs, s, z, x, seed))
    assert found == pytest.approx(confidence_head(n, BASE), rel=1e-3)
