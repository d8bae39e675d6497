"""A real browser without a window: Chromium, driven by its DevTools protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/ describes the methods. With
`--remote-debugging-pipe`, Chromium reads commands from descriptor 3 and writes answers and events
to descriptor 4, each as JSON with a NUL behind it.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 120.0
_POLL_S = 0.05
_OPTIONS = (
    *("--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    "--no-sandbox",  # in a container, root has none; the pages are ours
    "--disable-dev-shm-usage",
)


def chromium() -> str:
    """Return the browser's program; without one, skip the test, and in CI fail it."""
    found = shutil.which("chromium")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Debian's `chromium` is missing")
    return found


class Browser:
    """A browser with one page, whose errors and blocked content are in `problems`."""

    def __init__(self, folder: Path) -> None:
        """Start it; `folder` gets its profile."""
        commands_read, self._commands = os.pipe()
        self._answers, answers_write = os.pipe()
        self.problems: list[str] = []
        self._loads = 0  # pages that were loaded
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: dict[str, str] = {}
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec 3<&{commands_read} 4>&{answers_write}; exec "$@"', "bash"),
                *(chromium(), *_OPTIONS, f"--user-data-dir={folder}", "about:blank"),
            ],
            pass_fds=(commands_read, answers_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands_read)
        os.close(answers_write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._notice(message)

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        before = self._loads
        self.call("Page.navigate", url=url)
        while self._loads == before:
            self._notice(self._read())

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        begin_s = time.monotonic()
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() - begin_s < PATIENCE_S, f"never true: {expression}"
            time.sleep(_POLL_S)

    def type(self, text: str) -> None:
        """Insert text where the focus is, as an input method does."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, code: int, text: str = "") -> None:
        """Press and release a key: its name, its Windows key code, and the text that it types."""
        key_event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key_event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{**key_event, "text": ""})

    def drop_file(self, path: Path) -> None:
        """Drag a file from elsewhere to the middle of the page."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for step in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=step, x=200, y=300, data=data)

    def close(self) -> None:
        self._session = {}
        self.call("Browser.close")
        self._process.wait(PATIENCE_S)
        os.close(self._commands)
        os.close(self._answers)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            assert ready, "the browser does not answer"
            chunk = os.read(self._answers, 1 << 16)
            assert chunk, f"the browser ended with {self._process.wait()}"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))

    def _notice(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Page.loadEventFired":
            self._loads += 1
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.problems.append(event["params"]["entry"]["text"])
