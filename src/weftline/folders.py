"""Folders and files that survive a power cut, and folders that only their owner may look into."""

import os
from pathlib import Path


def make_folder(folder: str, mode: int = 0o777) -> None:
    """Make `folder` and what is missing above it, each flushed into the one above.

    Raises: FileExistsError if a file has the name.
    """
    above = os.path.dirname(folder)
    if not os.path.isdir(above):
        make_folder(above, mode)
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
        return  # somebody else was quicker
    flush(above)


def make_private(folder: Path) -> None:
    """The same for this user alone, since values, code and sockets lie in it; does nothing when it
    is there."""
    if not folder.is_dir():
        make_folder(os.path.abspath(folder), 0o700)


def flush(path: str | os.PathLike[str]) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
