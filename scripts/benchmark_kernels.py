#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time the kernels against the reference and torch.compile; see foldwright.kernels.benchmark."""

from foldwright.kernels.benchmark import main

if __name__ == "__main__":
    raise SystemExit(main())
