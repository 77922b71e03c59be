#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare crops of the training size, these stitched, and whole targets; --help lists the options."""

from foldwright.inference.crop_gap import main

if __name__ == "__main__":
    raise SystemExit(main())
