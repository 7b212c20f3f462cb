"""The process that a shape runs in. It imports next to nothing, since imports are measured, too."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def answer(shapes: Mapping[str, Callable[[list[str]], Figures]]) -> None:
    """Run the shape that the command line names, and write its figures: the main of a module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=shapes)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.write_text(json.dumps(shapes[given.shape](given.arguments)))
