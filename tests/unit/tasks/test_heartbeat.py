"""The heartbeat file of a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfleet.errors import UsageError
from clipfleet.tasks.worker.heartbeat import start_heartbeat


def test_a_heartbeat_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "absent" / "heartbeat"
    with pytest.raises(UsageError, match=f"heartbeat_file {file}: the folder .* cannot be written"):
        start_heartbeat(str(file))
