# SPDX-License-Identifier: Apache-2.0
"""A page in Debian's Chromium, through ChromeDriver's own HTTP interface (W3C WebDriver)."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --use-gl=angle --use-angle=swiftshader
--enable-unsafe-swiftshader --window-size=1200,1600""".split()
NEEDED = ("chromium", "chromedriver")
MISSING = [program for program in NEEDED if shutil.which(program) is None]


class Page:
    def __init__(self, session):
        self.session = session

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"})
        request.method = method
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:800]) from error

    def open(self, path: Path):
        self._call("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script):
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, selector):
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{next(iter(found.values()))}/click", {})

    def wait(self, script, seconds=60):
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() < end, f"{script} stayed {value!r}; errors: {self.errors()}"
            time.sleep(0.1)
        return value

    def errors(self):
        lines = self._call("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def screenshot(self, path: Path):
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))


@contextmanager
def chromium(folder: Path):
    """A page of a browser of its own, with an empty profile in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [shutil.which("chromedriver"), f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        try:
            driver_url = f"http://127.0.0.1:{port}"
            _await(driver_url)
            options = {
                "binary": shutil.which("chromium"),
                "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
                "browserName": "chrome",
            }
            starter = Page(driver_url)
            made = starter._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            page = Page(f"{driver_url}/session/{made['sessionId']}")
            yield page
            page._call("DELETE", "")
        finally:
            driver.terminate()


def _await(url):
    for _ in range(100):
        try:
            urllib.request.urlopen(url + "/status", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("chromedriver did not answer within 10 s")
