"""Send one single item to a worker and wait for its part; `bench.trips` traces this program.

    single_item.py MODULE PICTURE MODEL OUTPUT

MODULE is the command line of the checkout in the working folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

PATIENCE_S = 120.0


def main() -> None:
    """Start Redis and a worker, queue the item by its task's name, and stop both."""
    module, picture, model, output = sys.argv[1:]
    Path(output).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "redis.sock")
        redis = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        url = f"redis+socket://{socket}"
        arguments = ["worker", "--tower", "img", "--model", model, "--output", output]
        environment = {
            **os.environ,
            "CLIPFLEET_REDIS_URL": url,
            "CLIPFLEET_WINDOW_ITEMS": "1",
        }
        _wait(socket.exists, "Redis")
        worker = subprocess.Popen([sys.executable, "-m", module, *arguments], env=environment)
        try:
            app = Celery(broker=url)
            item = {"id": "one", "uri": picture}
            app.send_task("clipfleet.embed_items", args=[[item]], queue="clipfleet.img")
            _wait(lambda: list(Path(output).glob("items-img/manifest/*.json")), "the record")
        finally:
            worker.terminate()
            worker.wait(PATIENCE_S)
            redis.terminate()
            redis.wait(PATIENCE_S)


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
