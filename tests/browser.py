"""A real browser for the tests: headless Chromium, spoken to over a pipe with nothing but the standard library.

`python tests/browser.py` puts one into the environment where no package manager of the system need be asked: the
Chromium of npm's package @sparticuz/chromium, which brings the libraries that it needs (68 MB to load, x86-64 Linux).
MOPRUNING_TEST_BROWSER names another.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "browser"
_INSTALLED = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
_VERSION = "147.0.0"
_ADDRESS = f"https://registry.npmjs.org/@sparticuz/chromium/-/chromium-{_VERSION}.tgz"
_SHA512 = "4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ=="
_PATIENCE = 60  # seconds

# The browser reads 3 and writes 4; `preexec_fn` must not be used in a process with threads.
_EXECUTE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def executable() -> str | None:
    """Return the path of a browser: one that is named, that `fetch` has brought, or that the system has."""
    brought = FOLDER / "chromium"
    named = os.environ.get("MOPRUNING_TEST_BROWSER")
    return named or (str(brought) if brought.exists() else next(filter(None, map(shutil.which, _INSTALLED)), None))


class Browser:
    """A running browser with one tab; `close` ends it."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reading, self._to = _high_pipe()
        self._from, writing = _high_pipe()
        flags = ["--headless", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]
        environment, folder = dict(os.environ), Path(path).parent
        if (folder / "fonts.conf").exists():  # the one of `fetch`
            flags += ["--no-zygote", "--single-process"]  # it starts no other process
            environment["LD_LIBRARY_PATH"] = str(folder / "lib")
            environment.setdefault("FONTCONFIG_PATH", "/etc/fonts" if Path("/etc/fonts").exists() else str(folder))
        command = [sys.executable, "-IS", "-c", _EXECUTE, str(reading), str(writing), path, *flags]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(reading, writing), env=environment, stderr=quiet)
        os.close(reading)
        os.close(writing)
        self._calls, self._unread, self._tab = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._tab = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol; https://chromedevtools.github.io/devtools-protocol lists them."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        content = json.dumps(message | ({"sessionId": self._tab} if self._tab else {})).encode() + b"\0"
        os.write(self._to, content)
        while True:
            got = self._next()
            if got.get("id") == self._calls:
                assert "error" not in got, (method, got["error"])
                return got["result"]
            self.events.append(got)

    def open(self, file: Path, *, width: int = 1300, dark: bool = False) -> None:
        """Show a file, and wait until it has loaded; `events` then holds what happened meanwhile."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url=file.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, script: str) -> Any:
        """Return what an expression of JavaScript gives in the page."""
        got = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def complaints(self) -> list[str]:
        """Return what the page's scripts and the browser have complained about."""
        return [str(e) for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]

    def picture(self, file: Path) -> None:
        """Write the whole page as .png."""
        got = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(got["data"]))

    def close(self) -> None:
        """End it."""
        os.close(self._to)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    def _next(self) -> dict[str, Any]:
        late = time.monotonic() + _PATIENCE
        while b"\0" not in self._unread:
            ready = select.select([self._from], [], [], max(0.0, late - time.monotonic()))[0]
            more = os.read(self._from, 1 << 20) if ready else b""
            assert more, "the browser has ended" if ready else f"the browser is silent for {_PATIENCE} seconds"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


def _high_pipe() -> tuple[int, int]:
    """Open a pipe whose numbers are not those that the browser reads and writes: 3 and 4."""
    low = os.pipe()
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in low]
    for number in low:
        os.close(number)
    return high[0], high[1]


def fetch() -> None:
    """Bring a Chromium into the environment, unless it is there."""
    import brotli

    if (FOLDER / "chromium").exists():
        return
    with urllib.request.urlopen(_ADDRESS, timeout=_PATIENCE) as answer:
        content = answer.read()
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != _SHA512:
        raise SystemExit(f"{_ADDRESS}: its sha512 is {found}, expected {_SHA512}")
    FOLDER.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for name in ("al2023", "swiftshader", "fonts"):
            part = package.extractfile(f"package/bin/{name}.tar.br")
            assert part is not None
            with tarfile.open(fileobj=io.BytesIO(brotli.decompress(part.read()))) as files:
                files.extractall(FOLDER, filter="data")
        part = package.extractfile("package/bin/chromium.br")
        assert part is not None
        (FOLDER / "new").write_bytes(brotli.decompress(part.read()))
    (FOLDER / "new").chmod(0o755)
    (FOLDER / "new").rename(FOLDER / "chromium")


if __name__ == "__main__":
    fetch()
    print(executable())
