# SPDX-License-Identifier: Apache-2.0
"""From a complex to the pocket that the affinity head reads: trunk, sampled poses, the best of them, a crop.

Everything random is keyed by the name of the complex, so that a pocket recomputed is the pocket cached.
Reading: an entry above `max_tokens` is first cut to the tokens nearest to the ligand in the store's
structure; poses are predicted in every case.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from foldwright.affinity.crop import PocketConfig, pocket_tokens
from foldwright.affinity.head import Pocket
from foldwright.batch import Batch, collate
from foldwright.data.affinity_store import PocketRecord
from foldwright.data.features import MsaConfig, build_example
from foldwright.data.records import Entry
from foldwright.data.store import Store
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.model import AlphaFold3
from foldwright.randomness import generator, key
from foldwright.training.parallel import reshard
from foldwright.vocabulary import MoleculeType


@dataclass
class PoseConfig:
    """How poses are made; defaults: Boltz-2's (spec 6), 5 cycles, the best of 5 samples of 200 steps."""

    samples: int = 5
    cycles: int = 5
    msa_rows: int = 1024
    max_tokens: int = 768  # that the trunk sees
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pocket: PocketConfig = field(default_factory=PocketConfig)


def make_pocket(
    network: AlphaFold3,
    store: Store,
    complex_name: str,
    config: PoseConfig,
    n_templates: int,
    device: torch.device,
) -> PocketRecord:
    """The pocket of `<entry>/<ligand chain>` by a network in evaluation mode.

    Raises KeyError for an entry that the store lacks, ValueError for a chain that the entry lacks or a ligand
    that is over the budget.
    """
    entry, chain = _locate(store, complex_name)
    kept = _kept(entry, chain, config.max_tokens, complex_name)
    number = zlib.crc32(complex_name.encode())
    example = _example(entry, store, kept, config, n_templates, number)
    atoms = -(-example.sizes()["A"] // 32) * 32  # whole query windows of atom attention
    batch = collate([example], {"A": (atoms,)}).to(device)
    was_training = network.training
    network.eval()
    pose = network.pose(batch, config.samples, config.sampler, key(batch.sample_number, 0))
    network.train(was_training)
    reshard(network)
    is_ligand = entry.tokens.token_chain[kept] == chain
    tokens = choose_pocket(pose.x, batch, is_ligand, config.pocket)
    representative = batch.representative_atom[0].long()
    index = torch.from_numpy(tokens).to(device)
    z = pose.z[index][:, index].to(torch.bfloat16).view(torch.uint16)
    return PocketRecord(
        s_inputs=pose.s_inputs[index].float().cpu().numpy(),
        z=z.cpu().numpy(),
        x=pose.x[representative[index]].float().cpu().numpy(),
        is_ligand=is_ligand[tokens],
    )


def pad_pockets(records: list[PocketRecord]) -> Pocket:
    """A batch of pockets, padded to the largest rounded up to 32 tokens; bfloat16 pairs."""
    tokens = -(-max(len(record.x) for record in records) // 32) * 32
    n, c_in, c_z = len(records), records[0].s_inputs.shape[-1], records[0].z.shape[-1]
    pocket = Pocket(
        torch.zeros(n, tokens, c_in),
        torch.zeros(n, tokens, tokens, c_z, dtype=torch.bfloat16),
        torch.zeros(n, tokens, 3),
        torch.zeros(n, tokens, dtype=torch.bool),
        torch.zeros(n, tokens, dtype=torch.bool),
    )
    for row, record in enumerate(records):
        size = len(record.x)
        pocket.s_inputs[row, :size] = torch.from_numpy(np.array(record.s_inputs))
        pocket.z[row, :size, :size] = torch.from_numpy(np.array(record.z)).view(torch.bfloat16)
        pocket.x[row, :size] = torch.from_numpy(np.array(record.x))
        pocket.is_ligand[row, :size] = torch.from_numpy(np.array(record.is_ligand))
        pocket.token_mask[row, :size] = True
    return pocket


def _locate(store: Store, complex_name: str) -> tuple[Entry, int]:
    name, _, chain = complex_name.rpartition("/")
    entry = store.entry(name)
    found = np.flatnonzero(entry.structure.chain_name == chain)
    if len(found) != 1:
        raise ValueError(
            f"{complex_name}: got no chain {chain!r} in the entry, expected one of "
            f"{', '.join(entry.structure.chain_name.tolist())}; make the affinity table again"
        )
    return entry, int(found[0])


def _kept(entry: Entry, chain: int, most: int, name: str) -> NDArray[np.int64]:
    """All tokens, or the `most` nearest to the ligand where the structure shows it."""
    structure, tokens = entry.structure, entry.tokens
    n_tokens = len(tokens.token_chain)
    if n_tokens <= most:
        return np.arange(n_tokens)
    resolved = structure.atom_resolved[tokens.token_centre]
    centre = structure.atom_coords[tokens.token_centre]
    ligand = (tokens.token_chain == chain) & resolved
    if not ligand.any():
        raise ValueError(
            f"{name}: got {n_tokens} tokens and a ligand without coordinates, expected at most {most}, "
            "or a pose to cut around; raise affinity.pose.max_tokens or leave it out"
        )
    distance = np.linalg.norm(centre[:, None] - centre[None, ligand], axis=-1).min(axis=1)
    distance = np.where(resolved, distance, np.inf)
    distance[tokens.token_chain == chain] = -1.0
    return np.sort(np.argsort(distance, kind="stable")[:most])


def _example(
    entry: Entry, store: Store, kept: NDArray[np.int64], config: PoseConfig, n_templates: int, number: int
) -> Batch:
    name = entry.structure.entry_id
    return build_example(
        entry,
        store.components,
        store.msas(name, map(int, entry.msa_entities)),
        kept,
        msa_config=MsaConfig(config.msa_rows, random_depth=False),
        n_templates=n_templates,
        n_cycles=config.cycles,
        sample_number=number,
        msa_rng=generator(0, number, "msa of a pocket"),
        conformer_rng=generator(0, number, "conformers of a pocket"),
        chain_templates=store.templates(name, map(int, entry.template_entities)),
    )


def choose_pocket(
    x: torch.Tensor, batch: Batch, is_ligand: NDArray[np.bool_], config: PocketConfig
) -> NDArray[np.int64]:
    """Tokens of the pocket around a ligand [N] in a pose x [A, 3] of a batch of one (`pocket_tokens`)."""
    n = len(is_ligand)
    centre = x[batch.centre_atom[0].long()].float().cpu().numpy()[:n]
    atoms = torch.bincount(batch.atom_to_token[0][batch.atom_mask[0]].long(), minlength=n)
    protein = (batch.molecule_type[0] == MoleculeType.PROTEIN).cpu().numpy()[:n]
    chain = batch.asym_id[0].cpu().numpy()[:n]
    return pocket_tokens(centre, chain, atoms.cpu().numpy()[:n], is_ligand, protein, config)
