# SPDX-License-Identifier: Apache-2.0
import torch

from foldwright.kernels.reference import gather_pairs
from foldwright.layers.atom_encoder import AtomPairEmbedder, atom_assignment, mean_over_tokens


def test_products_with_the_assignment_gather_and_average(batch):
    assignment = atom_assignment(batch, torch.float64)
    tokens, atoms = torch.randn(2, 20, 3, dtype=torch.float64), torch.randn(2, 1, 160, 3, dtype=torch.float64)
    gathered = assignment @ tokens
    mean = mean_over_tokens(atoms, assignment)
    for b in range(2):
        members = batch.atom_to_token[b].masked_fill(~batch.atom_mask[b], -1)
        for token in range(20):
            here = members == token
            if here.any():
                torch.testing.assert_close(mean[b, 0, token], atoms[b, 0, here].mean(0))
                torch.testing.assert_close(gathered[b, here], tokens[b, token].expand(int(here.sum()), 3))
            else:
                assert not mean[b, 0, token].any()


def test_pair_terms_exist_only_inside_a_reference_space(batch):
    p = AtomPairEmbedder(4)(batch, torch.float32)
    for w, i, j in [(0, 3, 48 + 3), (0, 0, 48 + 40), (1, 5, 48 - 20)]:
        q, k = 32 * w + i, 32 * w - 48 + j
        same = batch.ref_space_uid[0, q] == batch.ref_space_uid[0, k]
        assert bool(p[0, w, i, j].any()) == bool(same)
    assert not p[0, 0, :, :48].any()


def test_pairs_are_gathered_at_the_tokens_of_their_atoms(batch):
    z = torch.randn(2, 20, 20, 3)
    out = gather_pairs(z, batch.atom_to_token, batch.atom_mask)
    assert not out[:, 0, :, :48].any(), "before the first atom"
    for b, w, i, j in [(0, 1, 2, 60), (1, 3, 31, 50), (1, 0, 0, 127)]:
        q, k = 32 * w + i, 32 * w - 48 + j
        assert torch.equal(out[b, w, i, j], z[b, batch.atom_to_token[b, q], batch.atom_to_token[b, k]])
