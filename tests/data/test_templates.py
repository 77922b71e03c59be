# SPDX-License-Identifier: Apache-2.0
import pytest

from foldwright.batch import SCHEMA
from foldwright.data.templates import empty_templates
from foldwright.vocabulary import GAP


@pytest.mark.parametrize("n_templates", [0, 3])
def test_empty_templates_follow_the_schema(n_templates):
    features = empty_templates(n_templates, 7)
    assert set(features) == {name for name in SCHEMA if name.startswith("template")}
    for name, tensor in features.items():
        axes = tuple({"T": n_templates, "N": 7}.get(axis, axis) for axis in SCHEMA[name].axes)
        assert tuple(tensor.shape) == axes
        assert tensor.dtype == SCHEMA[name].dtype
        assert (tensor == (GAP if name == "template_restype" else 0)).all()
