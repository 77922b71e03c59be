# SPDX-License-Identifier: Apache-2.0
import io
from pathlib import Path

import pytest
from rich.console import Console

from foldwright.kernels import KernelConfig, registry, select
from foldwright.kernels.registry import OP_NAMES, choices, implementations


def test_every_op_has_a_reference():
    for op in OP_NAMES:
        assert "reference" in [entry.name for entry in implementations(op)]


def test_every_file_of_kernels_is_loaded():
    """One that registers but is never imported would leave its op to the reference, without a word."""
    loaded = {entry.function.__module__.split(".")[-1] for op in OP_NAMES for entry in implementations(op)}
    files = {file.stem for file in Path(registry.__file__).parent.glob("*.py")}
    registering = {name for name in files if "@register(" in _source(name)}
    assert registering - {"registry"} == loaded


def _source(name):
    return (Path(registry.__file__).parent / f"{name}.py").read_text()


def test_auto_takes_the_fastest_supported_and_says_why_not_more():
    console = Console(file=io.StringIO(), width=160)
    ops = select(KernelConfig(), "cpu", console)
    assert set(choices(ops).values()) == {"reference"}
    text = console.file.getvalue()
    assert "triangle_attention" in text
    assert "sdpa: only faster than the reference on a GPU" in text


def test_auto_prefers_kernels_on_a_gpu():
    chosen = choices(select(KernelConfig(), "cuda"))
    assert set(chosen.values()) == {"triton"}


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
