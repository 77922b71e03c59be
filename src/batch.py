# SPDX-License-Identifier: Apache-2.0
"""The Batch contract: every feature the network and the losses read, declared once.

A declaration says a feature's axes, dtype, padding value and whether it holds indices into another axis.
Checking, padding, collating, pinning and device transfer all read it. Indices and small integers travel,
never one-hots. An example straight from the data pipeline is a Batch without the leading axis B; `collate`
pads a list of them to a bucket and stacks them.

Axes: N tokens, A atoms, R recycling cycles, M MSA rows, T templates, K polymer-ligand bonds; for permutation
alignment G molecules, F atoms of their possible truths, V automorphisms of residues, Y atoms these move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

from foldwright.vocabulary import GAP


@dataclass(frozen=True)
class Feature:
    """Declaration of one feature: its axes after B (letters or fixed sizes) and how it is stored and
    padded.
    """

    axes: tuple[str | int, ...]
    dtype: torch.dtype
    pad: float = 0
    index_into: str | None = None


def _feature(axes: str, dtype: torch.dtype, pad: float = 0, index_into: str | None = None) -> Any:
    names = tuple(int(axis) if axis.isdigit() else axis for axis in axes.split())
    return field(metadata={"feature": Feature(names, dtype, pad, index_into)})


_ALIGNMENT = 64  # bytes between features of a packed batch: any dtype, whole cache lines
_INT, _FLOAT, _BYTE, _BOOL = torch.int32, torch.float32, torch.uint8, torch.bool


@dataclass
class Batch:
    """Features of one example (no leading axis) or of a batch (leading axis B on every feature).

    Sources: AF3 SI Table 5 and, for labels, spec 1.4. Coordinates are in Å. `deletion_count` is the raw
    number of deleted residues left of a column, clipped at 255; `msa` holds restypes of one set of rows a
    recycling cycle. Template features carry coordinates: distances and unit vectors are made on the device.
    """

    # Tokens
    token_mask: Tensor = _feature("N", _BOOL)
    token_index: Tensor = _feature("N", _INT)
    residue_index: Tensor = _feature("N", _INT)
    asym_id: Tensor = _feature("N", _INT, pad=-1)
    entity_id: Tensor = _feature("N", _INT, pad=-1)
    sym_id: Tensor = _feature("N", _INT, pad=-1)
    restype: Tensor = _feature("N", _BYTE, pad=GAP)
    molecule_type: Tensor = _feature("N", _BYTE)
    is_atomised: Tensor = _feature("N", _BOOL)
    token_bonds: Tensor = _feature("N N", _BOOL)
    profile: Tensor = _feature("N 32", _FLOAT)
    deletion_mean: Tensor = _feature("N", _FLOAT)
    centre_atom: Tensor = _feature("N", _INT, index_into="A")
    representative_atom: Tensor = _feature("N", _INT, index_into="A")
    frame_atoms: Tensor = _feature("N 3", _INT, index_into="A")
    has_frame: Tensor = _feature("N", _BOOL)
    # Atoms
    atom_mask: Tensor = _feature("A", _BOOL)
    atom_to_token: Tensor = _feature("A", _INT, index_into="N")
    atom_slot: Tensor = _feature("A", _BYTE)
    ref_pos: Tensor = _feature("A 3", _FLOAT)
    ref_mask: Tensor = _feature("A", _BOOL)
    ref_element: Tensor = _feature("A", _BYTE)
    ref_charge: Tensor = _feature("A", torch.int8)
    ref_atom_name_chars: Tensor = _feature("A 4", _BYTE)
    ref_space_uid: Tensor = _feature("A", _INT, pad=-1)
    # MSA
    msa: Tensor = _feature("R M N", _BYTE, pad=GAP)
    deletion_count: Tensor = _feature("R M N", _BYTE)
    msa_mask: Tensor = _feature("R M", _BOOL)
    # Templates
    template_mask: Tensor = _feature("T", _BOOL)
    template_restype: Tensor = _feature("T N", _BYTE, pad=GAP)
    template_pseudo_beta: Tensor = _feature("T N 3", _FLOAT)
    template_pseudo_beta_mask: Tensor = _feature("T N", _BOOL)
    template_backbone: Tensor = _feature("T N 3 3", _FLOAT)
    template_backbone_mask: Tensor = _feature("T N", _BOOL)
    # Labels
    atom_coords: Tensor = _feature("A 3", _FLOAT)
    atom_resolved: Tensor = _feature("A", _BOOL)
    bond_atoms: Tensor = _feature("K 2", _INT, index_into="A")
    bond_mask: Tensor = _feature("K", _BOOL)
    # Truths that could be exchanged (filled by data/truth.py, read by permutation.py). Molecule g's atom has
    # its truth, were it copy c, at truth_atom + c * molecule_stride[g].
    token_molecule: Tensor = _feature("N", _INT, index_into="G")
    molecule_mask: Tensor = _feature("G", _BOOL)
    molecule_is_polymer: Tensor = _feature("G", _BOOL)
    molecule_group: Tensor = _feature("G", _INT, pad=-1)  # molecules of one group are interchangeable
    molecule_copy: Tensor = _feature("G", _INT)  # the copy it is as labelled
    molecule_copies: Tensor = _feature("G", _INT)
    molecule_stride: Tensor = _feature("G", _INT)
    truth_atom: Tensor = _feature("A", _INT, index_into="F")
    truth_coords: Tensor = _feature("F 3", _FLOAT)
    truth_resolved: Tensor = _feature("F", _BOOL)
    symmetry_mask: Tensor = _feature("Y", _BOOL)
    symmetry_option: Tensor = _feature("Y", _INT, index_into="V")
    symmetry_from: Tensor = _feature("Y", _INT, index_into="A")  # this atom takes the truth
    symmetry_to: Tensor = _feature("Y", _INT, index_into="A")  # of this one
    option_residue: Tensor = _feature("V", _INT, pad=-1)
    resolution: Tensor = _feature("", _FLOAT)
    # Which losses the example supervises (data/datasets.py)
    supervises_diffusion: Tensor = _feature("", _BOOL)
    supervises_non_protein: Tensor = _feature("", _BOOL)  # of the diffusion loss
    supervises_distogram: Tensor = _feature("", _BOOL)
    supervises_confidence: Tensor = _feature("", _BOOL)
    sample_number: Tensor = _feature("", torch.int64)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every feature."""
        return type(self)(**{name: function(getattr(self, name)) for name in SCHEMA})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self.map(lambda tensor: tensor.pin_memory())

    @property
    def device(self) -> torch.device:
        return self.token_mask.device

    def sizes(self) -> dict[str, int]:
        """Size of every named axis, e.g. {"N": 384, "A": 3456, ...}; raises if two features disagree."""
        leading = self.token_mask.dim() - 1
        sizes: dict[str, int] = {}
        for name, feature in SCHEMA.items():
            shape = getattr(self, name).shape[leading:]
            if len(shape) != len(feature.axes):
                raise ValueError(f"feature {name}: got shape {tuple(shape)}, expected axes {feature.axes}")
            for axis, size in zip(feature.axes, shape, strict=True):
                expected = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
                if size != expected:
                    raise ValueError(f"feature {name}: axis {axis} has size {size}, expected {expected}")
        return sizes

    def check(self) -> Self:
        """Raise ValueError unless shapes agree, dtypes are as declared, floats finite and indices in
        range.
        """
        sizes = self.sizes()
        for name, feature in SCHEMA.items():
            tensor = getattr(self, name)
            if tensor.dtype != feature.dtype:
                raise ValueError(f"feature {name}: got dtype {tensor.dtype}, expected {feature.dtype}")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"feature {name}: holds NaN or infinity, expected finite values")
            if feature.index_into and tensor.numel():
                low, high, size = int(tensor.min()), int(tensor.max()), sizes[feature.index_into]
                if low < 0 or high >= size:
                    raise ValueError(f"feature {name}: indices {low}..{high} leave axis {feature.index_into} "
                                     f"of size {size}")  # fmt: skip
        return self

    def pad(self, sizes: Mapping[str, int]) -> Self:
        """Pad the named axes of one example (no leading axis) up to the given sizes, by declaration."""
        current = self.sizes()
        for axis, size in sizes.items():
            if current[axis] > size:
                raise ValueError(
                    f"axis {axis} has size {current[axis]}, which does not fit its bucket of {size}; "
                    "raise the bucket or lower the crop"
                )
        padded = {}
        for name, feature in SCHEMA.items():
            tensor: Tensor = getattr(self, name)
            shape = [sizes.get(axis, size) if isinstance(axis, str) else size
                     for axis, size in zip(feature.axes, tensor.shape, strict=True)]  # fmt: skip
            full = tensor.new_full(shape, feature.pad)
            full[tuple(slice(size) for size in tensor.shape)] = tensor
            padded[name] = full
        return type(self)(**padded)


SCHEMA: dict[str, Feature] = {f.name: f.metadata["feature"] for f in fields(Batch)}


@dataclass
class Packed:
    """A batch in one buffer of bytes: what travels from a worker process to the training process.

    A tensor a feature would cost a file descriptor and a mapping each, some ten milliseconds a batch.
    """

    buffer: Tensor  # uint8
    shapes: tuple[tuple[int, ...], ...]  # of the features, in the order of SCHEMA

    def pin_memory(self) -> Self:
        return type(self)(self.buffer.pin_memory(), self.shapes)

    def unpack(self) -> Batch:
        """The batch, whose features are views of the buffer."""
        features, start = {}, 0
        for (name, feature), shape in zip(SCHEMA.items(), self.shapes, strict=True):
            size = math.prod(shape) * feature.dtype.itemsize
            features[name] = self.buffer[start : start + size].view(feature.dtype).view(shape)
            start += _aligned(size)
        return Batch(**features)


def pack(batch: Batch) -> Packed:
    """Copy every feature into one buffer; `Packed.unpack` is the inverse."""
    tensors = [getattr(batch, name).contiguous() for name in SCHEMA]
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    buffer, start = torch.zeros(sum(map(_aligned, sizes)), dtype=torch.uint8), 0
    for tensor, size in zip(tensors, sizes, strict=True):
        buffer[start : start + size] = tensor.reshape(-1).view(torch.uint8)
        start += _aligned(size)
    return Packed(buffer, tuple(tuple(tensor.shape) for tensor in tensors))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def round_up(size: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `size`; sizes beyond the last bucket round up to a multiple of it."""
    for bucket in sorted(buckets):
        if size <= bucket:
            return bucket
    return -(-size // max(buckets)) * max(buckets)


def collate(examples: Sequence[Batch], buckets: Mapping[str, Sequence[int]]) -> Batch:
    """Pad examples to the smallest common bucket of every axis and stack them along a new axis B.

    An axis without buckets is padded to the largest example. The atom axis must be a multiple of 32 (the
    query window of atom attention): buckets for A are chosen so.
    """
    all_sizes = [example.sizes() for example in examples]
    largest = {axis: max(sizes[axis] for sizes in all_sizes) for axis in all_sizes[0]}
    target = {
        axis: round_up(size, buckets[axis]) if axis in buckets else size for axis, size in largest.items()
    }
    padded = [example.pad(target) for example in examples]
    return Batch(**{name: torch.stack([getattr(example, name) for example in padded]) for name in SCHEMA})
