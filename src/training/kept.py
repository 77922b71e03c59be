# SPDX-License-Identifier: Apache-2.0
"""What a step keeps for its backward pass, counted without a GPU and without its memory.

The forward pass and the losses run on the meta device, with the ops that a GPU would run; a hook sees every
tensor that autograd saves. Storages count once, parameters not at all. Their copies in the dtypes of
the products, made once a step, are an entry of their own (those that fused ops ask for inside, a tenth,
are not seen).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from foldwright.batch import Batch, collate
from foldwright.data.synthetic import synthetic_example
from foldwright.kernels import Ops, select
from foldwright.kernels.casts import WeightCopies
from foldwright.layers.stack import Recompute, set_recomputation
from foldwright.model import AlphaFold3
from foldwright.permutation import Labels
from foldwright.training.config import TrainConfig
from foldwright.training.curriculum import PhaseConfig
from foldwright.training.figures import module_of
from foldwright.training.step import step_losses

_META = torch.device("meta")


def kept_bytes(config: TrainConfig, phase: PhaseConfig) -> dict[str, int]:
    """Bytes kept by module (`trunk.pairformer`, `diffusion`, ..., `losses`) and in `weight copies`, for one
    batch of a device.

    Raises ValueError for policies of recomputation whose keeping the hook does not see.
    """
    policy = config.trainer.recompute
    if policy not in (Recompute.nothing, Recompute.block):
        raise ValueError(
            f"trainer.recompute: got {policy.value}, expected nothing or block: what the others keep lies "
            "outside of autograd's graph, or on the host, and cannot be counted without a GPU"
        )
    ops = select(config.kernels, "cuda")
    with _META:
        network = AlphaFold3(config.model, ops).train()
    set_recomputation(network, policy)
    saved, copies = _Saved(network), WeightCopies()
    copies.open()
    try:
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
            _losses(network, config, phase, ops)
        return saved.by_module(copies.buffers())
    finally:
        copies.close()


def _losses(network: nn.Module, config: TrainConfig, phase: PhaseConfig, ops: Ops) -> None:
    step_losses(
        network,
        _batch(config, phase),
        phase.diffusion_samples,
        config.seed,
        config.noise,
        config.losses,
        replace(config.rollout, sampler=replace(config.rollout.sampler, steps=1)),  # which keeps nothing
        ops,
        _as_given,
    )


class _Saved:
    """Storages that autograd saved, each with the module whose forward was running."""

    def __init__(self, network: nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in network.parameters()}
        self._storages: dict[int, tuple[str, torch.UntypedStorage]] = {}
        self._running: list[str] = []
        for name, module in network.named_modules():
            module.register_forward_pre_hook(lambda _m, _i, name=name: self._running.append(name))
            module.register_forward_hook(lambda _m, _i, _o: (self._running.pop(), None)[1])

    def pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._own:  # held on to, so that no other takes its address
            name = self._running[-1] if self._running else "losses"
            self._storages.setdefault(storage._cdata, (name, storage))
        return x

    def by_module(self, copies: list[Tensor]) -> dict[str, int]:
        apart = {copy.untyped_storage()._cdata for copy in copies}
        found = Counter({"weight copies": sum(copy.untyped_storage().nbytes() for copy in copies)})
        for number, (name, storage) in self._storages.items():
            if number not in apart:
                found[module_of(name)] += storage.nbytes()
        return dict(found.most_common())


def _batch(config: TrainConfig, phase: PhaseConfig) -> Batch:
    """Examples of exact sizes, one cycle: those before it keep nothing."""
    example = synthetic_example(
        phase.crop_tokens, phase.crop_atoms, n_rows=phase.msa_rows, n_templates=config.data.n_templates
    )
    return collate([example] * config.trainer.batch_per_device, {}).to(_META)


def _as_given(function: Callable[[Batch, Tensor], Labels], batch: Batch, x: Tensor) -> Labels:
    """Labels without the permutation, which needs numbers and keeps nothing."""
    return Labels(*(getattr(batch, name) for name in Labels._fields))
