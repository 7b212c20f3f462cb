"""Folders that only their owner may look into: values, code and sockets lie in them."""

import os
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for this user alone; each is flushed
    into the one above. Does nothing when it is there."""
    if folder.is_dir():
        return
    make_private(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # somebody else was quicker
    above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(above)
    finally:
        os.close(above)
