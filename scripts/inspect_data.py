#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Show an entry of a store: chains, tokens, a crop, alignments, features; --help lists the options."""

from foldwright.data.inspect import main

if __name__ == "__main__":
    raise SystemExit(main())
