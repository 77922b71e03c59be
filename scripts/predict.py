#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Predict structures of inputs (JSON, FASTA, mmCIF, SDF, SMILES); --help lists the options."""

from foldwright.inference.predict import main

raise SystemExit(main())
