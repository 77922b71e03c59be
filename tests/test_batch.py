# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
import torch

from foldwright.batch import SCHEMA, collate, pack, round_up
from foldwright.data.synthetic import synthetic_example


@pytest.fixture
def example():
    return synthetic_example(10, 96, n_rows=4, n_cycles=2, n_templates=1)


def test_a_packed_batch_is_the_batch(batch):
    packed = pack(batch)
    back = packed.unpack().check()
    for name in SCHEMA:
        assert torch.equal(getattr(back, name), getattr(batch, name)), name
    sizes = sum(getattr(batch, name).nbytes for name in SCHEMA)
    assert sizes <= packed.buffer.numel() <= sizes + 64 * len(SCHEMA)


def test_padding_keeps_values_and_fills_with_the_declared_value(example):
    target = {"N": 16, "A": 128, "M": 6, "K": 3, "G": 5, "F": 130, "V": 2, "Y": 7}
    padded = example.pad(target)
    assert padded.sizes() == target | {"R": 2, "T": 1}
    padded.check()
    for name, feature in SCHEMA.items():
        old, new = getattr(example, name), getattr(padded, name)
        inside = tuple(slice(n) for n in old.shape)
        assert torch.equal(new[inside], old), name
        fill = new.clone()
        fill[inside] = feature.pad
        assert bool((fill == feature.pad).all()), name


def test_padding_never_truncates(example):
    with pytest.raises(ValueError, match="does not fit its bucket of 5"):
        example.pad({"N": 5})


def test_collate_stacks_to_the_smallest_common_bucket(example):
    other = synthetic_example(13, 128, n_rows=3, n_cycles=2, n_templates=1, seed=1)
    batch = collate([example, other], {"N": (8, 16, 32), "A": (128, 256)})
    assert batch.sizes()["N"] == 16
    assert batch.sizes()["A"] == 128
    assert batch.token_mask.sum(1).tolist() == [int(example.token_mask.sum()), int(other.token_mask.sum())]


@pytest.mark.parametrize(("size", "bucket"), [(1, 8), (8, 8), (9, 32), (33, 64), (64, 64), (65, 96)])
def test_sizes_beyond_the_last_bucket_round_to_its_multiples(size, bucket):
    assert round_up(size, (8, 32)) == bucket


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("restype", torch.zeros(10, dtype=torch.int64), "dtype"),
        ("restype", torch.zeros(9, dtype=torch.uint8), "axis N"),
        ("profile", torch.zeros(10, 31), "axis 32 has size 31"),
        ("atom_coords", torch.full((96, 3), float("nan")), "NaN"),
        ("atom_to_token", torch.full((96,), 10, dtype=torch.int32), "leave axis N"),
    ],
)
def test_check_says_what_is_wrong(example, name, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(example, **{name: value}).check()
