# SPDX-License-Identifier: Apache-2.0
"""The evaluate command: predictions, or a checkpoint, against true structures; or two evaluations compared.

    evaluate.py PREDICTIONS --truth TRUTH --out OUT       what predict.py left, or a folder of mmCIF files
    evaluate.py --checkpoint RUN --truth STORE --out OUT  samples of a store's entries
    evaluate.py --compare FIRST SECOND                    two folders of evaluations

TRUTH is a folder of mmCIF files, or a store; a prediction's truth is the one of its name. One that cannot be
scored is told, and the rest goes on; the exit code then is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from foldwright.batch import Batch, collate
from foldwright.confidence.targets import aligned_errors, atom_lddt
from foldwright.data.ccd import DEFAULT_CACHE, Dictionary
from foldwright.data.filters import Rejection
from foldwright.data.mmcif import read_structure
from foldwright.data.query_example import Components, Target, structure_target
from foldwright.data.store import Store, is_store
from foldwright.data.structure import Bools, Component, Floats, Structure
from foldwright.data.tables import read_table
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.evaluation.calibration import calibrate
from foldwright.evaluation.scores import permuted_truth, score
from foldwright.inference.assessment import (
    EXAMPLES,
    compare_runs,
    comparison_table,
    summarise,
    summary_table,
    write_examples,
    write_summary,
)
from foldwright.inference.ligand_names import Read, named_as, read_predicted
from foldwright.inference.match import Matched, match
from foldwright.inference.network import device_of, load_network
from foldwright.inference.output import DONE
from foldwright.inference.sampling import SamplingConfig, predict_target
from foldwright.kernels import KernelConfig

_STRUCTURES = (".cif", ".cif.gz")
_LARGEST_ERROR = 31.75  # Å, the centre of PAE's last bin
Tell = Callable[[str, str], None]


@dataclass
class Predicted:
    """One predicted structure of a target and what its confidence said: numbers, pLDDT [L] and PAE [N, N]."""

    target: str
    seed: int
    sample: int
    read: Read
    scores: Mapping[str, Any]

    @property
    def structure(self) -> Structure:
        return self.read.structure


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 if anything could not be scored."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        if arguments.compare:
            console.print(comparison_table(compare_runs(*arguments.compare)))
            return 0
        return _evaluate(arguments, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _evaluate(arguments: argparse.Namespace, console: Console) -> int:
    if not arguments.truth or not arguments.out:
        raise ValueError("got no --truth or no --out, expected both")
    if bool(arguments.predictions) == bool(arguments.checkpoint):
        raise ValueError("got predictions and --checkpoint, or neither; expected one of them")
    truths = Truths(arguments.truth, arguments.dictionary_cache)
    rows: list[dict[str, Any]] = []
    details: dict[str, list[dict[str, Any]]] = {"interfaces": [], "ligands": []}
    failed = []

    def tell(name: str, reason: str) -> None:
        failed.append(name)
        console.print(f"[red]not scored:[/] {name}: {reason}", highlight=False, soft_wrap=True)

    source = (
        _from_files(arguments.predictions, truths, tell, console)
        if arguments.predictions
        else _from_checkpoint(arguments, truths, tell, console)
    )
    for predicted in source:
        try:
            row, own = score_prediction(predicted, truths)
        except (ValueError, KeyError, Rejection) as error:
            tell(f"{predicted.target}, seed {predicted.seed}, sample {predicted.sample}", str(error))
            continue
        rows.append(row)
        for name, records in own.items():
            details[name] += records
    if not rows:
        raise ValueError(f"nothing could be scored: {len(failed)} failed")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_examples(rows, arguments.out)
    for name, records in details.items():
        if records:
            write_examples(records, arguments.out, name)
    figures = summarise(read_table(arguments.out / f"{EXAMPLES}.parquet"))
    write_summary(figures | {"failed": failed}, arguments.out)
    console.print(summary_table(figures))
    return 1 if failed else 0


class Truths:
    """True structures by name, of a store or of a folder of mmCIF files."""

    def __init__(self, path: Path, dictionary_cache: Path) -> None:
        self.dictionary = Dictionary.open(dictionary_cache)
        self.store = Store(path) if is_store(path) else None
        self.components: Mapping[str, Component] = (
            self.store.components if self.store else Components(self.dictionary, 1)
        )
        self.files = {} if self.store else _structure_files(path)
        if self.store is None and not self.files:
            raise ValueError(f"--truth: {path} is neither a store nor a folder of .cif or .cif.gz files")

    def structure(self, name: str) -> Structure:
        """Raises ValueError for an unknown name."""
        if self.store is not None:
            try:
                return self.store.entry(name).structure
            except KeyError as error:
                raise ValueError(f"the store has no entry {name!r}") from error
        if name.lower() not in self.files:
            raise ValueError(f"--truth has no file {name}.cif or {name}.cif.gz")
        return replace(read_structure(self.files[name.lower()], self.dictionary), entry_id=name)

    def names(self) -> list[str]:
        if self.store is not None:
            return [str(name) for name in self.store.manifest()["entry"].to_pylist()]
        return sorted(self.files)


def _structure_files(folder: Path) -> dict[str, Path]:
    paths = [path for path in sorted(folder.rglob("*.cif*")) if path.name.endswith(_STRUCTURES)]
    return {path.name.removesuffix(".gz").removesuffix(".cif").lower(): path for path in paths}


def score_prediction(
    predicted: Predicted, truths: Truths
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The row of a prediction, and the records of its interfaces and ligands."""
    truth = truths.structure(predicted.target)
    matched = match(truth, named_as(truth, truths.components, predicted.read))
    target = structure_target(matched.truth, truths.components)
    batch = collate([target.example(0, 1, 1, 0)], {})
    predicted_atoms = matched.source >= 0
    x = _filled(matched.coords, predicted_atoms)
    found = score(target.entry, target.components, batch, x, predicted_atoms)
    key = {"target": predicted.target, "seed": predicted.seed, "sample": predicted.sample}
    confidence = {
        name: predicted.scores[name]
        for name in ("ranking_score", "ptm", "iptm", "gpde", "fraction_disordered")
        if predicted.scores.get(name) is not None
    }
    row = {
        **key, "n_tokens": float(len(target.entry.tokens.token_residue)),
        "missing_chains": float(len(matched.missing)), **confidence, **found.figures,
        **_calibration(predicted, target, batch, matched),
    }  # fmt: skip
    return row, {
        "interfaces": [key | record for record in found.interfaces],
        "ligands": [key | record for record in found.ligands],
    }


def _filled(coords: Floats, known: Bools) -> Floats:
    """Atoms that were not predicted stand at the middle of what was: they do not count, but are finite."""
    middle = coords[known].mean(axis=0) if known.any() else np.zeros(3, np.float32)
    return np.where(known[:, None], coords, middle)


def _calibration(predicted: Predicted, target: Target, batch: Batch, matched: Matched) -> dict[str, float]:
    """Errors and correlations of pLDDT (per cent) and PAE (Å), where all of the truth was predicted."""
    scores = {name: predicted.scores.get(name) for name in ("plddt", "pae")}
    if scores["plddt"] is None or matched.missing or (matched.source < 0).any():
        return {}
    own = structure_target(predicted.structure, predicted.read.components).entry.tokens
    plddt, x = np.asarray(scores["plddt"], np.float64), matched.coords
    if len(plddt) != len(own.atom_token):
        return {}
    coords, resolved = permuted_truth(batch, x)
    labelled = replace(
        batch,
        atom_coords=torch.from_numpy(coords)[None].float(),
        atom_resolved=torch.from_numpy(resolved)[None],
    )
    shown = torch.from_numpy(np.asarray(x, np.float32))[None]
    observed, known = atom_lddt(shown, labelled.atom_coords, labelled)
    of_atoms = np.where(known[0].numpy(), 100 * observed[0].numpy(), np.nan)
    result = calibrate(plddt[matched.source], of_atoms, np.linspace(0, 100, 21))
    figures = {"plddt_calibration_error": result.error, "plddt_correlation": result.correlation}
    pae = np.asarray([] if scores["pae"] is None else scores["pae"], np.float64)
    if len(pae) == len(own.token_residue):
        tokens = own.atom_token[matched.source[target.entry.tokens.token_centre]]
        errors, counted = aligned_errors(shown, labelled.atom_coords, labelled)
        capped = np.where(counted[0].numpy(), errors[0].clamp(max=_LARGEST_ERROR).numpy(), np.nan)
        result = calibrate(pae[np.ix_(tokens, tokens)].ravel(), capped.ravel(), np.linspace(0, 32, 33))
        figures |= {"pae_calibration_error": result.error, "pae_correlation": result.correlation}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


# --- where predictions come from ---


def _from_files(folder: Path, truths: Truths, tell: Tell, console: Console) -> Iterator[Predicted]:
    files = list(_prediction_files(folder))
    if not files:
        raise ValueError(f"{folder}: got no prediction, expected what predict.py left or .cif files")
    for target, seed, sample, path in track(files, "scoring", console=console):
        try:
            found = read_predicted(path, truths.dictionary)
            beside = path.with_suffix(".json")
            scores = json.loads(beside.read_text()) if beside.is_file() else {}
        except (ValueError, OSError, Rejection) as error:
            tell(str(path), str(error))
            continue
        yield Predicted(target, seed, sample, found, scores)


def _prediction_files(folder: Path) -> Iterator[tuple[str, int, int, Path]]:
    """Target, seed, sample and file of each prediction; of plain files sample 0 of the target they name."""
    done = sorted(folder.glob(f"*/{DONE}"))
    for record in done:
        name = json.loads(record.read_text())["name"]
        for path in sorted(record.parent.glob("seed-*_sample-*.cif")):
            seed, sample = (part.rsplit("-", 1)[1] for part in path.stem.split("_"))
            yield name, int(seed), int(sample), path
    if not done and folder.is_dir():
        for name, path in _structure_files(folder).items():
            yield name, 0, 0, path


def first_ranked(folder: Path) -> list[tuple[str, int, int, Path]]:
    """Of each target the sample with the highest ranking score; a file without a JSON beside it is last.

    Raises ValueError where there is no prediction.
    """

    def rank(path: Path) -> float:
        beside = path.with_suffix(".json")
        return float(json.loads(beside.read_text())["ranking_score"]) if beside.is_file() else -np.inf

    found: dict[str, tuple[float, tuple[str, int, int, Path]]] = {}
    for record in _prediction_files(folder):
        score = rank(record[3])
        if record[0] not in found or score > found[record[0]][0]:
            found[record[0]] = score, record
    if not found:
        raise ValueError(f"{folder}: got no prediction, expected what predict.py left")
    return [record for _, record in found.values()]


def _from_checkpoint(
    arguments: argparse.Namespace, truths: Truths, tell: Tell, console: Console
) -> Iterator[Predicted]:
    store = truths.store
    if store is None:
        raise ValueError("--truth: got a folder of files, expected a store, whose alignments are used")
    device = device_of(arguments.device)
    network = load_network(arguments.checkpoint, device, KernelConfig(arguments.kernels)).network
    sampling = SamplingConfig(
        arguments.samples, arguments.cycles, sampler=SamplerConfig(steps=arguments.steps)
    )
    for name in track(chosen_entries(arguments.entries, truths), "predicting", console=console):
        try:
            target = stored_target(store, name)
            samples = list(predict_target(network, target, sampling, arguments.seed, device))
        except (ValueError, KeyError, torch.cuda.OutOfMemoryError) as error:
            tell(name, str(error))
            continue
        for sample in samples:
            everything = np.ones(len(sample.coords), np.bool_)
            structure = replace(target.structure, atom_coords=sample.coords, atom_resolved=everything)
            found = Read(structure, target.components)
            yield Predicted(name, sample.seed, sample.number, found, vars(sample.confidence))


def stored_target(store: Store, name: str) -> Target:
    """An entry with its alignments and templates; KeyError for an unknown one."""
    entry = store.entry(name)
    return Target(
        entry,
        store.components,
        store.msas(name, map(int, entry.msa_entities)),
        store.templates(name, map(int, entry.template_entities)),
    )


def chosen_entries(wanted: Sequence[str], truths: Truths) -> Iterable[str]:
    """The wanted entries of a store once each, all if none is; ValueError for one that is not there."""
    if unknown := sorted(set(wanted) - set(truths.names())):
        raise ValueError(f"--entries: got {unknown[0]!r}, which is not in the store")
    return list(dict.fromkeys(wanted)) or truths.names()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Score predictions, or a checkpoint, against the truth; or compare two evaluations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = SamplingConfig()
    add = parser.add_argument
    add("predictions", nargs="?", type=Path, help="what predict.py left, or a folder of mmCIF files")
    add("--checkpoint", type=Path, help="a run directory, or a checkpoint in one, to sample from")
    add("--truth", type=Path, help="folder of mmCIF files, or a store")
    add("--out", type=Path, help="folder of the tables")
    add("--compare", nargs=2, type=Path, metavar=("FIRST", "SECOND"), help="two folders of evaluations")
    add("--entries", nargs="*", default=[], help="of the store; all by default")
    add("--samples", type=int, default=defaults.samples, help="of each entry")
    add("--cycles", type=int, default=defaults.cycles, help="recycling cycles")
    add("--steps", type=int, default=defaults.sampler.steps, help="of the sampler")
    add("--seed", type=int, default=1, help="of the samples")
    add("--device", default="auto", help="cpu, cuda or cuda:N")
    add("--kernels", default=KernelConfig().default, help="auto, reference or triton")
    add("--dictionary-cache", type=Path, default=DEFAULT_CACHE, help="where the parsed dictionary is kept")
    return parser
