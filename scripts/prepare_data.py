# SPDX-License-Identifier: Apache-2.0
"""Turn a directory of mmCIF (and a3m) files into the store that training reads; --help lists the options."""

import sys

from foldwright.data.prepare import main

if __name__ == "__main__":
    sys.exit(main())
