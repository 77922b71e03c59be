# SPDX-License-Identifier: Apache-2.0
"""Make the disorder set of entries and predictions of their proteins; --help lists the options."""

import sys

from foldwright.data.disorder import main

if __name__ == "__main__":
    sys.exit(main())
