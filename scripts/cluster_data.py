#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cluster the chains of a store for sampling weights and splits; --help lists the options."""

from foldwright.data.clusters import main

if __name__ == "__main__":
    raise SystemExit(main())
