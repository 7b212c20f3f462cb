"""What processes that are started from here are told, to find the same home and machine."""

import json

from weftline.config import Settings
from weftline.control import Declared


def variables_of(settings: Settings) -> dict[str, str]:
    """What makes a workflow that a step runs find the same home and machine."""
    assert settings.home is not None
    assert settings.objects is not None
    found = {
        "WEFTLINE_DATABASE": str(settings.home),
        "WEFTLINE_STORAGE": str(settings.objects.parent),
    }
    if settings.num_cpus is not None:
        found["WEFTLINE_NUM_CPUS"] = str(settings.num_cpus)
    if settings.num_gpus is not None:
        found["WEFTLINE_NUM_GPUS"] = str(settings.num_gpus)
    if settings.resources:
        found["WEFTLINE_RESOURCES"] = json.dumps(settings.resources)
    return found


def variables_of_controller(settings: Settings) -> dict[str, str]:
    """What a controller that is started from here is told."""
    found = variables_of(settings)
    found["WEFTLINE_CONTROLLER_IDLE_S"] = str(settings.controller_idle_s)
    for name in ("max_running_workflows", "max_pending_workflows"):
        limit = getattr(settings, name)
        if limit is not None:
            found[f"WEFTLINE_{name.upper()}"] = str(limit)
    return found


def declared_by(settings: Settings) -> Declared:
    """What a controller that runs already is told."""
    return Declared(
        settings.num_cpus,
        settings.num_gpus,
        settings.resources,
        settings.max_running_workflows,
        settings.max_pending_workflows,
    )
