# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles, without the card, for NVIDIA's Ampere and Hopper and AMD's MI250 and MI300."""

import os
import subprocess
import sys

import pytest

from foldwright.kernels.ahead import SHARED_MEMORY, target_of

KERNELS = 74  # compiled by each run: attention at two head widths, pairs of two widths


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(SHARED_MEMORY))
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


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="got architecture 'volta', expected one like sm_90"):
        target_of("volta")
