#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the weights of a run to one safetensors file; --help lists the options."""

from foldwright.training.weights import main

if __name__ == "__main__":
    raise SystemExit(main())
