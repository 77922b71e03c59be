# SPDX-License-Identifier: Apache-2.0
"""The fetch command: mirror a list of PDB entries from a server, file by file.

Where an entry lies is a pattern: `{id}` is the entry in lower case, `{mid}` its two middle characters. A file
is written beside its place and renamed when whole, so what is there is complete; an interrupted download goes
on where it stopped, if the server says that the file is still the same. FETCHED.tsv keeps name, bytes and
sha256 of every file: what it lists is not asked for again; `--verify` reads the files against it. Requests
are spaced over all threads, and repeated after timeouts, cut connections and answers 429 and 5xx, ever more
slowly.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import os
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

LEDGER = "FETCHED.tsv"
_CHUNK = 1 << 20
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class FetchConfig:
    """Where from and how fast. Times in seconds."""

    base_url: str = "https://files.wwpdb.org/pub/pdb/data/structures/divided/mmCIF"
    pattern: str = "{mid}/{id}.cif.gz"
    requests_per_second: float = 5.0
    threads: int = 4
    attempts: int = 5
    backoff: float = 1.0  # before the first repetition; doubles with each
    timeout: float = 60.0


class Outcome(NamedTuple):
    """What became of an entry: "fetched", "present" or "failed", with bytes and sha256, or why it failed."""

    entry: str
    status: str
    size: int
    digest: str
    reason: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if anything failed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.verify:
            return _report_damage(verify(arguments.out))
        entries = read_list(arguments.list) if arguments.list else arguments.entries
        config = FetchConfig(
            arguments.base_url, arguments.pattern, arguments.rate, arguments.threads, arguments.attempts
        )
        outcomes = fetch(entries, arguments.out, config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = {
        status: sum(o.status == status for o in outcomes) for status in ("fetched", "present", "failed")
    }
    size = sum(o.size for o in outcomes if o.status == "fetched")
    Console().print(", ".join(f"{n} {status}" for status, n in counts.items()) + f"; {size / 1e6:.1f} MB")
    for outcome in outcomes:
        if outcome.status == "failed":
            print(f"{outcome.entry}: {outcome.reason}", file=sys.stderr)
    return 1 if counts["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    defaults = FetchConfig()
    parser = argparse.ArgumentParser(
        prog="fetch_data.py",
        description="Mirror a list of PDB entries.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("entries", nargs="*", help="entries, such as 1abc; or give --list")
    add("--list", type=Path, help="a file with an entry a line; # starts a comment")
    add("--out", type=Path, required=True, help="folder for the files")
    add("--base-url", default=defaults.base_url, help="where the files are")
    add("--pattern", default=defaults.pattern, help="of a file below the base URL")
    add("--rate", type=float, default=defaults.requests_per_second, help="requests a second, in all")
    add("--threads", type=int, default=defaults.threads, help="downloads at a time")
    add("--attempts", type=int, default=defaults.attempts, help="for a file, before it counts as failed")
    add(
        "--verify",
        action="store_true",
        help="fetch nothing: read the files that are there against the ledger",
    )
    return parser


def _report_damage(damaged: Mapping[str, str]) -> int:
    for name, what in damaged.items():
        print(f"{name}: {what}", file=sys.stderr)
    print(f"{len(damaged)} damaged files" if damaged else "all files are as they were fetched")
    return 1 if damaged else 0


def read_list(path: Path) -> list[str]:
    """Entries of a list file; ValueError if it cannot be read or is empty."""
    if not path.is_file():
        raise ValueError(f"--list: {path} is not a file; give one with an entry a line")
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def fetch(entries: Iterable[str], out: Path, config: FetchConfig) -> list[Outcome]:
    """Bring all entries into `out`, in the order given. Failures are outcomes, not errors.

    Raises ValueError if there is no entry, one is no identifier, or the configuration cannot work.
    """
    wanted = list(dict.fromkeys(entry.lower() for entry in entries))
    odd = [entry for entry in wanted if not (entry.isascii() and entry.replace("_", "").isalnum())]
    if odd or not wanted:
        raise ValueError(f"got {odd[0] if odd else 'no entry'!r}, expected entries such as 1abc")
    if config.attempts < 1 or config.threads < 1 or config.requests_per_second <= 0:
        raise ValueError(f"got {config}, expected at least one attempt and thread, and a rate above zero")
    out.mkdir(parents=True, exist_ok=True)
    known = read_ledger(out)
    pace = Pace(config.requests_per_second)
    lock = threading.Lock()

    def bring(entry: str) -> Outcome:
        name = Path(_place(entry, config.pattern)).name
        size, digest = known.get(name, (-1, ""))
        target = out / name
        if target.is_file() and target.stat().st_size == size:
            return Outcome(entry, "present", size, digest, "")
        outcome = _bring_file(entry, target, config, pace)
        if outcome.status == "fetched":
            with lock, (out / LEDGER).open("a") as ledger:
                ledger.write(f"{name}\t{outcome.size}\t{outcome.digest}\n")
        return outcome

    with ThreadPoolExecutor(config.threads) as pool:
        return list(track(pool.map(bring, wanted), "fetching", len(wanted), console=Console(stderr=True)))


def _place(entry: str, pattern: str) -> str:
    return pattern.format(id=entry, mid=entry[-3:-1])


def read_ledger(out: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of the files fetched so far, by name; later lines go before earlier ones."""
    path = out / LEDGER
    rows = [line.split("\t") for line in path.read_text().splitlines()] if path.is_file() else []
    return {row[0]: (int(row[1]), row[2]) for row in rows if len(row) == 3 and row[1].isdigit()}


def verify(out: Path) -> dict[str, str]:
    """What is wrong with the files of the ledger, by name; ValueError where there is no ledger."""
    known = read_ledger(out)
    if not known:
        raise ValueError(f"--verify: {out / LEDGER} lists nothing; fetch something into {out} first")
    damaged = {}
    for name, (size, digest) in known.items():
        path = out / name
        if not path.is_file():
            damaged[name] = "missing"
        elif path.stat().st_size != size or _digest(path) != digest:
            damaged[name] = f"not the {size} bytes that were fetched: delete it and fetch it again"
    return damaged


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Pace:
    """Spaces requests of all threads evenly. `clock` and `sleep` are those of time."""

    def __init__(
        self,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval, self._clock, self._sleep = 1 / per_second, clock, sleep
        self._lock = threading.Lock()
        self._next = -float("inf")

    def wait(self) -> None:
        """Return when the next request may go."""
        with self._lock:
            start = max(self._next, self._clock())
            self._next = start + self._interval
        delay = start - self._clock()
        if delay > 0:
            self._sleep(delay)


def _bring_file(entry: str, target: Path, config: FetchConfig, pace: Pace) -> Outcome:
    url = f"{config.base_url.rstrip('/')}/{_place(entry, config.pattern)}"
    part = target.with_name(target.name + ".part")
    reason = ""
    for attempt in range(config.attempts):
        if attempt:
            time.sleep(config.backoff * 2 ** (attempt - 1))
        pace.wait()
        try:
            _download(url, part, config.timeout)
            _check_whole(part)
        except urllib.error.HTTPError as error:
            reason = f"{url}: {error.code} {error.reason}"
            if error.code == 416:  # what is there of it is not a part of it
                part.unlink(missing_ok=True)
            elif error.code not in _RETRIED:
                break
        except (*_TRANSIENT, ValueError) as error:
            reason = f"{url}: {error}"
        else:
            size, digest = part.stat().st_size, _digest(part)
            os.replace(part, target)
            _mark(part).unlink(missing_ok=True)
            return Outcome(entry, "fetched", size, digest, "")
    return Outcome(entry, "failed", 0, "", reason)


def _mark(part: Path) -> Path:
    """Beside a part: the server's own mark of the version it is a part of."""
    return part.with_name(part.name + ".version")


def _download(url: str, part: Path, timeout: float) -> None:
    """Fetch a file, or the rest of it if the server still has the version of which `part` is a part."""
    mark = _mark(part)
    version = mark.read_text() if mark.is_file() else ""
    start = part.stat().st_size if part.is_file() and version else 0
    headers = {"User-Agent": "foldwright-fetch"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not (start and answer.status == 206 and goes_on):
            part.unlink(missing_ok=True)
        etag = answer.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
        mark.write_text(version)
        expected = int(answer.headers.get("Content-Length", -1))
        received = 0
        with part.open("ab") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
    if expected not in (-1, received):
        raise ValueError(f"got {received} bytes of {expected}: the connection was cut")


def _check_whole(part: Path) -> None:
    """ValueError (and no part any more) for a gzip file that does not unpack to its own checksum."""
    if not part.name.endswith(".gz.part"):
        return
    try:
        with gzip.open(part) as file:
            while file.read(_CHUNK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        part.unlink()
        raise ValueError(f"what came is no whole gzip file ({error})") from error
