# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
import torch
from assemblies import Chain, copies, example, make_entry
from scipy.spatial.transform import Rotation

from foldwright.batch import SCHEMA, Batch, collate
from foldwright.data.synthetic import synthetic_example
from foldwright.losses.diffusion import aligned_mse, atom_weights
from foldwright.permutation import assign_copies, permute_truth, truth_of_copies
from foldwright.vocabulary import RESIDUE_ATOMS, MoleculeType

PROTEIN, LIGAND = MoleculeType.PROTEIN, MoleculeType.LIGAND
LONG = "ALA GLY SER VAL LEU LYS THR ALA GLY PRO MET ILE".split()
SHORT = "SER ALA GLY LEU VAL ALA".split()


def batched(batch: Batch) -> Batch:
    return collate([batch], {})


def kabsch_msd(p: np.ndarray, t: np.ndarray) -> float:
    """Mean squared distance after superposition, by SciPy, float64."""
    p, t = p - p.mean(0), t - t.mean(0)
    rotation, _ = Rotation.align_vectors(p, t)
    return float(((p - rotation.apply(t)) ** 2).sum(-1).mean())


def moved(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    rotation = torch.tensor(Rotation.random(random_state=rng).as_matrix(), dtype=x.dtype)
    return x @ rotation.T + torch.tensor(rng.uniform(-50, 50, 3), dtype=x.dtype)


def relabelled(batch: Batch, choice: list[int]) -> torch.Tensor:
    """Coordinates [1, A, 3] of the truth if molecule g were copy choice[g]."""
    return truth_of_copies(batch, torch.tensor([choice]))[0]


def brute_force(batch: Batch, x: torch.Tensor) -> tuple[list[int], float]:
    """The assignment with the lowest RMSD of token centres over every one there is."""
    groups = batch.molecule_group[0].tolist()
    options = []
    for group in sorted(set(groups)):
        members = [g for g, other in enumerate(groups) if other == group]
        n_copies = int(batch.molecule_copies[0, members[0]])
        options.append(
            [
                dict(zip(members, p, strict=True))
                for p in itertools.permutations(range(n_copies), len(members))
            ]
        )
    best: tuple[list[int], float] = ([], np.inf)
    centre = batch.centre_atom[0].long()
    for parts in itertools.product(*options):
        merged = {g: c for part in parts for g, c in part.items()}
        choice = [merged[g] for g in range(len(groups))]
        coords, resolved = truth_of_copies(batch, torch.tensor([choice]))
        seen = resolved[0, centre]
        msd = kabsch_msd(x[0, centre][seen].double().numpy(), coords[0, centre][seen].double().numpy())
        if msd < best[1] - 1e-9:
            best = choice, msd
    return best


def complex_of(rng: np.random.Generator) -> list[Chain]:
    """Three copies of one protein, two of another, three ions."""
    return [
        *copies(0, PROTEIN, LONG, 3, rng), *copies(1, PROTEIN, SHORT, 2, rng),
        *copies(2, LIGAND, ["ZN"], 3, rng),
    ]  # fmt: skip


def test_as_labelled_the_truths_are_the_labels():
    entry = make_entry(complex_of(np.random.default_rng(0)), unresolved=(3, 70))
    batch = batched(example(entry, np.arange(5, 50)))
    coords, resolved = truth_of_copies(batch, batch.molecule_copy.long())
    assert torch.equal(coords, batch.atom_coords)
    assert torch.equal(resolved, batch.atom_resolved)
    assert int(batch.molecule_copies.max()) == 3


@pytest.mark.parametrize("seed", range(6))
def test_the_assignment_is_that_of_brute_force(seed):
    """Every assignment of 3! x 2! x 3! scored with SciPy in float64; predictions are noisy and relabelled."""
    rng = np.random.default_rng(seed)
    batch = batched(example(make_entry(complex_of(rng), unresolved=rng.choice(150, 20, replace=False))))
    wanted = [*rng.permutation(3), *rng.permutation(2), *rng.permutation(3)]
    x = relabelled(batch, [int(c) for c in wanted])
    x = moved(x + torch.tensor(rng.normal(0, 1.5, x.shape), dtype=x.dtype), rng)
    choice, msd = brute_force(batch, x)
    assert choice == [int(c) for c in wanted]
    assert assign_copies(batch, x)[0].tolist() == choice
    assert msd > 0.5


def test_truths_of_identical_chains_may_be_given_in_any_order(ops):
    """With its copies in another order an assembly gives the same relabelled truth and error."""
    rng = np.random.default_rng(3)
    chains = complex_of(rng)
    first = batched(example(make_entry(chains)))
    order = [2, 0, 1, 4, 3, 6, 7, 5]
    second = batched(example(make_entry([chains[i] for i in order])))
    x = moved(first.atom_coords + torch.tensor(rng.normal(0, 1, first.atom_coords.shape)).float(), rng)
    one, two = permute_truth(first, x), permute_truth(second, x)
    assert not torch.equal(first.atom_coords, second.atom_coords)
    assert torch.equal(one.atom_coords, two.atom_coords)
    losses = [
        aligned_mse(x[:, None], b.atom_coords[:, None], atom_weights(b), b.atom_resolved, ops).item()
        for b in (one, two, second)
    ]
    assert losses[0] == losses[1]
    assert losses[1] < 10 < losses[2]


def test_the_result_does_not_depend_on_where_the_prediction_lies():
    rng = np.random.default_rng(4)
    batch = batched(example(make_entry(complex_of(rng))))
    x = relabelled(batch, [1, 2, 0, 1, 0, 2, 0, 1])
    results = [permute_truth(batch, moved(x, rng)).atom_coords for _ in range(3)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0], x)


def test_a_copy_outside_the_crop_is_taken():
    """A homotrimer of which the crop holds A and B; the prediction puts them as B and C lie."""
    rng = np.random.default_rng(5)
    entry = make_entry(copies(0, PROTEIN, LONG, 3, rng))
    batch = batched(example(entry, np.arange(0, 24)))
    assert batch.molecule_copies.tolist() == [[3, 3]]
    whole = batched(example(entry))
    n = batch.atom_mask.shape[1] // 2
    x = moved(whole.atom_coords[:, n:], rng)
    found = permute_truth(batch, x)
    assert torch.equal(found.atom_coords, whole.atom_coords[:, n:])


@pytest.mark.parametrize("is_nearer", [False, True])
def test_a_copy_is_not_taken_for_what_it_lacks(is_nearer):
    """Of a homodimer the crop holds A. B lacks the tail, which is what the prediction has wrong: B takes its
    place only if the rest is nearer to it.
    """
    rng = np.random.default_rng(12)
    chains = copies(0, PROTEIN, LONG, 2, rng)
    n = len(chains[0].coords)
    tail = sum(len(RESIDUE_ATOMS[code]) for code in LONG[-4:])
    entry = make_entry(chains, unresolved=range(2 * n - tail, 2 * n))
    batch = batched(example(entry, np.arange(len(LONG))))
    x = relabelled(batch, [int(is_nearer)])
    x[:, n - tail : n] = (
        batch.atom_coords[:, n - tail : n] + torch.tensor(rng.normal(0, 30, (tail, 3))).float()
    )
    found = permute_truth(batch, moved(x, rng))
    assert torch.equal(found.atom_coords, relabelled(batch, [int(is_nearer)]))
    assert int(found.atom_resolved.sum()) == n - tail * is_nearer


def test_copies_that_show_different_halves_are_exchanged():
    """No residue is resolved in both: what each copy shows still says where it lies."""
    rng = np.random.default_rng(13)
    chains = copies(0, PROTEIN, LONG, 2, rng)
    n, half = len(chains[0].coords), sum(len(RESIDUE_ATOMS[code]) for code in LONG[:6])
    entry = make_entry(chains, unresolved=[*range(half, n), *range(n, n + half)])
    batch, whole = batched(example(entry)), batched(example(make_entry(chains)))
    x = moved(relabelled(whole, [1, 0]), rng)
    assert torch.equal(permute_truth(batch, x).atom_coords, relabelled(batch, [1, 0]))
    assert torch.equal(permute_truth(batch, whole.atom_coords).atom_coords, batch.atom_coords)


def test_different_parts_of_two_copies_are_matched():
    """The crop holds the first half of A and the second of B: molecules are exchanged, part by part."""
    rng = np.random.default_rng(6)
    entry = make_entry(copies(0, PROTEIN, LONG, 2, rng))
    batch = batched(example(entry, np.concatenate([np.arange(6), np.arange(18, 24)])))
    whole = example(entry)
    parts = [(whole.atom_to_token >= low) & (whole.atom_to_token < low + 6) for low in (12, 6)]
    other = torch.cat([whole.atom_coords[part] for part in parts])[None]
    assert torch.equal(permute_truth(batch, moved(other, rng)).atom_coords, other)


def test_a_ligand_goes_with_the_chain_it_is_bonded_to():
    """Two copies of a protein, each with a bonded NAG: one exchange of two molecules, never of NAGs alone."""
    rng = np.random.default_rng(7)
    proteins, sugars = copies(0, PROTEIN, SHORT, 2, rng), copies(1, LIGAND, ["NAG"], 2, rng)
    n, m = len(proteins[0].coords), len(sugars[0].coords)
    entry = make_entry([*proteins, *sugars], bonds=[(1, 2 * n), (n + 1, 2 * n + m)])
    batch = batched(example(entry))
    assert batch.molecule_mask.shape == (1, 2)
    assert batch.molecule_group.tolist() == [[0, 0]]
    x = moved(relabelled(batch, [1, 0]), rng)
    assert torch.equal(permute_truth(batch, x).atom_coords, relabelled(batch, [1, 0]))
    crossed = make_entry([*proteins, *sugars], bonds=[(1, 2 * n), (n + 2, 2 * n + m)])
    assert batched(example(crossed)).molecule_group.tolist() == [[0, 1]]  # bonded to other atoms


def test_benzene_rings_and_carboxylates_flip():
    """Six benzenes' carbons turned about, PHE's and GLU's pairs exchanged: the nearest labels come back."""
    rng = np.random.default_rng(8)
    codes = "ALA PHE GLY GLU LEU VAL ALA".split()
    entry = make_entry([*copies(0, PROTEIN, codes, 1, rng), *copies(1, LIGAND, ["BNZ"], 1, rng)])
    names, residue = entry.structure.atom_name, entry.structure.atom_residue
    batch = batched(example(entry))
    source = np.arange(len(names))

    def rename(row: int, pairs: dict[str, str]) -> None:
        place = {str(names[i]): i for i in np.flatnonzero(residue == row)}
        for first, second in pairs.items():
            source[place[first]] = place[second]

    rename(1, {"CD1": "CD2", "CD2": "CD1", "CE1": "CE2", "CE2": "CE1"})
    rename(3, {"OE1": "OE2", "OE2": "OE1"})
    rename(7, {f"C{i}": f"C{(i + 1) % 6 + 1}" for i in range(1, 7)})
    x = moved(batch.atom_coords[:, source], rng)
    found = permute_truth(batch, x)
    assert torch.equal(found.atom_coords, batch.atom_coords[:, source])
    assert (source != np.arange(len(names))).sum() == 12
    prochiral = np.arange(len(names))
    rename_leu = np.flatnonzero(residue == 4)
    place = {str(names[i]): i for i in rename_leu}
    prochiral[[place["CD1"], place["CD2"]]] = place["CD2"], place["CD1"]
    kept = permute_truth(batch, batch.atom_coords[:, prochiral])
    assert torch.equal(kept.atom_coords, batch.atom_coords)


def test_each_residue_takes_its_best_option_alone():
    """Against a loop over all options of every residue, with a third of the truth unresolved."""
    rng = np.random.default_rng(9)
    chains = [*copies(0, PROTEIN, "PHE ASP TYR GLU ALA LEU GLY".split(), 1, rng),
              *copies(1, LIGAND, ["BEN"], 1, rng), *copies(2, LIGAND, ["PO4"], 1, rng)]  # fmt: skip
    n_atoms = sum(len(chain.coords) for chain in chains)
    entry = make_entry(chains, unresolved=rng.choice(n_atoms, n_atoms // 3, replace=False))
    batch = batched(example(entry))
    x = batch.atom_coords + torch.tensor(rng.normal(0, 1.5, batch.atom_coords.shape)).float()
    x = torch.where(batch.atom_resolved[..., None], x, torch.tensor(rng.normal(0, 30, x.shape)).float())
    found = permute_truth(batch, x)
    moving = np.zeros(n_atoms, bool)
    moving[batch.symmetry_from[0]] = True
    seen = batch.atom_resolved[0].numpy()
    rigid = seen & ~moving
    p, t = x[0].double().numpy(), batch.atom_coords[0].double().numpy()
    rotation, _ = Rotation.align_vectors(p[rigid] - p[rigid].mean(0), t[rigid] - t[rigid].mean(0))
    t = rotation.apply(t - t[rigid].mean(0)) + p[rigid].mean(0)
    expected = np.arange(n_atoms)
    for unit in np.unique(batch.option_residue[0]):
        best = np.inf
        for option in np.flatnonzero(batch.option_residue[0] == unit):
            rows = batch.symmetry_option[0] == int(option)
            a, b = batch.symmetry_from[0][rows].numpy(), batch.symmetry_to[0][rows].numpy()
            cost = (((p[a] - t[b]) ** 2).sum(-1) * seen[b]).sum()
            if cost < best - 1e-12:
                best, pick = cost, (a, b)
        expected[pick[0]] = pick[1]
    assert (expected != np.arange(n_atoms)).any()
    assert torch.equal(found.atom_coords[0], batch.atom_coords[0][expected])
    assert torch.equal(found.atom_resolved[0], batch.atom_resolved[0][expected])


def test_examples_of_a_batch_do_not_touch_each_other():
    """Batched and padded beside a larger example: as alone."""
    rng = np.random.default_rng(10)
    small = example(make_entry([*copies(0, PROTEIN, "PHE ALA GLU GLY ALA".split(), 2, rng)]))
    large = example(make_entry(complex_of(rng)))
    both = collate([small, large], {}).check()
    x = both.atom_coords + torch.tensor(rng.normal(0, 2, both.atom_coords.shape)).float()
    x[0] = moved(x[0].flip(0), rng)
    together = permute_truth(both, x)
    for row, alone in enumerate((small, large)):
        n = alone.atom_mask.shape[0]
        single = permute_truth(batched(alone), x[row : row + 1, :n])
        assert torch.equal(single.atom_coords[0], together.atom_coords[row, :n])
        assert torch.equal(single.atom_resolved[0], together.atom_resolved[row, :n])
    assert not together.atom_resolved[0, small.atom_mask.shape[0] :].any()


def test_too_little_to_superpose_keeps_the_labels():
    rng = np.random.default_rng(11)
    batch = batched(example(make_entry(copies(0, LIGAND, ["ZN"], 2, rng))))
    x = torch.tensor(rng.normal(0, 9, batch.atom_coords.shape)).float()
    assert torch.equal(permute_truth(batch, x).atom_coords, batch.atom_coords)
    nothing = make_entry(copies(0, PROTEIN, SHORT, 2, rng), unresolved=range(1000)[:58])
    batch = batched(example(nothing))
    found = permute_truth(batch, torch.randn_like(batch.atom_coords))
    assert torch.isfinite(found.atom_coords).all()


def test_an_example_with_nothing_to_exchange_is_unchanged():
    batch = batched(synthetic_example(12, 96, n_rows=2, n_cycles=1, n_templates=0))
    found = permute_truth(batch, torch.randn_like(batch.atom_coords))
    for name in SCHEMA:
        assert torch.equal(getattr(found, name), getattr(batch, name)), name
