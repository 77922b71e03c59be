# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from foldwright.training.read_ahead import read_ahead


def test_items_and_errors_come_in_their_order():
    def source():
        yield from (1, None, 2)
        raise OSError("a broken source")

    items = read_ahead(source())
    assert [next(items) for _ in range(3)] == [1, None, 2]
    with pytest.raises(OSError, match="a broken source"):
        next(items)
    assert list(read_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]


def test_the_next_item_is_fetched_while_the_consumer_works():
    fetched = [threading.Event() for _ in range(3)]

    def source():
        for event in fetched:
            event.set()
            yield event

    items = read_ahead(source())
    assert not fetched[0].is_set()
    next(items)
    assert fetched[1].wait(5)
    time.sleep(0.02)
    assert not fetched[2].is_set(), "it reads further ahead than one"


def test_closing_it_ends_the_thread():
    before = threading.active_count()
    items = read_ahead(iter(range(10**9)))
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before
