"""A real browser without a window: Debian's chromium, driven over a pipe in its own protocol (CDP)."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")


class Browser:
    """One chromium with one tab, and what went wrong in it.

    Attributes:
        errors: what the console, the page's scripts and the browser itself complained of, since the last ``open``.
        requests: addresses that the page asked for since then, but for its own and ``data:``.
    """

    def __init__(self, profile: Path) -> None:
        (own_end, self._write), (self._read, its_end) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        start = f'exec "$0" "$@" 3<&{own_end} 4>&{its_end}'  # the pipe's two ends, where chromium looks for them
        self._process = subprocess.Popen(
            ["bash", "-c", start, str(CHROMIUM), *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(own_end, its_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(own_end)
        os.close(its_end)
        self._buffer, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Opens a page in a window of that size, and waits until it is loaded."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url="about:blank")
        self.wait_for("location.href == 'about:blank'", 10)
        self.errors, self.requests, self._address = [], [], address
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState == 'complete' && location.href != 'about:blank'", 30)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"waited in vain for {script}; the page says: {self.text()[:500]}"
            time.sleep(0.05)

    def text(self) -> str:
        """What a person reads on the page."""
        return self.run("document.body ? document.body.innerText : ''")

    def screenshot(self, path: Path, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page; written to ``path`` and returned."""
        png = base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
        path.write_bytes(png)
        return png

    def pdf(self, path: Path) -> bytes:
        """The page as it is printed."""
        printed = base64.b64decode(self._call("Page.printToPDF", printBackground=True)["data"])
        path.write_bytes(printed)
        return printed

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)

    def _send(self, method: str, **params: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._number

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, **params)
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._hear(answer.get("method", ""), answer.get("params", {}))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._read, 1 << 20)
            assert read, "the browser ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _hear(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(str(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        elif event == "Page.javascriptDialogOpening":
            self.errors.append(f"a script says {told['message']}")
            self._send("Page.handleJavaScriptDialog", accept=False)  # the page stands still until then
        elif event == "Network.requestWillBeSent":
            address = told["request"]["url"]
            if address != self._address and not address.startswith(("data:", "about:")):
                self.requests.append(address)
