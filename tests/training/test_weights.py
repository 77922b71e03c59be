# SPDX-License-Identifier: Apache-2.0
"""One file out of a (sharded) checkpoint and back into a network, to the bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from foldwright.kernels import KernelConfig, select
from foldwright.training import checkpoint
from foldwright.training.checkpoint import CheckpointError
from foldwright.training.weights import (
    Weights,
    digest,
    load_network,
    locate,
    main,
    model_config,
    read_record,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled")


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["ema", "raw", "both"])
def test_round_trip_is_bitwise(runs, uninterrupted, tmp_path, wanted):
    file = tmp_path / "sub" / "out.safetensors"
    assert main([str(runs.root / uninterrupted), str(file), "--weights", wanted]) == 0
    stored = runs.tensors(uninterrupted)
    kinds = list(Weights) if wanted == "both" else [Weights(wanted)]
    prefixes = tuple(kind.prefix for kind in kinds)
    exported = load_file(file)
    assert exported.keys() == {name for name in stored if name.startswith(prefixes)}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in exported.items())
    directory = runs.checkpoints(uninterrupted)[-1]
    assert digest(locate(file, "file")) == checkpoint.digest(directory)
    record = read_record(file)
    assert (record.step, record.config) == (8, checkpoint.read_record(directory).config)
    for kind in kinds:
        network = load_network(file, kind, model_config(record), select(KernelConfig(), "cpu"))
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, stored[kind.prefix + name])


@pytest.mark.slow
def test_a_sharded_run_starts_from_a_file(runs, uninterrupted, tmp_path):
    file = tmp_path / "out.safetensors"
    assert main([str(runs.root / uninterrupted), str(file)]) == 0
    settings = ("stage=finetune1", f"init_from.path={file}", "init_from.optimizer=reset")
    runs.here("from_file", *settings, "trainer.sharding=fsdp", "trainer.max_steps=1")
    torch.distributed.destroy_process_group()
    first = runs.checkpoints("from_file")[0]
    assert first.name == "step-00000000"
    exported = load_file(file)
    tensors = {name: torch.empty_like(tensor) for name, tensor in exported.items()}
    checkpoint.read(first, tensors)
    assert all(torch.equal(tensor, exported[name]) for name, tensor in tensors.items())


def test_what_is_not_one_of_ours_is_refused(tmp_path, capsys):
    foreign, cut = tmp_path / "foreign.safetensors", tmp_path / "cut.safetensors"
    save_file({"w": torch.zeros(2)}, foreign)
    cut.write_bytes(foreign.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="got format None"):
        locate(foreign, "init_from.path")
    with pytest.raises(CheckpointError, match=r"cut.safetensors is damaged"):
        locate(cut, "init_from.path")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), str(tmp_path / "out.safetensors")])
    assert ended.value.code == 1
    assert "there is no checkpoint below it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "out.pt")])
    assert "ends in .safetensors" in capsys.readouterr().err
