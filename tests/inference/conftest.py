# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a small untrained network, as a run leaves it."""

import pytest
from untrained import save_untrained


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("run"))
