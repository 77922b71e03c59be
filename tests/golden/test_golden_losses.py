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


def losses(stage: str, root: Path) -> dict[str, list[float]]:
    train(compose_config([f"stage={stage}", *SIZES, f"paths.output_root={root}"]))
    header, *lines = (root / stage / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    return {name: [float(row[name]) for row in rows] for name in ("loss", "mse", "distogram", "grad_norm")}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["structure"])
def test_twenty_steps_give_the_golden_losses(stage, tmp_path, request):
    found = losses(stage, tmp_path)
    golden = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if request.config.getoption("--record-golden"):
        RECORD.write_text(json.dumps({**golden, stage: found}, indent=1) + "\n")
        pytest.skip(
            f"recorded {STEPS} golden steps of stage {stage}: look at the difference before committing it"
        )
    assert len(found["loss"]) == STEPS
    for name, values in golden[stage].items():
        assert found[name] == pytest.approx(values, rel=5e-3), name
