# SPDX-License-Identifier: Apache-2.0
"""From a Query to the features of the network, through the code that training uses.

Alignments are paired by species as in preparation, templates laid on the chain as there; conformers are made
when they are needed and kept for the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import gemmi
import numpy as np
from numpy.typing import NDArray

from foldwright.batch import Batch
from foldwright.data.alignment_formats import Alignment, parse_a3m
from foldwright.data.ccd import Dictionary
from foldwright.data.conformers import make_component
from foldwright.data.entry_alignments import join_alignments
from foldwright.data.features import MsaConfig, build_example
from foldwright.data.msa import MIN_CHAIN_LENGTH, Msa, check_query
from foldwright.data.query import ChainInput, Query, TemplateInput, query_structure, with_definitions
from foldwright.data.records import Entry
from foldwright.data.reference import atom_reference
from foldwright.data.structure import Component, Structure
from foldwright.data.template_structures import TemplateChain, read_template_block
from foldwright.data.templates import ChainTemplate, Templates, pack_templates
from foldwright.data.tokenize import tokenize
from foldwright.randomness import generator
from foldwright.vocabulary import GAP, MSA_LETTERS, MoleculeType

MAX_MSA_ROWS = 16384  # AF3 SI 2.2


@dataclass(frozen=True)
class Target:
    """What one prediction or evaluation is about: an entry with all that its features need."""

    entry: Entry
    components: Mapping[str, Component]
    msas: Mapping[int, Msa] = field(default_factory=dict)
    templates: Mapping[int, Templates] = field(default_factory=dict)

    @property
    def structure(self) -> Structure:
        return self.entry.structure

    def example(
        self,
        seed: int,
        n_cycles: int,
        msa_rows: int,
        n_templates: int,
        kept: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Features of all tokens, or of those `kept` [N] (ascending), without a leading axis; alignment rows
        and conformers are keyed by the seed.
        """
        return build_example(
            self.entry,
            self.components,
            self.msas,
            np.arange(len(self.entry.tokens.token_residue)) if kept is None else kept,
            msa_config=MsaConfig(msa_rows, random_depth=False),
            n_templates=n_templates,
            n_cycles=n_cycles,
            sample_number=seed,
            msa_rng=generator(seed, 0, "msa, prediction"),
            conformer_rng=generator(seed, 0, "conformers, prediction"),
            chain_templates=self.templates,
        )


class Components(Mapping[str, Component]):
    """Components of a dictionary, with conformers, made when first asked for."""

    def __init__(self, dictionary: Dictionary, n_conformers: int = 5) -> None:
        self.dictionary, self.n_conformers = dictionary, n_conformers
        self._made: dict[str, Component] = {}

    def __getitem__(self, code: str) -> Component:
        if code not in self._made:
            if code not in self.dictionary:
                raise KeyError(code)
            self._made[code] = make_component(code, self.dictionary, n_conformers=self.n_conformers)
        return self._made[code]

    def with_own(self, query: Query) -> Components:
        """These, with the query's own definitions."""
        if not query.definitions:
            return self
        extended = Components(with_definitions(query, self.dictionary), self.n_conformers)
        extended._made = {code: made for code, made in self._made.items() if code not in query.definitions}
        return extended

    def __contains__(self, code: object) -> bool:
        return code in self.dictionary

    def __iter__(self) -> Iterator[str]:
        return iter(self.dictionary)

    def __len__(self) -> int:
        return len(self.dictionary)


def query_target(query: Query, components: Components) -> Target:
    """All that the features of a query need.

    Raises ValueError, naming the field, for what does not fit: see `query_structure`; an alignment whose
    first row is not the sequence; a template without a usable chain.
    """
    own = components.with_own(query)
    structure = query_structure(query, own.dictionary)
    msas = _msas(query, structure)
    templates = _templates(query, structure)
    return structure_target(structure, own, msas, templates)


def structure_target(
    structure: Structure,
    components: Mapping[str, Component],
    msas: Mapping[int, Msa] = MappingProxyType({}),
    templates: Mapping[int, Templates] = MappingProxyType({}),
) -> Target:
    """The target of a structure, with its alignments and templates by entity."""
    used = {str(code): components[str(code)] for code in np.unique(structure.residue_component)}
    entry = Entry(
        structure,
        tokenize(structure, used),
        atom_reference(structure, used),
        msa_entities=np.array(sorted(msas), np.int32),
        template_entities=np.array(sorted(templates), np.int32),
    )
    return Target(entry, used, msas, templates)


def _entity_chains(query: Query, structure: Structure) -> dict[int, ChainInput]:
    """The first input of every entity."""
    entity_of = dict(zip(structure.chain_name.tolist(), structure.chain_entity.tolist(), strict=True))
    found: dict[int, ChainInput] = {}
    for chain in query.chains:
        found.setdefault(entity_of[chain.names[0]], chain)
    return found


def _msas(query: Query, structure: Structure) -> dict[int, Msa]:
    main: dict[int, Alignment] = {}
    pairable: dict[int, Alignment] = {}
    for entity, chain in _entity_chains(query, structure).items():
        own = _alignment(structure, entity, chain, chain.unpaired, "unpairedMsa")
        paired = _alignment(structure, entity, chain, chain.paired, "pairedMsa")
        if own is not None or paired is not None:
            main[entity] = own or _query_alone(structure, entity)
            pairable[entity] = paired or main[entity]
    return join_alignments(structure, main, pairable, MAX_MSA_ROWS, []).of_entity


def _alignment(
    structure: Structure, entity: int, chain: ChainInput, text: str | None, field: str
) -> Alignment | None:
    mine = structure.residue_chain == int(np.flatnonzero(structure.chain_entity == entity)[0])
    if text is None or int(mine.sum()) < MIN_CHAIN_LENGTH:
        return None
    try:
        alignment = parse_a3m(text.encode(), chain.kind)
        check_query(
            alignment.rows[0], structure.residue_restype[mine], structure.residue_atomised[mine], chain.kind
        )
    except ValueError as error:
        raise ValueError(f"chain {chain.names[0]!r}: {field}: {error}") from error
    return alignment


def _query_alone(structure: Structure, entity: int) -> Alignment:
    mine = structure.residue_chain == int(np.flatnonzero(structure.chain_entity == entity)[0])
    rows = structure.residue_restype[mine][None]
    return Alignment(rows, np.zeros(rows.shape, np.uint16), ("",))


# --- templates ---


def _templates(query: Query, structure: Structure) -> dict[int, Templates]:
    found: dict[int, Templates] = {}
    for entity, chain in _entity_chains(query, structure).items():
        laid = []
        for number, template in enumerate(chain.templates):
            try:
                laid.append(_lay(template, len(chain.components), f"template {number}"))
            except ValueError as error:
                raise ValueError(f"chain {chain.names[0]!r}: templates[{number}]: {error}") from error
        if laid:
            found[entity] = pack_templates(laid)
    return found


def _lay(template: TemplateInput, length: int, name: str) -> ChainTemplate:
    chain = _only_chain(template.mmcif)
    if template.query.max() >= length or template.residues.max() >= len(chain.sequence):
        raise ValueError(
            f"got indices up to {template.query.max()} and {template.residues.max()}, expected less than "
            f"{length} (the query's residues) and {len(chain.sequence)} (the template's)"
        )
    if not chain.present[template.residues].any():
        raise ValueError(
            f"got templateIndices {template.residues[:8].tolist()} of which no residue has coordinates, "
            f"expected some of {np.flatnonzero(chain.present.any(axis=1))[:8].tolist()}"
        )
    codes = np.array([MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in chain.sequence], np.uint8)
    restype = np.full(length, GAP, np.uint8)
    coords, present = np.zeros((length, 4, 3), np.float32), np.zeros((length, 4), np.bool_)
    restype[template.query] = codes[template.residues]
    coords[template.query] = chain.coords[template.residues]
    present[template.query] = chain.present[template.residues]
    return ChainTemplate(name, restype, coords, present)


def _only_chain(text: str) -> TemplateChain:
    try:
        block = gemmi.cif.read_string(text).sole_block()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"got no readable mmCIF ({error})") from error
    chains = read_template_block(block).chains
    if len(chains) != 1:
        raise ValueError(f"got {len(chains)} protein chains, expected the mmCIF of one")
    return next(iter(chains.values()))
