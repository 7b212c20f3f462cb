"""Where the code of a run runs: which interpreter, which paths, which folder."""

from msgspec import Struct


class Environment(Struct, frozen=True, kw_only=True):
    """What a child needs to be started like the process that submitted the run."""

    python: str
    sys_path: tuple[str, ...]
    cwd: str
    version: str = ""
    """Which Python that is, as in `3.11`: code that travels by value runs in no other."""
