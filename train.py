# SPDX-License-Identifier: Apache-2.0
from foldwright.training.cli import main

if __name__ == "__main__":
    main()
