"""`weft controller`: serves the home from this terminal, until it is told to end."""

import logging
import signal

from weftline.app import App
from weftline.cli.terminal import say_note
from weftline.config import load_settings
from weftline.controller.controller import serve_here

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def serve(*, until_idle_s: float | None) -> int:
    """Drive detached runs; the status with which the command ends."""
    logging.basicConfig(format=FORMAT, level=logging.INFO)  # to stderr
    app = App(load_settings({"executor": "children"}))
    serve_here(
        app,
        until_idle_s,
        lambda: say_note("ready for runs; Ctrl-C lets them go and ends"),
        signal.SIGHUP,
    )
    return 0
