"""The public names, exactly: a name that comes or goes is a decision, and is made here too."""

from importlib import import_module

import pytest

PUBLIC = {
    "weftline": [
        "ObjectRef",
        "RunHandle",
        "WeftlineError",
        "WorkflowCanceledError",
        "WorkflowExecutionError",
        "WorkflowNotFoundError",
        "WorkflowRunningError",
        "__version__",
        "get",
        "put",
        "wait",
        "workflow",
    ],
    "weftline.workflow": [
        "CANCELED",
        "FAILED",
        "PAUSED",
        "PENDING",
        "RESUMABLE",
        "RUNNING",
        "SUCCESSFUL",
        "ActorClass",
        "Current",
        "EventListener",
        "RunHandle",
        "Step",
        "StepMemoryError",
        "StepNotFoundError",
        "StepTimeoutError",
        "StorageFull",
        "VirtualActor",
        "VirtualActorNotInitializedError",
        "Workflow",
        "WorkflowCanceledError",
        "WorkflowExecutionError",
        "WorkflowNotFoundError",
        "WorkflowNotResumableError",
        "WorkflowQueueFull",
        "WorkflowRunningError",
        "WorkflowStatus",
        "cancel",
        "current",
        "delete",
        "get",
        "get_actor",
        "get_metadata",
        "get_output",
        "get_status",
        "init",
        "list_all",
        "pause",
        "resume",
        "resume_all",
        "signal",
        "sleep",
        "step",
        "submit_many",
        "unpause",
        "virtual_actor",
        "wait",
        "wait_for_event",
        "wait_for_signal",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_exactly_these(module: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(PUBLIC[module])


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there(module: str) -> None:
    missing = [name for name in PUBLIC[module] if not hasattr(import_module(module), name)]
    assert missing == []
