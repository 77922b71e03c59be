#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Curves of several runs in the same axes; see foldwright.training.comparison."""

from foldwright.training.comparison import main

if __name__ == "__main__":
    raise SystemExit(main())
