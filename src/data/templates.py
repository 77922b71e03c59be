# SPDX-License-Identifier: Apache-2.0
"""Templates of the chains of an entry, and the template features of a crop.

Sources: AF3 SI 2.4 (single-chain templates; k = min(U{0..n}, 4) random ones in training, the first 4
otherwise) and Table 5. The chains' templates stand side by side in the Batch's slots: slot t holds one
template of every chain that has as many. Tokens of atomised residues have none: they are no residues, and
their atoms would all show the one template residue. An empty slot is masked out, holds gaps and no
coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldwright.data.structure import Bools, Bytes, Floats, Ints, Strings
from foldwright.vocabulary import GAP

ATOMS = ("N", "CA", "C", "pseudo-beta")
_STEP = 0.01  # Å; half of it is a twentieth of what well-resolved structures are uncertain by
_LARGEST = 32767 * _STEP


class ChainTemplate(NamedTuple):
    """One template on the L residues of the chain it is for; `restype` is a gap where nothing is aligned."""

    name: str
    restype: Bytes  # [L]
    coords: Floats  # [L, 4, 3] Å: N, CA, C and pseudo-beta (CB; CA of glycine)
    present: Bools  # [L, 4]


@dataclass(frozen=True)
class Templates:
    """T templates of one chain of L residues, the best first.

    Coordinates are centred and kept as 16-bit hundredths of an Å: half the bytes of float32 at an error of
    0.005 Å; float16 would err by 0.016 Å from 32 Å on. Only distances and directions are read from them.
    """

    names: Strings  # [T] entry_chain
    restype: Bytes  # [T, L]
    coords: NDArray[np.int16]  # [T, L, 4, 3]
    backbone_mask: Bools  # [T, L] N, CA and C are there
    pseudo_beta_mask: Bools  # [T, L]


def pack_templates(templates: Sequence[ChainTemplate]) -> Templates:
    """Templates of one chain as they are stored.

    Raises:
        ValueError: there are none, or one reaches farther than 327 Å from its centre.
    """
    if not templates:
        raise ValueError("got no template, expected at least one")
    return Templates(
        names=np.array([template.name for template in templates]),
        restype=np.stack([template.restype for template in templates]),
        coords=np.stack([_quantised(template) for template in templates]),
        backbone_mask=np.stack([template.present[:, :3].all(axis=1) for template in templates]),
        pseudo_beta_mask=np.stack([template.present[:, 3] for template in templates]),
    )


def _quantised(template: ChainTemplate) -> NDArray[np.int16]:
    """Hundredths of an Å around the centre of the atoms present; 0 for the others."""
    present = template.present[..., None]
    centre = template.coords[template.present].mean(axis=0) if template.present.any() else 0.0
    centred = np.where(present, template.coords - centre, 0)
    if np.abs(centred).max(initial=0) > _LARGEST:
        raise ValueError(f"template {template.name} reaches farther than {_LARGEST:.0f} Å from its centre")
    return np.rint(centred / _STEP).astype(np.int16)


def template_features(
    templates: Sequence[Templates],
    token_templates: Ints,
    token_column: Ints,
    n_slots: int,
    rng: np.random.Generator | None,
) -> dict[str, Tensor]:
    """The template features of the Batch.

    Args:
        templates: those of each distinct chain sequence that has any.
        token_templates: [N] index into `templates` of each token; -1 for none.
        token_column: [N] residue of each token in its chain, from 0.
        n_slots: template slots T (0 is allowed).
        rng: draws how many and which of a chain's templates are used (training); None takes the first ones.
    """
    n_tokens = len(token_templates)
    used = np.zeros(n_slots, np.bool_)
    restype = np.full((n_slots, n_tokens), GAP, np.uint8)
    coords = np.zeros((n_slots, n_tokens, len(ATOMS), 3), np.float32)
    backbone, pseudo_beta = (np.zeros((n_slots, n_tokens), np.bool_) for _ in range(2))
    for index, chain in enumerate(templates):
        chosen = _chosen(len(chain.names), n_slots, rng)
        tokens = np.flatnonzero(token_templates == index)
        target = np.ix_(np.arange(len(chosen)), tokens)
        source = np.ix_(chosen, token_column[tokens])
        used[: len(chosen)] = True
        restype[target] = chain.restype[source]
        coords[target] = chain.coords[source] * np.float32(_STEP)
        backbone[target] = chain.backbone_mask[source]
        pseudo_beta[target] = chain.pseudo_beta_mask[source]
    return {
        "template_mask": torch.from_numpy(used),
        "template_restype": torch.from_numpy(restype),
        "template_pseudo_beta": torch.from_numpy(np.where(pseudo_beta[..., None], coords[:, :, 3], 0)),
        "template_pseudo_beta_mask": torch.from_numpy(pseudo_beta),
        "template_backbone": torch.from_numpy(np.where(backbone[..., None, None], coords[:, :, :3], 0)),
        "template_backbone_mask": torch.from_numpy(backbone),
    }


def _chosen(n_templates: int, n_slots: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """AF3 SI 2.4: at most `n_slots` of a chain's templates."""
    if rng is None:
        return np.arange(min(n_templates, n_slots))
    return rng.permutation(n_templates)[: min(int(rng.integers(n_templates + 1)), n_slots)]
