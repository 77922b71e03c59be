# SPDX-License-Identifier: Apache-2.0
"""Channel widths that several modules share."""

from __future__ import annotations

from dataclasses import dataclass

from foldwright.vocabulary import N_RESTYPES


@dataclass
class Widths:
    """Channels of the network's representations; the defaults are AF3's (spec 3)."""

    single: int = 384  # c_s
    pair: int = 128  # c_z
    msa: int = 64  # c_m
    atom: int = 128  # c_atom
    atom_pair: int = 16  # c_atompair
    token: int = 768  # c_token of the diffusion transformer

    @property
    def single_inputs(self) -> int:
        """c_s_inputs = atom encoder output + restype + profile + deletion mean (449)."""
        return self.single + 2 * N_RESTYPES + 1
