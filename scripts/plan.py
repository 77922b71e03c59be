#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Predict what a stage costs on given GPUs; see foldwright.training.plan."""

from foldwright.training.plan import main

if __name__ == "__main__":
    raise SystemExit(main())
