# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
import torch
from torch.utils.data import DataLoader

from foldwright.batch import SCHEMA, collate
from foldwright.data import dataset as module
from foldwright.data.dataset import DataConfig, StoreDataset, buckets
from foldwright.data.sampler import SampleRequest, StepBatchSampler

REQUEST = SampleRequest(5, n_cycles=2, crop_tokens=20, crop_atoms=160, msa_rows=3)


def dataset(store_path, seed=0, **settings) -> StoreDataset:
    return StoreDataset(DataConfig(root=str(store_path), n_templates=1, **settings), seed)


def equal(one, two) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in SCHEMA)


def test_examples_are_valid_and_within_their_sizes(store_path):
    examples = dataset(store_path)
    for n in range(30):
        sizes = examples[REQUEST._replace(n=n)].check().sizes()
        assert sizes["N"] <= 20
        assert sizes["A"] <= 160
        assert sizes["M"] <= 3
        assert (sizes["R"], sizes["T"]) == (2, 1)


def test_references_have_the_hands_of_the_truth(store_path):
    """Rotated as they are, conformers must not be mirrored: all that tells a network an amino acid's hand."""
    agree = []
    for n in range(10):
        example = dataset(store_path)[REQUEST._replace(n=n)]
        known = example.atom_mask & example.atom_resolved & example.ref_mask
        names = ["".join(chr(32 + c) for c in row).strip() for row in example.ref_atom_name_chars.tolist()]
        for token in range(int(example.token_mask.sum())):
            atoms = (known & (example.atom_to_token == token)).nonzero()[:, 0].tolist()
            place = {names[atom]: atom for atom in atoms}
            if {"CA", "N", "C", "CB"} <= place.keys():
                ca, *around = (place[name] for name in ("CA", "N", "C", "CB"))
                truth, reference = (
                    torch.linalg.det((x[around] - x[ca]).double())
                    for x in (example.atom_coords, example.ref_pos)
                )
                agree.append(bool(truth * reference > 0))
    assert len(agree) > 50
    assert all(agree)


def test_an_example_is_a_function_of_seed_and_number(store_path):
    one, two = dataset(store_path), dataset(store_path)
    first = [one[REQUEST._replace(n=n)] for n in range(8)]
    again = [two[REQUEST._replace(n=n)] for n in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    others = [dataset(store_path, seed=1)[REQUEST._replace(n=n)] for n in range(8)]
    assert not any(equal(a, b) for a, b in zip(first, others, strict=True))


def test_workers_give_what_one_process_gives(store_path):
    examples = dataset(store_path)
    values = {"crop_tokens": 20, "crop_atoms": 160, "msa_rows": 3}
    sizes = type("Phase", (), values | {"dataset_weights": {}, "dataset_crops": {}})

    def first_batches(workers: int):
        sampler = StepBatchSampler(2, 2, 0, 1, 1, 0, 4, lambda step: sizes)
        bucket = buckets(20, 160, 3, 1)
        loader = DataLoader(
            examples, batch_sampler=sampler, num_workers=workers, collate_fn=lambda b: collate(b, bucket)
        )
        iterator = iter(loader)
        return [next(iterator) for _ in range(4)]

    alone, helped = first_batches(0), first_batches(2)
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert alone[0].sample_number.tolist() == [4, 5]
    sizes_of = alone[0].sizes()
    assert {axis: sizes_of[axis] for axis in "NAMTK"} == {"N": 32, "A": 160, "M": 3, "T": 1, "K": 32}


def test_a_bad_example_is_replaced_the_same_way_everywhere(store_path, monkeypatch, caplog):
    good = dataset(store_path)
    number = next(n for n in range(50) if good.parts["pdb"].sampler.draw(n).entry == "modr"
                  and good.parts["pdb"].sampler.draw(n, 1).entry == "dimr")  # fmt: skip
    real = module.build_example

    def break_modr(entry, *arguments, **settings):
        if entry.structure.entry_id == "modr":
            raise ZeroDivisionError("made up")
        return real(entry, *arguments, **settings)

    monkeypatch.setattr(module, "build_example", break_modr)
    one, two = (dataset(store_path, max_bad_fraction=1.0) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        example = one[REQUEST._replace(n=number)]
    assert "an example of pdb/modr is quarantined: ZeroDivisionError: made up" in caplog.text
    assert example.token_index.max() > 14  # of dimr
    assert one.quarantine == {"pdb/modr": "ZeroDivisionError: made up"}
    for n in range(number):
        two[REQUEST._replace(n=n)]
    assert equal(example, two[REQUEST._replace(n=number)])


def test_what_a_worker_met_before_does_not_change_a_sample(store_path, monkeypatch):
    """An entry of which some crops fail and others do not, as seen by a worker that resumes in between."""
    real = module.build_example

    def break_every_other(entry, *arguments, **settings):
        if settings["sample_number"] % 2 == 0:
            raise ZeroDivisionError("made up")
        return real(entry, *arguments, **settings)

    monkeypatch.setattr(module, "build_example", break_every_other)
    worn, fresh = (dataset(store_path, max_bad_fraction=1.0, max_attempts=2) for _ in range(2))
    with pytest.raises(RuntimeError, match="2 draws in a row"):
        worn[REQUEST._replace(n=0)]
    assert equal(worn[REQUEST._replace(n=1)], fresh[REQUEST._replace(n=1)])
    entry = next(iter(worn.quarantine)).removeprefix("pdb/")
    sampler = worn.parts["pdb"].sampler
    numbers = [n for n in range(1, 40, 2) if sampler.draw(n).entry == entry]
    assert numbers
    for n in numbers:
        assert equal(worn[REQUEST._replace(n=n)], fresh[REQUEST._replace(n=n)])


def test_many_bad_examples_stop_the_run(store_path, monkeypatch):
    def break_all(*arguments, **settings):
        raise KeyError("made up")

    monkeypatch.setattr(module, "build_example", break_all)
    with pytest.raises(RuntimeError, match=r"4 of 1 examples were bad.*max_bad_fraction"):
        dataset(store_path)[REQUEST]
    with pytest.raises(RuntimeError, match="3 draws in a row"):
        dataset(store_path, max_attempts=3)[REQUEST]


def test_a_missing_store_is_not_a_bad_example(tmp_path):
    with pytest.raises(ValueError, match=r"prepare_data\.py"):
        StoreDataset(DataConfig(root=str(tmp_path)), 0)


def test_buckets_round_up_to_windows():
    assert buckets(100, 1000, 5, 0) == {"N": (128,), "A": (1024,), "M": (5,), "T": (0,), "K": (32,)}
