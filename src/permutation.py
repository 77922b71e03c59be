# SPDX-License-Identifier: Apache-2.0
"""Permutation alignment: the ground truth relabelled to be as near as can be to a prediction.

Source: AF3 SI 4.2, AlphaFold-Multimer 7.3 (spec 2.8). Identical molecules are interchangeable, copies outside
the crop included; so are the atoms of a residue that an automorphism of it exchanges. What may be exchanged
travels in the Batch (`molecule_*`, `truth_*`, `symmetry_*`; see data/truth.py). All of it is batched and
without gradient.

Readings: the largest predicted copies of the anchor's kind are tried with every true copy (the paper fixes
one of the two), and every sum of squared distances follows exactly from moments of the point pairs, in
float64; so a candidate costs a few 3 x 3 products. An assignment replaces the labels as given only if it is
nearer to the prediction. Where the two show different numbers of token centres they are judged by those that
both show: else the copy would be preferred that lacks what is predicted worst, a flexible tail, which then
nothing supervises.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from foldwright.batch import Batch
from foldwright.geometry import best_rotation

MIN_POINTS = 3  # fewer shared resolved points define no superposition
_MIN_ANCHOR = 4  # resolved tokens of a polymer that may be the anchor
_MAX_LEADS = 8  # predicted copies of the anchor that are tried
_UNSEEN = 1e12  # Å²: a copy that shows nothing of what was predicted is taken last
_TOLERANCE = 1e-6  # Å²: gains below it are rounding


class Moments(NamedTuple):
    """Sums over pairs of a predicted point p and a true point t: number [...], p and t [..., 3],
    p tᵀ [..., 3, 3] and |p|² + |t|² [...]. float64.
    """

    number: Tensor
    p: Tensor
    t: Tensor
    cross: Tensor
    square: Tensor


class Superposition(NamedTuple):
    """The motion x -> rotation x + shift of the truth onto the prediction, and what it leaves of the sum of
    squared distances (Å²).
    """

    rotation: Tensor
    shift: Tensor
    residual: Tensor


class Labels(NamedTuple):
    """Ground truth of a crop: coordinates [B, A, 3] Å, resolved [B, A], and which bonds count [B, K]."""

    atom_coords: Tensor
    atom_resolved: Tensor
    bond_mask: Tensor


@torch.no_grad()
def permuted_labels(batch: Batch, x_BA3: Tensor) -> Labels:
    """The labels of the best relabelling.

    x_BA3: predicted coordinates in Å, of the mini-rollout; any rigid motion of them gives the same result.
    """
    copies_BG = assign_copies(batch, x_BA3)
    coords_BA3, resolved_BA = truth_of_copies(batch, copies_BG)
    source_BA = assign_atoms(batch, x_BA3, coords_BA3, resolved_BA)
    coords_BA3 = torch.gather(coords_BA3, 1, source_BA[..., None].expand(-1, -1, 3))
    resolved_BA = torch.gather(resolved_BA, 1, source_BA)
    ends_BK2 = batch.bond_atoms.long().flatten(1)
    bond_resolved = torch.gather(resolved_BA, 1, ends_BK2).view(*batch.bond_atoms.shape).all(-1)
    return Labels(coords_BA3, resolved_BA, batch.bond_mask & bond_resolved)


def permute_truth(batch: Batch, x_BA3: Tensor) -> Batch:
    """The batch with the labels of the best relabelling; see `permuted_labels`."""
    return replace(batch, **permuted_labels(batch, x_BA3)._asdict())


def truth_of_copies(batch: Batch, copies_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [B, A, 3] and resolved [B, A] of the crop's atoms if molecule g is true copy copies[g]."""
    molecule_BA = torch.gather(batch.token_molecule.long(), 1, batch.atom_to_token.long())
    step_BG = copies_BG * batch.molecule_stride.long()
    index_BA = batch.truth_atom.long() + torch.gather(step_BG, 1, molecule_BA)
    coords = torch.gather(batch.truth_coords, 1, index_BA[..., None].expand(-1, -1, 3))
    resolved = torch.gather(batch.truth_resolved, 1, index_BA) & batch.atom_mask
    return coords * resolved[..., None], resolved


# --- chains ---


@torch.no_grad()
def assign_copies(batch: Batch, x_BA3: Tensor) -> Tensor:
    """The true copy of every molecule of the crop: int64 [B, G], no copy twice within a group."""
    centres = _true_centres(batch)
    moments = _copy_moments(batch, x_BA3, centres.t, centres.seen)  # [B, G, C]
    given_BG = batch.molecule_copy.long()
    n_own_BG = torch.gather(moments.number, 2, given_BG[..., None])[..., 0] * batch.molecule_mask
    lead_BL, possible_BK = _candidates(batch, moments, n_own_BG)  # K = L x C pairs (predicted, true)
    row = torch.arange(len(lead_BL), device=lead_BL.device)[:, None]
    motion = superpose(Moments(*(m[row, lead_BL].flatten(1, 2) for m in moments)))
    choice_BKG = _greedy(batch, _cost(moments, motion), lead_BL, n_own_BG)
    choice_BKG = torch.cat([given_BG[:, None], choice_BKG], 1)
    excess_BK = _excess(batch, x_BA3, centres, moments, choice_BKG)
    excess_BK[:, 1:].masked_fill_(~possible_BK, torch.inf)
    best_B = excess_BK.argmin(1)
    return choice_BKG[torch.arange(len(best_B), device=best_B.device), best_B]


class _Centres(NamedTuple):
    """Every token's centre in each of its molecule's copies [B, N, C, 3] Å, float64, and where it is seen
    [B, N, C].
    """

    t: Tensor
    seen: Tensor


def _true_centres(batch: Batch) -> _Centres:
    molecule_BN, centre_BN = batch.token_molecule.long(), batch.centre_atom.long()
    copies = torch.arange(max(int(batch.molecule_copies.max()), 1), device=batch.device)
    is_copy_BNC = copies < torch.gather(batch.molecule_copies.long(), 1, molecule_BN)[..., None]
    stride_BN1 = torch.gather(batch.molecule_stride.long(), 1, molecule_BN)[..., None]
    index_BNC = torch.gather(batch.truth_atom.long(), 1, centre_BN)[..., None] + copies * stride_BN1
    index_BM = torch.where(is_copy_BNC, index_BNC, 0).flatten(1)
    seen_BNC = torch.gather(batch.truth_resolved, 1, index_BM).view_as(is_copy_BNC) & is_copy_BNC
    t_BM3 = torch.gather(batch.truth_coords, 1, index_BM[..., None].expand(-1, -1, 3)).double()
    return _Centres(t_BM3.view(*is_copy_BNC.shape, 3), seen_BNC & batch.token_mask[..., None])


def _copy_moments(batch: Batch, x_BA3: Tensor, t_BNC3: Tensor, seen_BNC: Tensor) -> Moments:
    """Moments [B, G, C] of each molecule's token centres with true ones t, one set a copy, where seen."""
    of_molecule_BNG = torch.nn.functional.one_hot(
        batch.token_molecule.long(), batch.molecule_mask.shape[1]
    ).double()
    w_BNC = seen_BNC.double()
    t_BNC3 = t_BNC3 * w_BNC[..., None]
    p_BN3 = torch.gather(x_BA3, 1, batch.centre_atom.long()[..., None].expand(-1, -1, 3)).double()
    square_BNC = w_BNC * p_BN3.square().sum(-1)[..., None] + t_BNC3.square().sum(-1)
    return Moments(
        torch.einsum("bng,bnc->bgc", of_molecule_BNG, w_BNC),
        torch.einsum("bng,bnc,bnx->bgcx", of_molecule_BNG, w_BNC, p_BN3),
        torch.einsum("bng,bncx->bgcx", of_molecule_BNG, t_BNC3),
        torch.einsum("bng,bnx,bncy->bgcxy", of_molecule_BNG, p_BN3, t_BNC3),
        torch.einsum("bng,bnc->bgc", of_molecule_BNG, square_BNC),
    )


def _candidates(batch: Batch, moments: Moments, n_own_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Molecules that may lead [B, L], largest first, and with which true copies [B, L C].

    They are of the anchor's group. The anchor: of the polymers with more than three resolved tokens the one
    with fewest copies, then most resolved tokens; of the ligands with three, if there is no such polymer.
    """
    is_polymer_BG = batch.molecule_is_polymer & (n_own_BG >= _MIN_ANCHOR)
    is_eligible_BG = torch.where(
        is_polymer_BG.any(1, keepdim=True), is_polymer_BG, batch.molecule_mask & (n_own_BG >= MIN_POINTS)
    )
    rank_BG = batch.molecule_copies.double() - n_own_BG / (n_own_BG.amax(1, keepdim=True) + 1)
    anchor_B1 = rank_BG.masked_fill(~is_eligible_BG, torch.inf).argmin(1, keepdim=True)
    in_group_BG = batch.molecule_group == torch.gather(batch.molecule_group, 1, anchor_B1)
    leads_BG = in_group_BG & batch.molecule_mask & is_eligible_BG.any(1, keepdim=True)
    size_BG = n_own_BG.masked_fill(~leads_BG, -1.0)
    lead_BL = size_BG.argsort(dim=1, descending=True, stable=True)[:, :_MAX_LEADS]
    possible_BGC = leads_BG[..., None] & (moments.number >= MIN_POINTS)
    wide = lead_BL[..., None].expand(-1, -1, possible_BGC.shape[2])
    return lead_BL, torch.gather(possible_BGC, 1, wide).flatten(1)


def _cost(moments: Moments, motion: Superposition) -> Tensor:
    """[B, K, G, C]: mean squared distance of molecule g to copy c, moved as candidate k says."""
    r, s = motion.rotation, motion.shift
    moved = torch.einsum("bkxy,bgcy->bkgcx", r, moments.t)
    total = (
        moments.square[:, None]
        + moments.number[:, None] * s.square().sum(-1)[..., None, None]
        - 2 * torch.einsum("bkxy,bgcxy->bkgc", r, moments.cross)
        - 2 * torch.einsum("bkx,bgcx->bkgc", s, moments.p)
        + 2 * torch.einsum("bkx,bkgcx->bkgc", s, moved)
    )
    cost = total.clamp(min=0) / moments.number.clamp(min=1)[:, None]
    return torch.where(moments.number[:, None] > 0, cost, _UNSEEN)


def _greedy(batch: Batch, cost_BKGC: Tensor, lead_BL: Tensor, n_own_BG: Tensor) -> Tensor:
    """[B, K, G]: largest molecule first, each takes the nearest copy of its group that is left.

    Candidate k = (l, c) starts with molecule lead[l] on copy c.
    """
    n_examples, n_candidates, n_molecules, n_copies = cost_BKGC.shape
    copies = torch.arange(n_copies, device=cost_BKGC.device)
    is_copy_BGC = copies < batch.molecule_copies[..., None]
    of_lead_BLG = lead_BL[..., None] == torch.arange(n_molecules, device=lead_BL.device)
    same_copy_CC = copies[:, None] == copies
    pairs_BKGC = (of_lead_BLG[:, :, None, :, None] & same_copy_CC[:, None]).flatten(1, 2)
    pairs_BKGC = pairs_BKGC & is_copy_BGC[:, None]
    cost_BKGC = cost_BKGC.masked_fill(~is_copy_BGC[:, None], torch.inf).masked_fill(pairs_BKGC, -1.0)
    choice = cost_BKGC.new_zeros(n_examples, n_candidates, n_molecules, dtype=torch.int64)
    taken = torch.zeros_like(cost_BKGC, dtype=torch.bool)  # by group, of which there are at most G
    taken |= _taken_by_leads(batch, pairs_BKGC)
    for rank_B in n_own_BG.argsort(dim=1, descending=True, stable=True).unbind(1):
        of_molecule = rank_B[:, None, None, None].expand(-1, n_candidates, 1, n_copies)
        group_B = torch.gather(batch.molecule_group.long(), 1, rank_B[:, None]).clamp(min=0)
        of_group = group_B[:, :, None, None].expand(-1, n_candidates, 1, n_copies)
        left = torch.gather(cost_BKGC, 2, of_molecule)
        blocked = torch.gather(taken, 2, of_group) & (left >= 0)
        chosen = left.masked_fill(blocked, torch.inf).argmin(-1)  # [B, K, 1]
        choice.scatter_(2, of_molecule[..., 0], chosen)
        is_real = torch.gather(batch.molecule_mask, 1, rank_B[:, None])[:, :, None, None]
        row = torch.gather(taken, 2, of_group) | ((copies == chosen[..., None]) & is_real)
        taken.scatter_(2, of_group, row)
    return choice


def _taken_by_leads(batch: Batch, pairs_BKGC: Tensor) -> Tensor:
    """[B, K, G, C]: the copy that candidate k's leading molecule has, at its group's row."""
    n_groups = pairs_BKGC.shape[2]
    group_BGH = torch.nn.functional.one_hot(batch.molecule_group.long().clamp(min=0), n_groups).double()
    return torch.einsum("bgh,bkgc->bkhc", group_BGH, pairs_BKGC.double()) > 0


def _excess(batch: Batch, x_BA3: Tensor, centres: _Centres, moments: Moments, choice_BKG: Tensor) -> Tensor:
    """[B, K]: by how much each assignment's sum of squared distances (Å²) is above that of the labels as
    given, which are choice 0; after a superposition of each. Over all token centres where both show equally
    many, else over those that both show; infinite with too few of these. Of the labels as given a little
    below zero: gains by rounding do not count.
    """
    of_token_BN1 = torch.gather(batch.molecule_copy.long(), 1, batch.token_molecule.long())[..., None]
    given_BN13 = torch.gather(centres.t, 2, of_token_BN1[..., None].expand(-1, -1, -1, 3))
    shared_BNC = centres.seen & torch.gather(centres.seen, 2, of_token_BN1)
    compared = (
        moments,
        _copy_moments(batch, x_BA3, centres.t, shared_BNC),
        _copy_moments(batch, x_BA3, given_BN13.expand_as(centres.t), shared_BNC),
    )
    totals = Moments(*map(torch.stack, zip(*(_of_choices(m, choice_BKG) for m in compared), strict=True)))
    number_BK, n_shared_BK, _ = totals.number
    all_BK, shared_BK, given_BK = superpose(totals).residual
    excess_BK = torch.where(n_shared_BK >= MIN_POINTS, shared_BK - given_BK, torch.inf)
    is_equal_BK = number_BK == number_BK[:, :1]
    excess_BK = torch.where(is_equal_BK & (number_BK > 0), all_BK - all_BK[:, :1], excess_BK)
    excess_BK[:, 0] = -_TOLERANCE * number_BK[:, 0]
    return excess_BK


def _of_choices(moments: Moments, choice_BKG: Tensor) -> Moments:
    """Moments [B, K] of all molecules together, molecule g being copy choice[g] of its row [B, G, C]."""

    def chosen(moment: Tensor) -> Tensor:
        tail = moment.shape[3:]
        index = choice_BKG.view(*choice_BKG.shape, 1, *(1 for _ in tail))
        source = moment[:, None].expand(-1, choice_BKG.shape[1], *(-1 for _ in moment.shape[1:]))
        return torch.gather(source, 3, index.expand(*choice_BKG.shape, 1, *tail))[:, :, :, 0].sum(2)

    return Moments(*map(chosen, moments))


def superpose(moments: Moments) -> Superposition:
    """The best proper rotation and shift (Kabsch), from moments of any leading shape. float64.

    Meaningless, but finite, with fewer than three points.
    """
    n = moments.number.clamp(min=1)
    p, t = moments.p / n[..., None], moments.t / n[..., None]
    cross = moments.cross - n[..., None, None] * p[..., :, None] * t[..., None, :]
    square = moments.square - n * (p.square().sum(-1) + t.square().sum(-1))
    rotation, gain = best_rotation(cross.transpose(-1, -2))
    shift = p - (rotation @ t[..., None])[..., 0]
    return Superposition(rotation, shift, (square - 2 * gain).clamp(min=0))


# --- atoms ---


@torch.no_grad()
def assign_atoms(batch: Batch, x_BA3: Tensor, coords_BA3: Tensor, resolved_BA: Tensor) -> Tensor:
    """int64 [B, A]: the atom whose truth each atom takes; itself but where an automorphism is nearer.

    The truth is superposed on all resolved atoms that no automorphism moves (on all, where those are fewer
    than three); then every residue takes the option with the smallest sum of squared distances.
    """
    n_atoms = x_BA3.shape[1]
    own_BA = torch.arange(n_atoms, device=x_BA3.device).expand(x_BA3.shape[:2])
    if batch.symmetry_from.shape[1] == 0:
        return own_BA
    first, second = batch.symmetry_from.long(), batch.symmetry_to.long()
    aligned_BA3, is_aligned_B = _align(batch, x_BA3, coords_BA3, resolved_BA)
    wide = (-1, -1, 3)
    difference = torch.gather(x_BA3.double(), 1, first[..., None].expand(wide))
    difference = difference - torch.gather(aligned_BA3, 1, second[..., None].expand(wide))
    counted_BY = batch.symmetry_mask & torch.gather(resolved_BA, 1, second)
    chosen_BV = _best_options(batch, difference.square().sum(-1) * counted_BY) & is_aligned_B[:, None]
    chosen_BY = torch.gather(chosen_BV, 1, batch.symmetry_option.long()) & batch.symmetry_mask
    source = torch.cat([own_BA, own_BA[:, :1]], 1).scatter(1, torch.where(chosen_BY, first, n_atoms), second)
    return source[:, :n_atoms]


def _align(batch: Batch, x_BA3: Tensor, coords_BA3: Tensor, resolved_BA: Tensor) -> tuple[Tensor, Tensor]:
    """The truth [B, A, 3] moved onto the prediction, float64, and whether that was possible [B]."""
    target = torch.where(batch.symmetry_mask, batch.symmetry_from.long(), x_BA3.shape[1])
    moved_BA = torch.nn.functional.pad(torch.zeros_like(resolved_BA), (0, 1)).scatter(1, target, True)[:, :-1]
    rigid_BA = resolved_BA & ~moved_BA
    enough = rigid_BA.sum(1, keepdim=True) >= MIN_POINTS
    w = torch.where(enough, rigid_BA, resolved_BA).double()
    p, t = x_BA3.double() * w[..., None], coords_BA3.double() * w[..., None]
    square = p.square().sum((-1, -2)) + t.square().sum((-1, -2))
    motion = superpose(Moments(w.sum(1), p.sum(1), t.sum(1), p.transpose(1, 2) @ t, square))
    moved = coords_BA3.double() @ motion.rotation.transpose(1, 2) + motion.shift[:, None]
    return moved, w.sum(1) >= MIN_POINTS


def _best_options(batch: Batch, square_BY: Tensor) -> Tensor:
    """[B, V]: the cheapest option of each residue, the first where several are."""
    n_options = batch.option_residue.shape[1]
    is_option_BV = batch.option_residue >= 0
    residue_BV = batch.option_residue.long().clamp(min=0)
    cost = square_BY.new_zeros(is_option_BV.shape).scatter_add(1, batch.symmetry_option.long(), square_BY)
    cost = cost.masked_fill(~is_option_BV, torch.inf)
    least = torch.full_like(cost, torch.inf).scatter_reduce(1, residue_BV, cost, "amin")
    number = torch.arange(n_options, device=cost.device).expand_as(residue_BV)
    is_best = is_option_BV & (cost <= torch.gather(least, 1, residue_BV))
    first = torch.full_like(number, n_options).scatter_reduce(
        1, residue_BV, torch.where(is_best, number, n_options), "amin"
    )
    return number == torch.gather(first, 1, residue_BV)
