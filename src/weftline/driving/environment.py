"""Where the code of runs is carried out: as in this process, or as it was recorded."""

import os
import sys
from pathlib import Path

import msgspec

from weftline.core.environment import Environment
from weftline.errors import OtherPython
from weftline.version import PYTHON


def environment_here() -> Environment:
    """This process, as the environment that children of its runs are started in."""
    cwd = os.getcwd()
    sys_path = tuple(entry or cwd for entry in sys.path)
    return Environment(python=sys.executable, sys_path=sys_path, cwd=cwd, version=PYTHON)


def usable_environment(recorded: Environment) -> tuple[Environment, tuple[str, ...]]:
    """The recorded environment, or this process's own where it is gone, and what to say.

    Raises: OtherPython when the code of the run would not run in this process's own.
    """
    here = environment_here()
    if not Path(recorded.python).exists():
        if recorded.version not in ("", here.version):
            raise OtherPython(
                f"the run's interpreter {recorded.python} is gone, and its code runs in Python"
                f" {recorded.version} alone: resume it with such a Python that has Weftline, not"
                f" with {here.python}, which is Python {here.version}"
            )
        text = f"the run's interpreter {recorded.python} is gone; {here.python} is used instead"
        return here, (text,)
    if not Path(recorded.cwd).is_dir():
        text = f"the run's folder {recorded.cwd} is gone; {here.cwd} is used instead"
        # Packages of one interpreter are of no use to another one.
        is_same = recorded.python == here.python
        left = tuple(entry for entry in recorded.sys_path if os.path.exists(entry))
        sys_path = here.sys_path if is_same else left
        return msgspec.structs.replace(recorded, sys_path=sys_path, cwd=here.cwd), (text,)
    return recorded, ()
