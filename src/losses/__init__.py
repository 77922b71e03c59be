# SPDX-License-Identifier: Apache-2.0
"""Losses: pure functions of predictions and a Batch."""

from foldwright.losses.external import external_loss
from foldwright.losses.structure import LossConfig, confidence_loss, structure_loss

__all__ = ["LossConfig", "confidence_loss", "external_loss", "structure_loss"]
