# SPDX-License-Identifier: Apache-2.0
"""Cost of examples and waiting of a simulated device, from a store; --help lists the options."""

import sys

from foldwright.training.loader_benchmark import main

if __name__ == "__main__":
    sys.exit(main())
