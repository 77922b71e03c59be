#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turn the predictions worth learning from into a store to train on; --help lists the options."""

from foldwright.inference.distill import main

if __name__ == "__main__":
    raise SystemExit(main())
