#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Split a clustered store by date and homology; --help lists the options."""

from foldwright.data.splitting import main

if __name__ == "__main__":
    raise SystemExit(main())
