"""The page on disk: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rarefy.errors import RunError
from rarefy.records import RunRecord
from rarefy.report.html import page


def write(runs: Sequence[tuple[str, RunRecord]], path: Path) -> Path:
    """Write the page of these runs and return its path.

    A file that was there before stays until the new one is complete on the disk.

    Raises:
        InputError: there is no run.
        RunError: the file cannot be written; nothing is left of it.
    """
    content = page(runs).encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(beside, content)
        os.replace(beside, path)
    except OSError as error:
        raise RunError(
            f"{path}: the report ({len(content):,} B) could not be written: {error.strerror}; "
            "choose a folder that exists and has room"
        ) from error
    finally:
        with suppress(OSError):  # gone once it has been renamed
            beside.unlink()
    return path


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
