# SPDX-License-Identifier: Apache-2.0
import torch

from foldwright.layers.attention import PairBias, PairBiases, mask_bias


def test_all_maps_from_one_product_equal_one_norm_and_projection_a_block(ops):
    torch.manual_seed(0)
    z, mask = torch.randn(2, 7, 7, 6, dtype=torch.float64), torch.arange(7)[None].expand(2, -1) < 5
    module = PairBiases(6, 3, ops, blocks=4).double()
    with torch.no_grad():
        module.scale.normal_()
    weights = module.weight.unflatten(0, (4, 3))
    for block, bias in enumerate(module(z, mask)):
        normed = torch.nn.functional.layer_norm(z, (6,), module.scale[block])
        expected = (normed @ weights[block].T).permute(0, 3, 1, 2)
        torch.testing.assert_close(bias[..., :5], expected[..., :5])
        assert (bias[..., 5:] < -1e8).all()


def test_one_map_is_a_norm_with_offset_and_a_projection(ops):
    torch.manual_seed(0)
    z, mask = torch.randn(2, 7, 7, 6, dtype=torch.float64), torch.arange(7)[None].expand(2, -1) < 5
    module = PairBias(6, 3, ops).double()
    with torch.no_grad():
        module.scale.normal_()
        module.offset.normal_()
    bias = module(z, mask_bias(mask, z.dtype))
    normed = torch.nn.functional.layer_norm(z, (6,), module.scale[0], module.offset[0])
    torch.testing.assert_close(bias[..., :5], (normed @ module.weight.T).permute(0, 3, 1, 2)[..., :5])
    assert (bias[..., 5:] < -1e8).all()
