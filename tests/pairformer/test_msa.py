# SPDX-License-Identifier: Apache-2.0
import math

import torch

from foldwright.pairformer.msa import MSAModule, msa_features


def test_features_are_the_papers(batch):
    batch.deletion_count[0, 1, 2, 5] = 3
    batch.deletion_count[0, 1, 2, 6] = 0
    features = msa_features(batch, 1, torch.float32)
    assert features.shape == (2, 9, 20, 34)
    assert features[0, 2, 5, 32] == 1.0
    torch.testing.assert_close(features[0, 2, 5, 33], torch.tensor(2 / math.pi * math.atan(1.0)))
    assert not features[0, 2, 6, 32:].any()
    assert torch.equal(features[..., :32].argmax(-1), batch.msa[:, 1].long())


def test_rows_count_as_a_set_and_masked_ones_not_at_all(ops, miniature, awake, batch):
    module = awake(miniature).trunk.msa.eval()
    z = torch.randn(2, 20, 20, 16, dtype=torch.float64)
    s_inputs, seed = torch.randn(2, 20, 24 + 65, dtype=torch.float64), torch.tensor([0, 1])
    expected = module(batch, 0, z, s_inputs, seed)
    order = torch.randperm(9)
    shuffled = batch.map(lambda tensor: tensor)
    shuffled.msa, shuffled.deletion_count = batch.msa[:, :, order], batch.deletion_count[:, :, order]
    torch.testing.assert_close(module(shuffled, 0, z, s_inputs, seed), expected)
    batch.msa_mask[:, :, 7:] = False
    masked = module(batch, 0, z, s_inputs, seed)
    batch.msa[:, :, 7:] = 3
    torch.testing.assert_close(module(batch, 0, z, s_inputs, seed), masked)
    assert not torch.allclose(masked, expected)


def test_the_last_block_has_no_dead_update(ops, miniature):
    module = MSAModule(miniature.trunk.msa, miniature.widths, ops)
    assert module.blocks[-1].averaging is None
    assert module.blocks[0].averaging is not None
