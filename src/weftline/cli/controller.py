"""`weft controller`: serves the home from this terminal, until it is told to end."""

import logging
import signal

from weftline.app import App
from weftline.cli.terminal import say_note
from weftline.config import load_settings
from weftline.controller.controller import Controller

FORMAT = "%(asctime)s %(levelname)s %(message)s"


def serve(*, until_idle_s: float | None) -> int:
    """Drive detached runs; the status with which the command ends."""
    logging.basicConfig(format=FORMAT, level=logging.INFO)  # to stderr
    app = App(load_settings({"executor": "children"}))
    try:
        controller = Controller(app, idle_s=until_idle_s)
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda *_: controller.stop())
        controller.serve(lambda: say_note("ready for runs; Ctrl-C lets them go and ends"))
    finally:
        app.close()
    return 0
