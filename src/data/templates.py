# SPDX-License-Identifier: Apache-2.0
"""Template features: T template slots, all empty until template search is part of the data pipeline.

Source: AF3 SI Table 5. An empty slot is masked out, holds gaps and no coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldwright.vocabulary import GAP


def empty_templates(n_templates: int, n_tokens: int) -> dict[str, Tensor]:
    """The template features of the Batch for `n_templates` empty slots (0 is allowed)."""
    shape = (n_templates, n_tokens)
    return {
        "template_mask": torch.zeros(n_templates, dtype=torch.bool),
        "template_restype": torch.full(shape, GAP, dtype=torch.uint8),
        "template_pseudo_beta": torch.zeros(*shape, 3),
        "template_pseudo_beta_mask": torch.zeros(shape, dtype=torch.bool),
        "template_backbone": torch.zeros(*shape, 3, 3),
        "template_backbone_mask": torch.zeros(shape, dtype=torch.bool),
    }
