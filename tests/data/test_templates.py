# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
import torch

from foldwright.batch import SCHEMA
from foldwright.data.records import decode_record, encode_record
from foldwright.data.templates import ChainTemplate, Templates, pack_templates, template_features
from foldwright.vocabulary import GAP

NONE = np.full(7, -1, np.int32)


def chain_template(length: int, seed: int, aligned: slice = slice(None)) -> ChainTemplate:
    rng = np.random.default_rng(seed)
    restype = np.full(length, GAP, np.uint8)
    restype[aligned] = rng.integers(0, 20, length)[aligned]
    present = np.zeros((length, 4), np.bool_)
    present[aligned] = rng.random((length, 4))[aligned] < 0.9
    return ChainTemplate(
        f"t{seed}_A", restype, rng.normal(100, 30, (length, 4, 3)).astype(np.float32), present
    )


def distances(coords) -> np.ndarray:
    coords = np.asarray(coords, np.float64).reshape(-1, 3)
    return np.linalg.norm(coords[:, None] - coords[None], axis=-1)


@pytest.mark.parametrize("n_templates", [0, 3])
def test_empty_slots_follow_the_schema(n_templates):
    features = template_features([], NONE, np.arange(7, dtype=np.int32), n_templates, None)
    assert set(features) == {name for name in SCHEMA if name.startswith("template")}
    for name, tensor in features.items():
        axes = tuple({"T": n_templates, "N": 7}.get(axis, axis) for axis in SCHEMA[name].axes)
        assert tuple(tensor.shape) == axes
        assert tensor.dtype == SCHEMA[name].dtype
        assert (tensor == (GAP if name == "template_restype" else 0)).all()


def test_packing_keeps_distances_and_bytes():
    one = chain_template(12, 0, slice(2, 9))
    packed = pack_templates([one])
    again = decode_record(Templates, encode_record(packed))
    for name in ("names", "restype", "coords", "backbone_mask", "pseudo_beta_mask"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(again, name))
    np.testing.assert_allclose(
        distances(packed.coords[0][one.present] * 0.01), distances(one.coords[one.present]), atol=0.018
    )  # two atoms, half a step off in each of three axes: 0.01 sqrt(3)
    assert (packed.coords[0][~one.present] == 0).all()


def test_packing_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="at least one"):
        pack_templates([])
    wide = chain_template(4, 0)._replace(present=np.ones((4, 4), np.bool_))
    wide.coords[0] += 5000
    with pytest.raises(ValueError, match="farther than 328 Å"):
        pack_templates([wide])


def test_chains_share_slots_and_crops_take_their_residues():
    one = pack_templates([chain_template(6, seed) for seed in range(3)])
    two = pack_templates([chain_template(4, 9, slice(1, 3))])
    token_templates = np.array([0, 0, -1, 1, 1, 0], np.int32)
    column = np.array([1, 5, 2, 0, 2, 1], np.int32)
    features = template_features([one, two], token_templates, column, 4, None)
    assert features["template_mask"].tolist() == [True, True, True, False]
    expected = np.full((4, 6), GAP, np.uint8)
    expected[:3, [0, 1, 5]] = one.restype[:, [1, 5, 1]]
    expected[0, 4] = two.restype[0, 2]
    np.testing.assert_array_equal(features["template_restype"], expected)
    assert features["template_backbone_mask"][:3, 0].tolist() == one.backbone_mask[:, 1].tolist()
    for slot in range(3):
        for token, residue in ((0, 1), (1, 5), (5, 1)):
            if one.backbone_mask[slot, residue]:
                np.testing.assert_allclose(
                    features["template_backbone"][slot, token],
                    one.coords[slot, residue, :3] * 0.01,
                    rtol=1e-6,
                )
            if one.pseudo_beta_mask[slot, residue]:
                np.testing.assert_allclose(
                    features["template_pseudo_beta"][slot, token],
                    one.coords[slot, residue, 3] * 0.01,
                    rtol=1e-6,
                )
    assert not features["template_backbone_mask"][:, 2].any()
    assert (features["template_backbone"][~features["template_backbone_mask"]] == 0).all()
    assert (features["template_pseudo_beta"][~features["template_pseudo_beta_mask"]] == 0).all()


def test_training_draws_as_the_paper_says():
    """k = min(U{0..6}, 4) of six templates, each as likely."""
    chain = pack_templates(
        [chain_template(5, seed)._replace(restype=np.full(5, seed, np.uint8)) for seed in range(6)]
    )
    arguments = [chain], np.zeros(5, np.int32), np.arange(5, dtype=np.int32), 4
    numbers, uses = Counter(), Counter()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        features = template_features(*arguments, rng)
        used = features["template_mask"]
        shown = features["template_restype"][used][:, 0].tolist()
        assert len(set(shown)) == len(shown)
        numbers[int(used.sum())] += 1
        uses.update(shown)
    for number, probability in ((0, 1 / 7), (1, 1 / 7), (2, 1 / 7), (3, 1 / 7), (4, 3 / 7)):
        assert numbers[number] / 3000 == pytest.approx(probability, abs=0.035)  # 4 standard errors
    mean = sum(uses.values()) / 6
    assert all(abs(count - mean) < 6 * mean**0.5 for count in uses.values())
    first = template_features(*arguments, None)["template_restype"][:, 0]
    assert first.tolist() == [0, 1, 2, 3]
    assert torch.equal(first, template_features(*arguments, None)["template_restype"][:, 0])
