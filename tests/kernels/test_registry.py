# SPDX-License-Identifier: Apache-2.0
import io

import pytest
from rich.console import Console

from foldwright.kernels import KernelConfig, select
from foldwright.kernels.registry import OP_NAMES, choices, implementations


def test_every_op_has_a_reference():
    for op in OP_NAMES:
        assert "reference" in [entry.name for entry in implementations(op)]


def test_auto_takes_the_fastest_supported_and_says_why_not_more():
    console = Console(file=io.StringIO(), width=160)
    ops = select(KernelConfig(), "cpu", console)
    assert set(choices(ops).values()) == {"reference"}
    text = console.file.getvalue()
    assert "triangle_attention" in text
    assert "sdpa: only faster than the reference on a GPU" in text


def test_auto_prefers_kernels_on_a_gpu():
    chosen = choices(select(KernelConfig(), "cuda"))
    assert {op for op, name in chosen.items() if name != "triton"} <= {"weighted_rigid_align"}


def test_a_named_choice_that_cannot_run_raises():
    with pytest.raises(ValueError, match="cannot run here"):
        select(KernelConfig("sdpa"), "cpu")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (KernelConfig("tritn"), "kernels.default"),
        (KernelConfig(ops={"layer_nrm": "auto"}), "did you mean 'layer_norm'"),
        (KernelConfig(ops={"layer_norm": "sdpa"}), "no implementation 'sdpa'"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(config, message):
    with pytest.raises(ValueError, match=message):
        select(config, "cpu")
