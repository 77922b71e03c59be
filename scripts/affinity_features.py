#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compute the pockets that an affinity run reads; takes that run's overrides (docs/affinity.md)."""

from foldwright.training.affinity_features import main

if __name__ == "__main__":
    raise SystemExit(main())
