# SPDX-License-Identifier: Apache-2.0
from dataclasses import fields

import numpy as np

from foldwright.data.records import decode_entry, decode_record, encode_entry, encode_record
from foldwright.data.store import Store
from foldwright.data.structure import Component, Structure, Tokens


def assert_equal_records(one, two):
    for declared in fields(one):
        a, b = getattr(one, declared.name), getattr(two, declared.name)
        np.testing.assert_array_equal(a, b, err_msg=declared.name)
        assert getattr(a, "dtype", type(a)) == getattr(b, "dtype", type(b)), declared.name


def test_entries_round_trip(store_path):
    entry = Store(store_path).entry("dimr")
    again = decode_entry(encode_entry(entry))
    assert isinstance(again.structure, Structure)
    assert isinstance(again.tokens, Tokens)
    assert_equal_records(entry.structure, again.structure)
    assert_equal_records(entry.tokens, again.tokens)
    np.testing.assert_array_equal(entry.atom_reference, again.atom_reference)
    assert again.msa_entities.tolist() == [0]


def test_components_round_trip(store_path):
    component = Store(store_path).component("BEN")
    assert_equal_records(component, decode_record(Component, encode_record(component)))
