# SPDX-License-Identifier: Apache-2.0
"""The templates of one entry in preparation: hits read, filtered, laid on the chain, made compact.

Source: AF3 SI 2.4, spec 2.7. Protein chains only. A template was released 60 days or more before the entry
(and by a date of one's own, which predicted or undated entries need), is not the chain itself (an exact
part of its sequence that covers more than 95 % of it), has ten aligned residues and a tenth of the chain or
more; the first 20 are kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from foldwright.data.entry_alignments import for_entities
from foldwright.data.sources import ChainFiles, Note
from foldwright.data.structure import Structure
from foldwright.data.template_hits import Hit, read_hits
from foldwright.data.template_structures import TemplateChain, TemplateLibrary, locate
from foldwright.data.templates import ChainTemplate, Templates, pack_templates
from foldwright.vocabulary import GAP, MSA_LETTERS, ONE_LETTER, RESTYPES, MoleculeType


@dataclass(frozen=True)
class TemplateConfig:
    """Which hits become templates. `released_until` is an ISO date, "" for none."""

    max_templates: int = 20
    min_days_older: int = 60
    released_until: str = ""
    max_substring: float = 0.95
    min_residues: int = 10
    min_coverage: float = 0.1

    def __post_init__(self) -> None:
        if self.released_until:
            date.fromisoformat(self.released_until)  # ValueError says what is wrong with it


def read_templates(
    structure: Structure,
    files: ChainFiles,
    library: TemplateLibrary,
    config: TemplateConfig,
    changes: Counter[str],
) -> tuple[dict[int, Templates], list[Note]]:
    """Templates of every protein entity that has any; `changes` counts the hits left out by reason."""
    notes: list[Note] = []
    latest = latest_release(structure.release_date, config)
    if files and not latest:
        detail = "the entry has no release date; give --templates-until to use templates for it"
        return {}, [Note("template_no_date", detail)]

    def read(chain: int, path: Path) -> Templates | None:
        restypes = structure.residue_restype[structure.residue_chain == chain]
        if structure.chain_type[chain] != MoleculeType.PROTEIN:
            return None
        query = "".join(ONE_LETTER[RESTYPES[restype]] for restype in restypes)
        hits = read_hits(path, query)
        others = [hit for hit in hits if hit.entry != structure.entry_id.lower()]
        if len(others) < len(hits):
            changes["template_hit_own_entry"] += len(hits) - len(others)
        return select_templates(others, query, library, latest, config, changes)

    return for_entities(structure, files, "template", read, notes), notes


def latest_release(release_date: str, config: TemplateConfig) -> str:
    """The last ISO date on which a template of an example may have been released; "" if none is known."""
    dates = [config.released_until] if config.released_until else []
    if release_date:
        dates.append((date.fromisoformat(release_date) - timedelta(config.min_days_older)).isoformat())
    return min(dates, default="")


def select_templates(
    hits: list[Hit],
    query: str,
    library: TemplateLibrary,
    latest: str,
    config: TemplateConfig,
    changes: Counter[str],
) -> Templates | None:
    """The first hits that pass all filters, as templates; None if none does."""
    chosen: list[ChainTemplate] = []
    for hit in hits:
        if len(chosen) == config.max_templates:
            break
        outcome = reason_against(hit, query, config) or _template(hit, len(query), library, latest)
        if isinstance(outcome, str):
            changes[f"template_hit_{outcome}"] += 1
        else:
            chosen.append(outcome)
    return pack_templates(chosen) if chosen else None


def reason_against(hit: Hit, query: str, config: TemplateConfig) -> str:
    """Why a hit is no template for a query, whatever its structure; "" if nothing speaks against it."""
    if hit.sequence in query and len(hit.sequence) > config.max_substring * len(query):
        return "same_sequence"
    if len(hit.query) < config.min_residues:
        return "too_short"
    if len(hit.query) < config.min_coverage * len(query):
        return "low_coverage"
    return ""


def _template(hit: Hit, length: int, library: TemplateLibrary, latest: str) -> ChainTemplate | str:
    """The template of a hit on a chain of `length` residues, or why there is none."""
    if hit.entry not in library:
        return "without_structure"
    try:
        entry = library[hit.entry]
    except ValueError:
        return "structure_unreadable"
    if not entry.release_date:
        return "without_date"
    if entry.release_date > latest:
        return "too_new"
    if hit.chain not in entry.chains:
        return "without_chain"
    return lay(hit, entry.chains[hit.chain], length)


def lay(hit: Hit, chain: TemplateChain, length: int) -> ChainTemplate | str:
    """A template chain's residues where a hit puts them on a query of `length` residues, or why it cannot."""
    where = locate(hit.sequence, hit.start, chain.sequence)
    if where is None:
        return "other_sequence"
    residue = where[hit.positions]
    query, residue = hit.query[residue >= 0], residue[residue >= 0]
    codes = np.array([MSA_LETTERS[MoleculeType.PROTEIN][letter] for letter in chain.sequence], np.uint8)
    restype = np.full(length, GAP, np.uint8)
    coords, present = np.zeros((length, 4, 3), np.float32), np.zeros((length, 4), np.bool_)
    restype[query] = codes[residue]
    coords[query], present[query] = chain.coords[residue], chain.present[residue]
    if not present[:, :3].all(axis=1).any():
        return "unresolved"
    template = ChainTemplate(f"{hit.entry}_{hit.chain}", restype, coords, present)
    try:
        pack_templates([template])
    except ValueError:
        return "too_large"
    return template
