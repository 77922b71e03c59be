# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from foldwright.kernels import tiles, tuning

ENTRY = {"Q": 64, "K": 32, "MEMBERS": 2, "num_warps": 4, "num_stages": 3, "maxnreg": 128}


def test_candidates_vary_sizes_launches_and_limits_of_entries_that_name_one():
    grid = list(tuning.candidates(ENTRY))
    assert ENTRY in grid
    assert {tile["maxnreg"] for tile in grid} == {0, 128, 168}
    assert {tile["MEMBERS"] for tile in grid} == {1, 2}
    assert all(16 <= tile["Q"] * tile["K"] / (32 * tile["num_warps"]) <= 64 for tile in grid)
    plain = {name: value for name, value in ENTRY.items() if name != "maxnreg"}
    assert len(grid) == 3 * len(list(tuning.candidates(plain)))


def test_without_resizing_only_launches_vary():
    grid = list(tuning.candidates(ENTRY, resize=False))
    assert {(tile["Q"], tile["K"], tile["MEMBERS"]) for tile in grid} == {(64, 32, 2)}
    assert len(grid) == len({tuple(sorted(tile.items())) for tile in grid}) == 18


def test_a_tile_with_another_result_is_never_the_fastest(monkeypatch):
    monkeypatch.setattr(tuning, "gpu_milliseconds", lambda function: 1.0)
    right = torch.randn(40)
    rounded, wrong, missing = right.bfloat16(), right + 0.1, right * math.nan
    for result, taken in ((rounded, True), (wrong, False), (missing, False)):
        assert (
            math.isfinite(tuning._milliseconds(lambda result=result: (right, result), (right, right)))
            == taken
        )


@pytest.mark.parametrize(("family", "only"), [("atention", ("",)), ("attention", ("attention/fore/32",))])
def test_unknown_entries_are_refused(family, only, monkeypatch):
    monkeypatch.setattr(tuning, "_keys", lambda case, table: ["attention/forward/32"])
    with pytest.raises(ValueError, match=r"got (the family 'atention'|attention/fore/32)"):
        next(tuning.tune(family, {}, only))


def test_no_limit_of_registers_is_none(monkeypatch):
    monkeypatch.setattr(tiles, "interpreting", lambda: False)
    for limit, passed in ((0, None), (168, 168)):
        monkeypatch.setattr(tiles, "table", lambda limit=limit: {"op/kernel/64": ENTRY | {"maxnreg": limit}})
        assert tiles.tile("op", "kernel", 64, torch.bfloat16).get("maxnreg") == passed


def test_a_process_tries_one_tile_at_a_time(monkeypatch):
    table, seen = {"op/other/64": {}}, []
    monkeypatch.setattr(tiles, "table", lambda: table)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(tuning, "_run", lambda case, key: lambda: seen.append(dict(table)))
    assert tuning._runs_here(("op", "op"), "op/kernel/64", ENTRY)
    assert seen == [{"op/other/64": {}, "op/kernel/64": ENTRY}]
    assert table == {"op/other/64": {}}
    broken = iter([RuntimeError("illegal access")])
    monkeypatch.setattr(tuning, "_run", lambda case, key: lambda: (_ for _ in ()).throw(next(broken)))
    assert tuning._runs_here(("op", "op"), "op/kernel/64", ENTRY) is False
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: (_ for _ in ()).throw(RuntimeError("still")))
    assert tuning._runs_here(("op", "op"), "op/kernel/64", ENTRY) is None
