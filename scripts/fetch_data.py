#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mirror a list of PDB entries; --help lists the options."""

from foldwright.data.fetch import main

if __name__ == "__main__":
    raise SystemExit(main())
