"""Process settings: defaults < weftline.toml < WEFTLINE_* < arguments; read once, handed down."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from weftline.errors import InvalidSettings, did_you_mean

EXECUTORS = ("children", "inline", "threads")
OBJECT_STORE_SCHEMES = ("s3", "gs", "gcs", "az", "azure", "abfs")
FILE_NAME = "weftline.toml"
MEMORY = "memory://"


class Settings(Struct, frozen=True, kw_only=True):
    """What one process was told.

    `home` holds the database, locks and logs; None: in memory. `objects` holds large values.
    Numbers that are None are found out from the machine. Limits on workflows are None where none
    was declared, and -1 where it was declared that there is none. A controller that was started on
    demand ends after `controller_idle_s` seconds in which there was nothing to do.
    """

    home: Path | None
    objects: Path | None
    executor: str = "children"
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = {}
    max_running_workflows: int | None = None
    max_pending_workflows: int | None = None
    controller_idle_s: float = 60.0


def load_settings(
    arguments: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """The settings that hold for this process; `arguments` that are None count as not given.

    Raises: InvalidSettings, naming each setting that cannot be used and where it was found.
    """
    found: dict[str, tuple[Any, str]] = {}
    for name, value in _from_file((folder or Path.cwd()) / FILE_NAME).items():
        found[name] = (value, f"{FILE_NAME}: {name}")
    for name in _READERS:
        text = environ.get(f"WEFTLINE_{name.upper()}")
        if text is not None:
            found[name] = (text, f"WEFTLINE_{name.upper()}")
    found.update({n: (value, "") for n, value in arguments.items() if value is not None})
    # The URL is judged before anything else, as users of Ray know it.
    for name in ("storage", "database", "home"):
        if name in found:
            judge_url(str(found[name][0]))
    problems, read = [], {}
    for name, (value, where) in found.items():
        try:
            read[name] = _READERS[name](value)
        except (ValueError, TypeError, msgspec.DecodeError) as error:
            problems.append(f"{where or name}={value!r}: {error}")
    if problems:
        raise InvalidSettings("; ".join(problems))
    return _settle(read)


def _settle(read: dict[str, Any]) -> Settings:
    default = read.pop("home", None) or str(Path.home() / ".weftline")
    storage, database = read.pop("storage", None), read.pop("database", None)
    for url in (storage, database):
        if url is not None and urlsplit(url).scheme in OBJECT_STORE_SCHEMES:
            if database is None:
                raise InvalidSettings(
                    f"the object store {url} cannot hold the database: say where it is with"
                    " database=<directory>"
                )
            raise InvalidSettings(
                f"{url}: objects are kept in directories; object stores are not supported yet"
            )
    home, objects = database or storage or default, storage or database or default
    is_memory = [url.startswith(MEMORY) for url in (home, objects)]
    if any(is_memory):
        if not all(is_memory):
            raise InvalidSettings("storage and database must both be in memory, or neither")
        if read.setdefault("executor", "inline") == "children":
            raise InvalidSettings(
                "a home in memory cannot be shared with children: executor='inline' or 'threads'"
            )
        return Settings(home=None, objects=None, **read)
    return Settings(home=folder_of(home), objects=folder_of(objects) / "objects", **read)


def judge_url(url: str) -> None:
    """Refuse what is no place. Raises: InvalidSettings `Invalid url: <url>.` (text of Ray)."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file", "memory", *OBJECT_STORE_SCHEMES) or not url:
        raise InvalidSettings(f"Invalid url: {url}.")
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path):
        raise InvalidSettings(f"Invalid url: {url}.")


def folder_of(url: str) -> Path:
    """The absolute directory that a path or a file:// URL names.

    Raises: InvalidSettings when a file is there.
    """
    parts = urlsplit(url)
    text = unquote(parts.path) if parts.scheme == "file" else url
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise InvalidSettings(f"{path} is a file; the home of workflows must be a directory")
    return path


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import tomllib

    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: {error}") from error
    unknown = [
        f"{path}: unknown setting {name!r}{did_you_mean(name, _READERS)}"
        for name in table
        if name not in _READERS
    ]
    if unknown:
        raise InvalidSettings("; ".join(unknown))
    return table


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("must be a number, at least 0")
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError("must be a number, at least 0")
    return number


def _limit(least: int) -> Callable[[Any], int]:
    """Reads a number of workflows, at least `least`; -1: any number."""

    def read(value: Any) -> int:
        said = f"must be a whole number, at least {least}, or -1 for no limit"
        if isinstance(value, bool | float):
            raise TypeError(said)
        try:
            number = int(value)
        except (ValueError, TypeError):
            raise ValueError(said) from None
        if number != -1 and number < least:
            raise ValueError(said)
        return number

    return read


def _resources(value: Any) -> dict[str, float]:
    if isinstance(value, str):
        value = msgspec.json.decode(value)
    if not isinstance(value, dict):
        raise TypeError("must be a dict of names and numbers (as a variable: JSON)")
    return {str(name): _number(amount) for name, amount in value.items()}


def _executor(value: Any) -> str:
    if value not in EXECUTORS:
        hint = did_you_mean(str(value), EXECUTORS)
        raise ValueError(f"unknown executor; there are {', '.join(EXECUTORS)}{hint}")
    return str(value)


def _place(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError("must be a directory or a URL")
    return os.fspath(value)


_READERS = {
    "home": _place,
    "storage": _place,
    "database": _place,
    "executor": _executor,
    "num_cpus": _number,
    "num_gpus": _number,
    "resources": _resources,
    "max_running_workflows": _limit(1),
    "max_pending_workflows": _limit(0),
    "controller_idle_s": _number,
}
