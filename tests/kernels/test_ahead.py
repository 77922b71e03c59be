# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles, without the card, for NVIDIA's Ampere and Hopper and AMD's MI250 and MI300."""

import os
import subprocess
import sys

import pytest

from foldwright.kernels.ahead import SHARED_MEMORY, target_of

KERNELS = 74  # compiled by each run: attention at two head widths, pairs of two widths


OFTEN = ("sm_90", "gfx942")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.thorough) for name in SHARED_MEMORY],
)
def test_every_kernel_compiles_and_fits(architecture, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    process = subprocess.run(
        [sys.executable, "-m", "foldwright.kernels.ahead", architecture],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count(architecture) == KERNELS


def test_every_pass_of_window_attention_rounds_its_logits_alike(tmp_path):
    """log2 e times the bias (-1e9 where masked) is rounded before the product is added, never with it: of two
    ways to contract them one differs from the other by 2^128 in the exponential.
    """
    script = (
        "from foldwright.kernels import ahead\n"
        "ahead._calls = lambda: [ahead._window_attention]\n"
        "ahead.compile_all('sm_90')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    programs = [path.read_text() for path in tmp_path.rglob("_window_*.ptx")]
    assert len(programs) == 4
    log2_e = "0f3FB8AA3B"
    assert all(log2_e in program for program in programs)
    assert not [line for program in programs for line in program.splitlines()
                if line.lstrip().startswith("fma") and log2_e in line]  # fmt: skip


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="got architecture 'volta', expected one like sm_90"):
        target_of("volta")
