# SPDX-License-Identifier: Apache-2.0
"""Reading ahead: the next item of an iterator is fetched in a thread while the consumer works on the last.

What it hides: taking a batch over from a worker process (a pipe, a socket for the descriptor of its memory,
a mapping) costs milliseconds of a thread that was asleep, however early the batch was ready.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
_END: Any = object()


def read_ahead(source: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order; an error of `source` is raised where its item would have come.

    The first item is asked for at the first `next`. Closing it waits until the item being fetched is there.
    """
    thread = ThreadPoolExecutor(1, "read-ahead")
    try:
        coming = thread.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, source, _END)
            yield item
    finally:
        thread.shutdown()
