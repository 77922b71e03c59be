# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs of a training step: matrix products only, 2 per multiply-add, recomputation not counted (spec
8.2).

The backward pass counts as twice the forward. These are the operations the algorithm asks for, whatever an
implementation does; `tests/test_flops.py` holds them against counts of executed products.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldwright.confidence.targets import N_ERROR_BINS, N_PLDDT_BINS
from foldwright.layers.atom_encoder import N_PLAIN_FEATURES
from foldwright.layers.atom_transformer import AtomTransformerConfig
from foldwright.layers.relative_position import WIDTH as RELATIVE_POSITION_WIDTH
from foldwright.layers.widths import Widths
from foldwright.model import ModelConfig
from foldwright.pairformer.pairformer import PairformerConfig
from foldwright.pairformer.template import N_PAIR_FEATURES
from foldwright.vocabulary import MAX_ATOMS_PER_TOKEN, N_RESTYPES
from foldwright.windows import KEYS


@dataclass(frozen=True)
class StepSizes:
    """What one example of a training step holds."""

    tokens: int
    atoms: int
    msa_rows: int
    templates: int
    diffusion_samples: int
    cycles: float  # the mean where the number is drawn
    rollout_steps: int = 0  # of the mini-rollout, which the confidence head judges; 0 for neither


def pair_stack(n: int, c: int, expansion: int) -> float:
    """The five pair updates of a block (the attention's inner width equals c)."""
    multiplication = 12 * c * c * n**2 + 2 * c * n**3
    attention = 10 * c * c * n**2 + 4 * c * n**3
    return 2 * multiplication + 2 * attention + 6 * expansion * c * c * n**2


def triangle_attention_bias(n: int, c: int, heads: int) -> float:
    return 2 * c * heads * n**2


def _pairs(n: int, c: int, heads: int, expansion: int) -> float:
    return pair_stack(n, c, expansion) + 2 * triangle_attention_bias(n, c, heads)


def pairformer_block(n: int, model: ModelConfig) -> float:
    """AF3 Algorithm 17, one block of the trunk."""
    return _pairformer_block(n, model.trunk.pairformer, model.widths)


def _pairformer_block(n: int, config: PairformerConfig, widths: Widths) -> float:
    c, s = widths.pair, widths.single
    single = 10 * s * s * n + 2 * c * config.single_heads * n**2 + 4 * s * n**2
    return _pairs(n, c, config.pair_heads, config.expansion) + single + 6 * config.expansion * s * s * n


def msa_module(n: int, rows: int, model: ModelConfig) -> float:
    config, c, m = model.trunk.msa, model.widths.pair, model.widths.msa
    outer, inner = config.c_outer**2, config.heads * config.c_head
    product = 4 * m * config.c_outer * rows * n + 2 * outer * rows * n**2 + 2 * outer * c * n**2
    averaging = 6 * m * inner * rows * n + 2 * inner * rows * n**2 + 2 * c * config.heads * n**2
    transition = 6 * config.expansion * m * m * rows * n
    pairs = _pairs(n, c, config.pair_heads, config.expansion)
    embedding = 2 * (N_RESTYPES + 2) * m * rows * n + 2 * model.widths.single_inputs * m * n
    return config.blocks * (product + pairs) + (config.blocks - 1) * (averaging + transition) + embedding


def template_embedder(n: int, templates: int, model: ModelConfig) -> float:
    config, c_z = model.trunk.template, model.widths.pair
    c = config.channels
    each = 2 * N_PAIR_FEATURES * c * n**2 + config.blocks * _pairs(n, c, config.heads, config.expansion)
    return templates * each + 4 * c_z * c * n**2


def atom_transformer(atoms: int, c: int, config: AtomTransformerConfig) -> float:
    linear = 2 * atoms * c * c * (2 * 2 + 5 + 1 + 2 + 3 * config.expansion + 1)
    return config.blocks * (linear + 4 * KEYS * c * atoms)


def _atom_pairs(atoms: int, model: ModelConfig, config: AtomTransformerConfig) -> float:
    """Pair terms of an atom encoder: offsets, outer sums, three-layer network, bias maps."""
    c, p = model.widths.atom, model.widths.atom_pair
    return atoms * KEYS * 2 * (3 * p * p + 5 * p + config.blocks * config.heads * p) + 4 * atoms * c * p


def input_embedder(atoms: int, model: ModelConfig) -> float:
    c, config = model.widths.atom, model.trunk.atom
    linear = 2 * atoms * (N_PLAIN_FEATURES + 4) * c + 2 * atoms * c * model.widths.single
    return atom_transformer(atoms, c, config) + linear + _atom_pairs(atoms, model, config)


def initial_embedding(n: int, model: ModelConfig) -> float:
    w = model.widths
    return 2 * w.single_inputs * (w.single + 2 * w.pair) * n + 2 * RELATIVE_POSITION_WIDTH * w.pair * n**2


def diffusion_block(n: int, samples: int, model: ModelConfig) -> float:
    """AF3 Algorithm 23, one block with its share of the bias maps."""
    config, a, s = model.diffusion, model.widths.token, model.widths.single
    linear = 2 * n * (6 * a * s + (5 + 3 * config.expansion) * a * a)
    return samples * (linear + 4 * a * n**2) + 2 * model.widths.pair * config.heads * n**2


def diffusion_shared(n: int, atoms: int, model: ModelConfig) -> float:
    """Noise-independent conditioning, the token bias maps aside."""
    w, config = model.widths, model.diffusion
    pairs = 2 * (2 * w.pair + RELATIVE_POSITION_WIDTH) * w.pair * n**2 + 24 * w.pair**2 * n**2
    singles = 2 * (w.single + w.single_inputs) * w.single * n + 2 * n * w.single * w.atom
    decoder_bias = atoms * KEYS * 2 * config.atom.blocks * config.atom.heads * w.atom_pair
    reference = 2 * atoms * (N_PLAIN_FEATURES + 4) * w.atom + 2 * w.pair * w.atom_pair * n**2
    return pairs + singles + reference + _atom_pairs(atoms, model, config.atom) + decoder_bias


def denoise_sample(n: int, atoms: int, model: ModelConfig) -> float:
    """One sample through the diffusion module, shared terms aside."""
    w, config = model.widths, model.diffusion
    bias = 2 * w.pair * config.heads * n**2
    token = config.blocks * (diffusion_block(n, 1, model) - bias)
    conditioning = 24 * w.single**2 * n + 2 * config.c_fourier * w.single
    edges = (
        2 * atoms * (w.atom * w.token + 6 * w.atom) + 2 * n * w.token * w.atom + 2 * n * w.single * w.token
    )
    return token + conditioning + edges + 2 * atom_transformer(atoms, w.atom, config.atom)


def confidence_head(n: int, model: ModelConfig) -> float:
    """AF3 Algorithm 31 for one structure."""
    w, config = model.widths, model.confidence.pairformer
    singles = 2 * n * (2 * w.single_inputs * w.pair + MAX_ATOMS_PER_TOKEN * (N_PLDDT_BINS + 2) * w.single)
    pairs = 2 * n**2 * 2 * N_ERROR_BINS * w.pair
    return config.blocks * _pairformer_block(n, config, w) + singles + pairs


def step_flops(model: ModelConfig, sizes: StepSizes) -> dict[str, float]:
    """FLOPs of one example's structure step by part, and their `total`. Recycled cycles and the rollout count
    forward only.
    """
    n, atoms = sizes.tokens, sizes.atoms
    recycle = 2 * n**2 * model.widths.pair**2 + 2 * n * model.widths.single**2
    cycle = {
        "template": template_embedder(n, sizes.templates, model),
        "msa": msa_module(n, sizes.msa_rows, model),
        "pairformer": model.trunk.pairformer.blocks * pairformer_block(n, model) + recycle,
    }
    biases = 2 * model.widths.pair * model.diffusion.heads * n**2 * model.diffusion.blocks
    diffusion = sizes.diffusion_samples * denoise_sample(n, atoms, model) + biases
    parts = {name: (sizes.cycles - 1 + 3) * value for name, value in cycle.items()}
    parts["input"] = 3 * (input_embedder(atoms, model) + initial_embedding(n, model))
    parts["diffusion"] = 3 * (diffusion + diffusion_shared(n, atoms, model))
    parts["distogram"] = 3 * 2 * model.widths.pair * 64 * n**2
    if sizes.rollout_steps:
        parts["rollout"] = sizes.rollout_steps * denoise_sample(n, atoms, model)
        parts["confidence"] = 3 * confidence_head(n, model)
    return {**parts, "total": sum(parts.values())}
