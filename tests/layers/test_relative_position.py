# SPDX-License-Identifier: Apache-2.0
import itertools

import torch

from foldwright.layers.relative_position import WIDTH, RelativePositionEncoding, relative_positions


def test_table_lookups_equal_the_one_hot_product_of_the_paper(batch):
    """Algorithm 3 by loops over a case with copies, a shared residue and far-apart residues."""
    batch.asym_id = torch.tensor([[0] * 8 + [1] * 8 + [2] * 4] * 2, dtype=torch.int32)
    batch.entity_id = torch.tensor([[0] * 16 + [1] * 4] * 2, dtype=torch.int32)
    batch.sym_id = torch.tensor([[0] * 8 + [5] * 8 + [0] * 4] * 2, dtype=torch.int32)
    batch.residue_index = torch.tensor(
        [[*range(1, 7), 100, 100, *range(1, 9), 1, 1, 1, 2]] * 2, dtype=torch.int32
    )
    module = RelativePositionEncoding(5).double()
    out = module(batch, torch.float64)
    a, e, s, r, t = (
        x[0].tolist()
        for x in (batch.asym_id, batch.entity_id, batch.sym_id, batch.residue_index, batch.token_index)
    )
    for i, j in itertools.product(range(20), repeat=2):
        same_chain = a[i] == a[j]
        bins = [
            min(max(r[i] - r[j] + 32, 0), 64) if same_chain else 65,
            min(max(t[i] - t[j] + 32, 0), 64) if same_chain and r[i] == r[j] else 65,
            min(max(s[i] - s[j] + 2, 0), 4) if e[i] == e[j] else 5,
        ]
        one_hot = torch.zeros(WIDTH, dtype=torch.float64)
        one_hot[[bins[0], 66 + bins[1], 133 + bins[2]]] = 1.0
        one_hot[132] = float(e[i] == e[j])
        torch.testing.assert_close(out[0, i, j], module.weight @ one_hot)


def test_token_offsets_are_seen_only_inside_a_residue(batch):
    batch.residue_index[:, 3:6] = 50
    _, d_token, _, _ = relative_positions(batch)
    assert d_token[0, 4, 3] == 33
    assert d_token[0, 4, 6] == 65
