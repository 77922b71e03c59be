#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write one HTML file of a run, an evaluation and its predictions; --help lists the options."""

from foldwright.inference.report import main

if __name__ == "__main__":
    raise SystemExit(main())
