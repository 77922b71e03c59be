#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Score predictions, or a checkpoint, against true structures; compare two runs; --help lists the options."""

from foldwright.inference.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
