# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles, without the card, for NVIDIA's Ampere and Hopper and AMD's MI250 and MI300."""

import os
import subprocess
import sys

import pytest

from foldwright.kernels.ahead import SHARED_MEMORY, target_of

KERNELS, WIDE = 74, 23  # compiled by each run, and those of them for wider pairs


def compiled(folder, *command):
    """What a process of its own prints, whose Triton compiles instead of interpreting."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder)}
    process = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_every_kernel_compiles_and_fits_at_the_papers_widths(tmp_path):
    script = """
import sys
from foldwright.kernels import ahead
ahead._wide_calls = list
sys.argv[1:] = ["sm_90"]
sys.exit(ahead.main())
"""
    assert compiled(tmp_path, "-c", script).count("sm_90") == KERNELS - WIDE


@pytest.mark.thorough
@pytest.mark.parametrize("architecture", sorted(SHARED_MEMORY))
def test_every_kernel_compiles_and_fits(architecture, tmp_path):
    said = compiled(tmp_path, "-m", "foldwright.kernels.ahead", architecture)
    assert said.count(architecture) == KERNELS


def test_every_pass_of_window_attention_rounds_its_logits_alike(tmp_path):
    """log2 e times the bias (-1e9 where masked) is rounded before the product is added, never with it: of two
    ways to contract them one differs from the other by 2^128 in the exponential.
    """
    script = (
        "from foldwright.kernels import ahead\n"
        "ahead._calls, ahead._wide_calls = lambda: [ahead._window_attention], list\n"
        "ahead.compile_all('sm_90')"
    )
    compiled(tmp_path, "-c", script)
    programs = [path.read_text() for path in tmp_path.rglob("_window_*.ptx")]
    assert len(programs) == 4
    log2_e = "0f3FB8AA3B"
    assert all(log2_e in program for program in programs)
    assert not [line for program in programs for line in program.splitlines()
                if line.lstrip().startswith("fma") and log2_e in line]  # fmt: skip


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="got architecture 'volta', expected one like sm_90"):
        target_of("volta")
