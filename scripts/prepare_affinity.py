#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measured affinities to the table that the affinity stage reads; --help lists the options."""

from foldwright.data.prepare_affinity import main

if __name__ == "__main__":
    raise SystemExit(main())
