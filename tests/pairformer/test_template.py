# SPDX-License-Identifier: Apache-2.0
import torch

from foldwright.pairformer.template import TemplateEmbedder, template_pair_features


def test_features_by_hand(batch):
    batch.asym_id[:] = 0
    batch.template_pseudo_beta[0, 0, 0] = torch.zeros(3)
    batch.template_pseudo_beta[0, 0, 1] = torch.tensor([3.0, 0.0, 0.0])  # below 3.25: no bin
    batch.template_pseudo_beta[0, 0, 2] = torch.tensor([4.6, 0.0, 0.0])  # second bin, [4.5, 5.75)
    batch.template_pseudo_beta[0, 0, 3] = torch.tensor([200.0, 0.0, 0.0])  # beyond
    corner = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])  # N on y, CA at 0, C on x
    batch.template_backbone[0, 0, 0] = corner
    batch.template_backbone[0, 0, 1] = corner + torch.tensor([0.0, 0.0, 2.0])
    features = template_pair_features(batch, 0)[0]
    assert features[0, 1, :39].sum() == 0
    assert features[0, 2, :39].argmax() == 1
    assert features[0, 3, :39].argmax() == 38
    torch.testing.assert_close(features[0, 1, 40:43], torch.tensor([0.0, 0.0, 1.0]))


def test_features_do_not_cross_chains(batch):
    features = template_pair_features(batch, 0)
    assert (batch.asym_id[0, :, None] != batch.asym_id[0]).any()
    assert not features[0][batch.asym_id[0, :, None] != batch.asym_id[0]].any()


def test_templates_that_are_padding_add_exactly_nothing(ops, miniature, batch):
    torch.manual_seed(0)
    module = TemplateEmbedder(miniature.trunk.template, miniature.widths, ops).eval()
    z, seed = torch.randn(2, 20, 20, 16), torch.tensor([1, 2])
    both = module(batch, z, seed)
    batch.template_mask[:, 1] = False
    first = module(batch, z, seed)
    assert not torch.equal(both, first)
    batch.template_mask[:] = False
    assert not module(batch, z, seed).any()
    empty = batch.map(lambda tensor: tensor)
    for name in ("template_mask", "template_restype", "template_pseudo_beta", "template_pseudo_beta_mask",
                 "template_backbone", "template_backbone_mask"):  # fmt: skip
        setattr(empty, name, getattr(batch, name)[:, :0])
    assert not module(empty, z, seed).any()
