# SPDX-License-Identifier: Apache-2.0
"""Losses of the first 20 steps of every stage on the built-in sample: a change of numerics shows here.

`make golden` records them anew. The tolerance covers other processors and library builds: 20 steps of Adam
amplify rounding differences.
"""

import json
from pathlib import Path

import pytest

from foldwright.training.cli import train
from foldwright.training.config import compose_config

RECORD = Path(__file__).parent / "losses.json"
STEPS = 20
SIZES = (
    "curriculum.initial.crop_tokens=32",
    "curriculum.initial.crop_atoms=320",
    "curriculum.initial.msa_rows=16",
    "curriculum.initial.diffusion_samples=4",
    f"trainer.max_steps={STEPS}",
    "trainer.accelerator=cpu",
    "loader.workers=0",
    "summary.sampler.steps=2",
)


STAGES = ("structure", "finetune1", "finetune2", "confidence")


def losses(stage: str, root: Path, parent: str | None) -> dict[str, list[float]]:
    """What 20 steps of a stage write, handed over from the stage before."""
    hand_off = [f"init_from.path={root / parent}"] if parent else []
    train(compose_config([f"stage={stage}", *SIZES, *hand_off, f"paths.output_root={root}"]))
    header, *lines = (root / stage / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    names = ("loss", "mse", "distogram", "plddt", "pae", "grad_norm")
    return {name: [float(row[name]) for row in rows] for name in names if name in rows[0]}


@pytest.mark.slow
def test_twenty_steps_of_every_stage_give_the_golden_losses(tmp_path, request):
    found, parent = {}, None
    for stage in STAGES:
        found[stage] = losses(stage, tmp_path, parent)
        parent = stage
    if request.config.getoption("--record-golden"):
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
        pytest.skip(
            f"recorded {STEPS} golden steps of each stage: look at the difference before committing it"
        )
    golden = json.loads(RECORD.read_text())
    assert found.keys() == golden.keys()
    for stage, curves in golden.items():
        assert found[stage].keys() == curves.keys()
        for name, values in curves.items():
            assert len(values) == STEPS
            assert found[stage][name] == pytest.approx(values, rel=5e-3), f"{stage}: {name}"
