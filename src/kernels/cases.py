# SPDX-License-Identifier: Apache-2.0
"""One case per op: inputs of given sizes, which the self-test checks and the benchmark times.

Inputs are drawn so that every branch of a kernel matters: masks with holes, weights of unit gain. Parameters,
float32 residual streams and coordinates are float32 whatever the products' dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foldwright.windows import KEYS, QUERIES

_LDDT_SAMPLES = 4  # the loss holds that many at a time


@dataclass(frozen=True)
class Sizes:
    """N tokens with their atoms, and widths; the defaults are AF3's."""

    tokens: int
    atoms: int
    msa_rows: int = 1024
    samples: int = 48
    pair: int = 128
    single: int = 384
    msa: int = 64
    token: int = 768
    atom: int = 128
    atom_pair: int = 16
    pair_heads: int = 4
    token_heads: int = 16
    atom_heads: int = 4
    msa_heads: int = 8
    c_head: int = 8  # of the MSA module's averaging
    c_outer: int = 32


@dataclass(frozen=True)
class Draw:
    """Random tensors on a device: `narrow` in the products' dtype, `wide` in float32."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def narrow(self, *shape: int, scale: float = 1.0) -> Tensor:
        return self.wide(*shape, scale=scale).to(self.dtype)

    def wide(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator) * scale

    def weight(self, c_out: int, c_in: int) -> Tensor:
        return self.wide(c_out, c_in, scale=c_in**-0.5)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device, generator=self.generator) > 0.1


@dataclass(frozen=True)
class Case:
    """How an op is called. `constant`: positions of arguments that take no gradient in training."""

    op: str
    make: Callable[[Draw, Sizes], list[Any]]
    constant: tuple[int, ...] = ()

    def inputs(self, device: torch.device, dtype: torch.dtype, sizes: Sizes, seed: int = 0) -> list[Any]:
        generator = torch.Generator(device).manual_seed(seed)
        return self.make(Draw(device, dtype, generator), sizes)

    def varied(self, inputs: Sequence[Any]) -> list[Any]:
        """What `bound` leaves open."""
        return [x for position, x in enumerate(inputs) if position not in self.constant]

    def bound(self, function: Callable[..., Tensor], inputs: Sequence[Any]) -> Callable[..., Tensor]:
        """The op as a function of `varied` alone; constants follow its first argument's dtype and device,
        several outputs come as one.
        """

        def call(first: Tensor, *others: Any) -> Tensor:
            open_arguments = iter((first, *others))
            out = function(
                *(
                    _like(x, first) if position in self.constant else next(open_arguments)
                    for position, x in enumerate(inputs)
                )
            )
            return out if isinstance(out, Tensor) else torch.cat([part.flatten() for part in out])

        return call


def _like(x: Any, other: Tensor) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.to(other) if x.is_floating_point() else x.to(other.device)


def _layer_norm(draw: Draw, s: Sizes) -> list[Any]:
    return [draw.narrow(1, s.tokens, s.tokens, s.pair), draw.wide(s.pair), draw.wide(s.pair)]


def _adaptive_layer_norm(draw: Draw, s: Sizes) -> list[Any]:
    shape = (1, s.samples, s.tokens)
    return [draw.wide(*shape, s.token), draw.narrow(*shape, 2 * s.token)]


def _gated_residual(draw: Draw, s: Sizes) -> list[Any]:
    shape = (1, s.samples, s.tokens, s.token)
    return [draw.wide(*shape), draw.narrow(*shape), draw.narrow(*shape)]


def _swiglu(draw: Draw, s: Sizes) -> list[Any]:
    return [draw.narrow(1, s.samples, s.tokens, 4 * s.token)]


def _pair_bias(draw: Draw, s: Sizes) -> list[Any]:
    norm = [draw.wide(s.pair), draw.wide(s.pair)]
    key_bias = -1e9 * ~draw.mask(1, 1, 1, s.tokens)
    z = draw.narrow(1, s.tokens, s.tokens, s.pair)
    return [z, *norm, draw.weight(s.pair_heads, s.pair), key_bias.to(draw.dtype)]


def _transition(draw: Draw, s: Sizes) -> list[Any]:
    weights = [draw.weight(8 * s.pair, s.pair), draw.weight(s.pair, 4 * s.pair)]
    return [draw.narrow(1, s.tokens, s.tokens, s.pair), draw.wide(s.pair), draw.wide(s.pair), *weights]


def _triangle_multiplication(draw: Draw, s: Sizes) -> list[Any]:
    norms = [draw.wide(s.pair) for _ in range(4)]
    weights = [draw.weight(k * s.pair, s.pair) for k in (4, 1, 1)]
    z, mask = draw.narrow(1, s.tokens, s.tokens, s.pair), draw.mask(1, s.tokens)
    seed = torch.tensor([1234], device=draw.device)
    return [z, mask, *norms[:2], weights[0], *norms[2:], *weights[1:], True, seed, 0.25]


def _shared_bias_attention(draw: Draw, rows: int, n: int, heads: int, c: int) -> list[Any]:
    return [draw.narrow(1, rows, n, 4, heads, c), draw.narrow(1, heads, n, n)]


def _triangle_attention(draw: Draw, s: Sizes) -> list[Any]:
    return _shared_bias_attention(draw, s.tokens, s.tokens, s.pair_heads, s.pair // s.pair_heads)


def _attention_pair_bias(draw: Draw, s: Sizes) -> list[Any]:
    return _shared_bias_attention(draw, s.samples, s.tokens, s.token_heads, s.token // s.token_heads)


def _window_attention(draw: Draw, s: Sizes) -> list[Any]:
    packed = draw.narrow(1, s.samples, s.atoms, 3, s.atom_heads, s.atom // s.atom_heads)
    bias = draw.narrow(1, s.atoms // QUERIES, s.atom_heads, QUERIES, KEYS)
    return [*packed.unbind(-3), bias, draw.narrow(1, s.samples, s.atoms, s.atom)]


def _gather_pairs(draw: Draw, s: Sizes) -> list[Any]:
    atoms = torch.arange(s.atoms, device=draw.device)[None]
    z = draw.narrow(1, s.tokens, s.tokens, s.atom_pair)
    return [z, atoms * s.tokens // s.atoms, draw.mask(1, s.atoms)]


def _outer_product_mean(draw: Draw, s: Sizes) -> list[Any]:
    a, b = draw.narrow(1, s.msa_rows, s.tokens, 2 * s.c_outer).chunk(2, -1)
    return [a, b, draw.mask(1, s.msa_rows), draw.weight(s.pair, s.c_outer**2), draw.wide(s.pair)]


def _pair_weighted_average(draw: Draw, s: Sizes) -> list[Any]:
    v = draw.narrow(1, s.msa_rows, s.tokens, s.msa_heads, s.c_head)
    logits = draw.narrow(1, s.msa_heads, s.tokens, s.tokens)
    return [v, logits, draw.narrow(1, s.msa_rows, s.tokens, s.msa_heads * s.c_head)]


def _dropout_residual(draw: Draw, s: Sizes) -> list[Any]:
    shape = (1, s.tokens, s.tokens, s.pair)
    seed = torch.tensor([1234], device=draw.device)
    return [draw.narrow(*shape), draw.narrow(*shape), seed, 0.25, 1]


def _projected_residual(draw: Draw, s: Sizes) -> list[Any]:
    shape = (1, s.tokens, s.tokens, s.pair)
    seed = torch.tensor([1234], device=draw.device)
    return [draw.narrow(*shape), draw.narrow(*shape), draw.weight(s.pair, s.pair), seed, 0.25, 1]


def _positions(draw: Draw, samples: int, atoms: int) -> tuple[Tensor, Tensor]:
    """The truth [1, D, A, 3], about as dense as a protein's atoms (18 Å³ each), and it noised by 1.5 Å."""
    truth = draw.wide(1, 1, atoms, 3, scale=0.4 * (18.0 * atoms) ** (1 / 3)).repeat(1, samples, 1, 1)
    return truth, truth + draw.wide(1, samples, atoms, 3, scale=1.5)


def _smooth_lddt(draw: Draw, s: Sizes) -> list[Any]:
    truth, x = _positions(draw, min(s.samples, _LDDT_SAMPLES), s.atoms)
    return [x, truth, draw.mask(1, s.atoms), ~draw.mask(1, s.atoms)]


def _weighted_rigid_align(draw: Draw, s: Sizes) -> list[Any]:
    truth, x = _positions(draw, s.samples, s.atoms)
    return [truth, x, draw.mask(1, s.samples, s.atoms).float()]


CASES: tuple[Case, ...] = (
    Case("layer_norm", _layer_norm),
    Case("adaptive_layer_norm", _adaptive_layer_norm),
    Case("gated_residual", _gated_residual),
    Case("swiglu", _swiglu),
    Case("pair_bias", _pair_bias, constant=(4,)),
    Case("norm_and_pair_bias", _pair_bias, constant=(4,)),
    Case("transition", _transition),
    Case("triangle_multiplication", _triangle_multiplication),
    Case("triangle_attention", _triangle_attention),
    Case("attention_pair_bias", _attention_pair_bias),
    Case("window_attention", _window_attention),
    Case("gather_pairs", _gather_pairs),
    Case("outer_product_mean", _outer_product_mean),
    Case("pair_weighted_average", _pair_weighted_average),
    Case("dropout_residual", _dropout_residual),
    Case("projected_residual", _projected_residual),
    Case("smooth_lddt", _smooth_lddt, constant=(1, 2, 3)),
    Case("weighted_rigid_align", _weighted_rigid_align, constant=(1, 2)),
)


def case_of(op: str) -> Case:
    return next(case for case in CASES if case.op == op)
