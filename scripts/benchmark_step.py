#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time one whole training step; see foldwright.training.benchmark."""

from foldwright.training.benchmark import main

if __name__ == "__main__":
    raise SystemExit(main())
