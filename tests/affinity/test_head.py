# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from foldwright.affinity.head import AffinityConfig, AffinityHead, Pocket, distance_bins, pair_mask, pool
from foldwright.layers.widths import Widths

SEED = torch.tensor([5, 6])


def formula(c: int, s: int, blocks: int, heads: int = 4, expansion: int = 4) -> int:
    """Parameters of one member from the shapes of spec 6 alone (c pair, s single channels)."""
    c_in = s + 65
    multiplication = 2 * 2 * c + 4 * c * c + 2 * c * c
    attention = 2 * c + 3 * c * c + c * heads + 2 * c * c

    def transition(e: int) -> int:
        return 2 * c + 3 * e * c * c

    block = 2 * multiplication + 2 * attention + transition(expansion)
    conditioning = 2 * 2 * c + 2 * c * c + 2 * transition(2)
    entry = 2 * c + c * c + 2 * c_in * c + 64 * c
    networks = (c * c + c) + (c * s + s) + 2 * (2 * (s * s + s) + s + 1) + 2
    return entry + conditioning + blocks * block + networks


def pocket(widths: Widths, n: int = 12, n_ligand: int = 4, dtype: torch.dtype = torch.float64) -> Pocket:
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=dtype)

    is_ligand = (torch.arange(n) >= n - n_ligand).expand(2, n).contiguous()
    mask = torch.ones(2, n, dtype=torch.bool)
    return Pocket(
        normal(2, n, widths.single_inputs), normal(2, n, n, widths.pair), 8 * normal(2, n, 3), is_ligand, mask
    )


@pytest.fixture
def widths() -> Widths:
    return Widths(single=24, pair=16)


@pytest.fixture
def head(ops, widths) -> AffinityHead:
    """All weights drawn, so that every branch matters."""
    torch.manual_seed(0)
    head = AffinityHead(AffinityConfig(blocks=[2, 1], pair_heads=2), widths, ops).double().eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def test_parameter_counts_are_those_of_the_formula(ops):
    with torch.device("meta"):
        head = AffinityHead(AffinityConfig(), Widths(), ops)
    counts = [sum(p.numel() for p in member.parameters()) for member in head.members]
    assert counts == [formula(128, 384, 8), formula(128, 384, 4)]
    assert counts == [5_507_332, 3_267_844]


def test_the_score_does_not_see_pairs_of_two_protein_tokens(head, widths):
    plain = pocket(widths)
    changed = pocket(widths)
    both = ~pair_mask(changed.is_ligand, changed.token_mask)
    other = torch.randn_like(changed.z)
    changed.z = torch.where(both[..., None], other, changed.z)
    before, after = head(plain, SEED), head(changed, SEED)
    assert torch.equal(before.value, after.value)
    assert torch.equal(before.logit, after.logit)
    changed.z = torch.where(both[..., None], changed.z, other)
    assert not torch.allclose(before.value, head(changed, SEED).value)


def test_padding_and_order_change_nothing_and_the_pose_does(head, widths):
    plain = pocket(widths)
    expected = head(plain, SEED)
    padded = Pocket(
        torch.nn.functional.pad(plain.s_inputs, (0, 0, 0, 3), value=9.0),
        torch.nn.functional.pad(plain.z, (0, 0, 0, 3, 0, 3), value=9.0),
        torch.nn.functional.pad(plain.x, (0, 0, 0, 3)),
        torch.nn.functional.pad(plain.is_ligand, (0, 3)),
        torch.nn.functional.pad(plain.token_mask, (0, 3)),
    )
    torch.testing.assert_close(head(padded, SEED).value, expected.value)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    shuffled = Pocket(
        plain.s_inputs[:, order], plain.z[:, order][:, :, order], plain.x[:, order],
        plain.is_ligand[:, order], plain.token_mask,
    )  # fmt: skip
    torch.testing.assert_close(head(shuffled, SEED).value, expected.value)
    plain.x = plain.x.flip(1)
    assert not torch.allclose(head(plain, SEED).value, expected.value)


def test_every_member_learns_and_has_dropout_of_its_own(head, widths):
    head.train()
    first = head(pocket(widths), SEED)
    assert torch.equal(first.value, head(pocket(widths), SEED).value)
    assert not torch.equal(first.value, head(pocket(widths), SEED + 1).value)
    (first.value.sum() + first.logit.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


def test_distance_bins_by_hand():
    """Bounds are 2 + 20 k / 62 Å."""
    distances = torch.tensor([0.0, 1.99, 2.01, 2.33, 12.01, 21.99, 22.01, 99.0])
    assert distance_bins(distances).tolist() == [0, 0, 1, 2, 32, 62, 63, 63]


def test_the_mean_is_over_ligand_pairs_off_the_diagonal():
    """Tokens protein, ligand, padding: of nine pairs two count, (0, 1) and (1, 0)."""
    is_ligand = torch.tensor([[False, True, False]])
    mask = torch.tensor([[True, True, False]])
    z = torch.arange(9.0).view(1, 3, 3, 1)
    assert pool(z, pair_mask(is_ligand, mask)).item() == pytest.approx((1 + 3) / 2)


def test_an_ensemble_needs_a_member(ops, widths):
    with pytest.raises(ValueError, match=r"model\.affinity\.blocks: got \[\]"):
        AffinityHead(AffinityConfig(blocks=[]), widths, ops)
