"""Which homes keep their objects in a folder that is not their own.

Each leaves a note in `homes` below the objects, since what one of them needs no more the others may
need. A note says also which folder it is about: a copy of it elsewhere means nothing.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

FOLDER = "homes"


class _Note(msgspec.Struct):
    home: str
    objects: str


def note_home(objects: Path, home: Path) -> None:
    """Leave a note that `home` keeps its objects here; a home whose own folder it is needs none.

    Raises: OSError.
    """
    if objects.parent == home:
        return
    note = _Note(os.path.realpath(home), os.path.realpath(objects))
    path = objects / FOLDER / sha256(os.fsencode(note.home)).hexdigest()
    content = msgspec.json.encode(note)
    with suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    unnamed.write_bytes(content)
    unnamed.replace(path)


def other_homes(objects: Path, home: Path) -> list[Path]:
    """The homes besides this one that keep their objects here, as far as they are still there."""
    found = {objects.parent}
    for path in (objects / FOLDER).glob("[0-9a-f]*"):
        with suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode(path.read_bytes(), type=_Note)
            if note.objects == os.path.realpath(objects):
                found.add(Path(note.home))
    mine = os.path.realpath(home)
    others = {each for each in map(os.path.realpath, found) if each != mine}
    return sorted(Path(each) for each in others if os.path.exists(f"{each}/weftline.db"))
