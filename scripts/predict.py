#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Predict structures of inputs (JSON, FASTA, mmCIF, SDF, SMILES); --help lists the options."""

from foldwright.inference.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
