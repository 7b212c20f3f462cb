"""The training example, as a person runs it: killed half-way, and into each of its branches."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_digits

from weftline.app import App
from weftline.config import load_settings
from weftline.core.events import RunStatus
from weftline.core.run import Run
from weftline.core.state import StepStatus

REPOSITORY = Path(__file__).parents[2]
WEFT = [sys.executable, "-W", "error", "-m", "weftline.cli.main"]
SETTINGS = 15


class Desk:
    """A folder to run the example in: its home, its results, and a trace of what ran."""

    def __init__(self, folder: Path) -> None:
        self.home, self.out, self.trace = folder / "home", folder / "out", folder / "trace.txt"
        self.folder = folder
        self.environ = {
            **os.environ,
            "WEFTLINE_HOME": str(self.home),
            "WEFTLINE_NUM_CPUS": "2",  # so that training is still under way when some is done
            "DIGITS_TRACE": str(self.trace),
        }

    def command(self, *options: str) -> list[str]:
        path = REPOSITORY / "examples" / "digits" / "workflow.py"
        return [*WEFT, "run", str(path), "--id", "demo", "--param", f"out={self.out}", *options]

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*options),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str) -> str:
        """What a run that ends well prints."""
        with self.start(*options) as process:
            printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed

    def recorded(self) -> Run:
        """The run as its journal has it; nobody drives it any more."""
        app = App(load_settings({"storage": str(self.home)}, {}))
        try:
            return app.records.read("demo").run
        finally:
            app.close()

    def traced(self, what: str) -> Counter[str]:
        """How often each step has started, or ended."""
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return Counter(step for kind, step in lines if kind == what)

    def files(self) -> set[str]:
        folder = self.out / "demo"
        return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def kill_when_trained(process: "subprocess.Popen[str]", count: int) -> None:
    """Kill the process as soon as it has told that `count` settings are trained."""
    assert process.stdout is not None
    seen: list[str] = []
    try:
        for line in process.stdout:
            seen.append(line)
            if sum("validation images" in one and "reads" in one for one in seen) == count:
                break
        else:
            pytest.fail(f"it ended before {count} settings were trained:\n{''.join(seen)}")
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_killed_training_goes_on_and_no_finished_step_runs_again(desk: Desk) -> None:
    kill_when_trained(desk.start(), 5)

    cut = desk.recorded()
    finished = {step.name for step in cut.steps if step.status is StepStatus.SUCCESSFUL}
    returned = {step.name for step in cut.steps if step.opened is not None}
    assert cut.finished is None
    assert {"initiate", "load_and_split", "augment"} < finished
    assert returned == {"check_data"}
    trained = [name for name in finished if name.startswith("train_")]
    assert 0 < len(trained) < SETTINGS
    assert desk.files() == set()

    printed = desk.run()

    whole = desk.recorded()
    assert whole.finished is RunStatus.SUCCESSFUL
    starts, ends = desk.traced("start"), desk.traced("end")
    assert set(starts) == set(ends) == {step.name for step in whole.steps}
    assert sum(name.startswith("train_") for name in starts) == SETTINGS
    again = {name for name in finished | returned if starts[name] != 1 or ends[name] != 1}
    assert again == set()
    # What was cut off was begun once more, and only that.
    assert set(starts.values()) <= {1, 2}
    assert desk.files() == {"model.joblib", "report.json", "confusion.png"}
    report = json.loads((desk.out / "demo" / "report.json").read_text())
    assert report["run"] == "demo"
    assert report["accuracy"] > 0.95
    assert len(report["validation"]) == SETTINGS
    assert f"{report['accuracy']}" in printed
    for name in desk.files():
        assert name in printed
    assert sum(map(sum, report["confusion"])) == report["images"]["test"]
    assert (desk.out / "demo" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    model = joblib.load(desk.out / "demo" / "model.joblib")
    pixels, digits = load_digits(return_X_y=True)
    assert (model.predict(pixels / 16) == digits).mean() > 0.95

    # The same id once more: the recorded result, and nothing runs.
    assert f"{report['accuracy']}" in desk.run()
    assert (desk.traced("start"), desk.traced("end")) == (starts, ends)


def test_bad_data_are_told_to_the_data_team_and_nothing_is_trained(desk: Desk) -> None:
    printed = desk.run("--param", "missing=0.1")
    assert desk.files() == {"notice.json"}
    notice = json.loads((desk.out / "demo" / "notice.json").read_text())
    assert notice["to"] == "data team"
    assert "10.0% of the pixels of the training images are missing" in notice["reasons"]
    assert "data team" in printed
    assert set(desk.traced("end")) == {"initiate", "load_and_split", "check_data", "notify"}


def test_a_bad_model_is_told_to_the_model_team_and_not_released(desk: Desk) -> None:
    printed = desk.run("--param", "min_accuracy=1.0")
    assert desk.files() == {"notice.json", "confusion.png"}
    notice = json.loads((desk.out / "demo" / "notice.json").read_text())
    assert notice["to"] == "model team"
    assert "is below 1.0" in notice["reasons"][0]
    assert "model team" in printed
    ended = set(desk.traced("end"))
    assert {"check_model", "notify"} < ended
    assert "release" not in ended
