"""The version of this package, which the build reads from here, and that of Python."""

import sys

__version__ = "0.1.0"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""What must be the same for compiled code to run."""
