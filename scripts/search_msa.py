#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Search databases for the alignments and templates of a store or a FASTA file; --help lists the options."""

from foldwright.data.search import main

if __name__ == "__main__":
    raise SystemExit(main())
