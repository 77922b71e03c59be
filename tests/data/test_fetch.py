# SPDX-License-Identifier: Apache-2.0
import gzip
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from foldwright.data import fetch as module
from foldwright.data.fetch import FetchConfig, Pace, fetch, main, read_ledger, verify


class Archive(ThreadingHTTPServer):
    """Files by path; `faults` holds what goes wrong with the next requests of a path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.requests: list[tuple[str, str]] = []
        self.times: list[float] = []


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        self.server.times.append(time.monotonic())
        body = self.server.files.get(self.path)
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else None
        if body is None or isinstance(fault, int):
            self.send_error(404 if body is None else fault)
            return
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        start = 0
        if self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        sent = body[start:]
        if fault == "cut":
            sent = sent[: len(sent) // 2]
        elif fault == "flip":
            sent = sent[:-20] + bytes([sent[-20] ^ 255]) + sent[-19:]
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def archive():
    server = Archive()
    rng = np.random.default_rng(0)
    for entry in ("1abc", "2xyz", "4hhb"):
        text = "".join(rng.choice(list("ACGT \n"), 20_000))
        server.files[f"/{entry[1:3]}/{entry}.cif.gz"] = gzip.compress(text.encode(), mtime=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def config(archive: Archive, **changes) -> FetchConfig:
    values = {"requests_per_second": 500.0, "backoff": 0.01, "threads": 2, "attempts": 4} | changes
    return FetchConfig(base_url=f"http://127.0.0.1:{archive.server_port}", **values)


def test_a_list_is_mirrored_and_not_asked_for_again(archive, tmp_path):
    outcomes = fetch(["1abc", "4HHB", "1ABC", "2xyz"], tmp_path, config(archive))
    assert [(o.entry, o.status) for o in outcomes] == [(e, "fetched") for e in ("1abc", "4hhb", "2xyz")]
    for path, body in archive.files.items():
        name = path.rsplit("/", 1)[1]
        assert (tmp_path / name).read_bytes() == body
        assert read_ledger(tmp_path)[name] == (len(body), hashlib.sha256(body).hexdigest())
    assert not list(tmp_path.glob("*.part*"))
    asked = len(archive.requests)
    again = fetch(["1abc", "2xyz", "4hhb"], tmp_path, config(archive))
    assert [o.status for o in again] == ["present"] * 3
    assert len(archive.requests) == asked
    (tmp_path / "2xyz.cif.gz").unlink()
    assert [o.status for o in fetch(["1abc", "2xyz"], tmp_path, config(archive))] == ["present", "fetched"]


def test_a_cut_download_goes_on_where_it_stopped(archive, tmp_path):
    path = "/ab/1abc.cif.gz"
    archive.faults[path] = ["cut", "cut"]
    assert fetch(["1abc"], tmp_path, config(archive))[0].status == "fetched"
    half = len(archive.files[path]) // 2
    ranges = [header for _, header in archive.requests]
    assert ranges[:2] == ["", f"bytes={half}-"]
    assert len(ranges) == 3
    assert (tmp_path / "1abc.cif.gz").read_bytes() == archive.files[path]


def test_an_interrupted_run_goes_on_but_not_with_another_version(archive, tmp_path):
    path = "/ab/1abc.cif.gz"
    archive.faults[path] = ["cut"]
    assert fetch(["1abc"], tmp_path, config(archive, attempts=1))[0].status == "failed"
    assert (tmp_path / "1abc.cif.gz.part").is_file()
    assert not (tmp_path / "1abc.cif.gz").exists()
    archive.files[path] = gzip.compress(b"another version" * 900, mtime=0)
    assert fetch(["1abc"], tmp_path, config(archive))[0].status == "fetched"
    assert (tmp_path / "1abc.cif.gz").read_bytes() == archive.files[path]
    assert not list(tmp_path.glob("*.part*"))


def test_busy_servers_and_damaged_files_are_asked_again(archive, tmp_path):
    archive.faults["/ab/1abc.cif.gz"] = [503, 429, 500]
    archive.faults["/xy/2xyz.cif.gz"] = ["flip"]
    outcomes = fetch(["1abc", "2xyz"], tmp_path, config(archive))
    assert [o.status for o in outcomes] == ["fetched"] * 2
    assert len(archive.requests) == 4 + 2
    assert (tmp_path / "2xyz.cif.gz").read_bytes() == archive.files["/xy/2xyz.cif.gz"]


def test_repetitions_slow_down_and_end(archive, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    archive.faults["/ab/1abc.cif.gz"] = [503] * 9
    settings = config(archive, attempts=4, backoff=2.0, requests_per_second=1e6)
    outcome = fetch(["1abc"], tmp_path, settings)[0]
    assert outcome.status == "failed"
    assert "503" in outcome.reason
    assert [pause for pause in pauses if pause >= 1] == [2, 4, 8]
    assert len(archive.requests) == 4


def test_a_missing_entry_fails_at_once_and_alone(archive, tmp_path, capsys):
    base = ["--base-url", config(archive).base_url, "--rate", "500", "--out", str(tmp_path)]
    listing = tmp_path / "list.txt"
    listing.write_text("1abc  # lysozyme\n\n# nothing\n9zzz\n2xyz\n")
    assert main(["--list", str(listing), *base]) == 1
    output = capsys.readouterr()
    assert "2 fetched, 0 present, 1 failed" in output.out
    assert "9zzz" in output.err
    assert "404" in output.err
    assert sum(path == "/zz/9zzz.cif.gz" for path, _ in archive.requests) == 1
    assert main(["1abc", *base]) == 0


def test_verify_finds_damage(archive, tmp_path, capsys):
    fetch(["1abc", "2xyz", "4hhb"], tmp_path, config(archive))
    assert main(["--verify", "--out", str(tmp_path)]) == 0
    body = bytearray((tmp_path / "1abc.cif.gz").read_bytes())
    body[100] ^= 1
    (tmp_path / "1abc.cif.gz").write_bytes(body)
    (tmp_path / "2xyz.cif.gz").unlink()
    assert set(verify(tmp_path)) == {"1abc.cif.gz", "2xyz.cif.gz"}
    assert main(["--verify", "--out", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().err


def test_requests_keep_their_distance(archive, tmp_path):
    fetch(["1abc", "2xyz", "4hhb"], tmp_path, config(archive, requests_per_second=10.0, threads=3))
    gaps = np.diff(sorted(archive.times))
    assert (gaps > 0.06).all()
    now, slept = [0.0], []
    pace = Pace(4.0, clock=lambda: now[0], sleep=slept.append)
    for _ in range(3):
        pace.wait()
    now[0] = 10.0
    pace.wait()
    assert slept == [0.25, 0.5]


@pytest.mark.parametrize("entries", [[], ["../etc"], ["1a/b"], ["é123"]])
def test_odd_entries_are_refused(entries, tmp_path):
    with pytest.raises(ValueError, match="expected entries such as 1abc"):
        fetch(entries, tmp_path, FetchConfig())


def test_a_server_that_is_not_there(tmp_path):
    settings = FetchConfig(base_url="http://127.0.0.1:9", attempts=2, backoff=0.01, requests_per_second=100.0)
    outcome = fetch(["1abc"], tmp_path, settings)[0]
    assert outcome.status == "failed"
    assert "127.0.0.1:9" in outcome.reason
