# SPDX-License-Identifier: Apache-2.0
"""The confidence head: zero at first, symmetric where it must be, and blind to rigid motions and padding."""

import torch

from foldwright.batch import collate
from foldwright.confidence.head import ConfidenceConfig, ConfidenceHead, SlotLinear, distance_bins
from foldwright.data.synthetic import synthetic_example
from foldwright.layers.widths import Widths
from foldwright.pairformer.pairformer import PairformerConfig

WIDTHS = Widths(single=24, pair=16, msa=12, atom=20, atom_pair=6, token=32)
SEED = torch.tensor([1, 2])


def head_of(ops, awake=True):
    torch.manual_seed(0)
    head = ConfidenceHead(ConfidenceConfig(PairformerConfig(1, 2, 4, dropout=0.0)), WIDTHS, ops)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(awake * 0.1 * torch.randn_like(parameter))
    return head.double()


def inputs(batch, seed=0):
    torch.manual_seed(seed)
    n = batch.token_mask.shape[1]
    s_inputs = torch.randn(2, n, WIDTHS.single_inputs).double()
    return s_inputs, torch.randn(2, n, 24).double(), torch.randn(2, n, n, 16).double()


def test_bins_follow_the_reading():
    d = torch.tensor([0.0, 3.24, 3.25, 4.49, 4.5, 50.74, 50.75, 900.0])
    assert distance_bins(d).tolist() == [-1, -1, 0, 0, 1, 37, 38, 38]


def test_logits_start_at_zero(ops, batch):
    logits = head_of(ops, awake=False)(batch, *inputs(batch), batch.atom_coords.double(), SEED)
    assert logits.plddt.shape == (2, 160, 50)
    assert logits.resolved.shape == (2, 160, 2)
    assert logits.pae.shape == logits.pde.shape == (2, 20, 20, 64)
    assert not any(part.any() for part in vars(logits).values())


def test_distance_errors_are_symmetric_and_motions_do_not_matter(ops, batch):
    head, x = head_of(ops), batch.atom_coords.double()
    logits = head(batch, *inputs(batch), x, SEED)
    torch.testing.assert_close(logits.pde, logits.pde.transpose(1, 2))
    assert not torch.allclose(logits.pae, logits.pae.transpose(1, 2))
    turn = torch.linalg.qr(torch.randn(3, 3).double())[0]
    moved = head(batch, *inputs(batch), x @ turn + 3.0, SEED)
    torch.testing.assert_close(moved.pae, logits.pae)
    other = head(batch, *inputs(batch), 2.0 * x, SEED)
    assert not torch.allclose(other.plddt, logits.plddt), "the structure must matter"


def test_padding_changes_nothing(ops, batch):
    head = head_of(ops)
    example = synthetic_example(20, 160, n_rows=9, n_cycles=2, n_templates=2, seed=3)
    plain = collate([example] * 2, {})
    padded = collate([example.pad({"N": 27, "A": 192})] * 2, {})
    s_inputs, s, z = inputs(plain)
    wide = [torch.randn(2, 27, part.shape[-1]).double() for part in (s_inputs, s)]
    wide[0][:, :20], wide[1][:, :20] = s_inputs, s
    z_wide = torch.randn(2, 27, 27, 16).double()
    z_wide[:, :20, :20] = z
    n, atoms = int(plain.token_mask[0].sum()), int(plain.atom_mask[0].sum())
    first = head(plain, s_inputs, s, z, plain.atom_coords.double(), SEED)
    second = head(padded, *wide, z_wide, padded.atom_coords.double(), SEED)
    torch.testing.assert_close(second.plddt[:, :atoms], first.plddt[:, :atoms])
    torch.testing.assert_close(second.pae[:, :n, :n], first.pae[:, :n, :n])


def test_every_slot_has_weights_of_its_own(batch):
    layer = SlotLinear(24, 5).double()
    torch.nn.init.normal_(layer.weight)
    s = inputs(batch)[1]
    out = layer(s, batch)
    weight = layer.weight.view(24, 5, 24)
    for atom in (0, 1, 7, 50):
        token, slot = int(batch.atom_to_token[1, atom]), int(batch.atom_slot[1, atom])
        torch.testing.assert_close(out[1, atom], weight[slot] @ s[1, token])
