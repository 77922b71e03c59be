#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a prediction costs against its size; see foldwright.inference.benchmark."""

from foldwright.inference.benchmark import main

if __name__ == "__main__":
    raise SystemExit(main())
