"""Train a model on handwritten digits, and release it if data and model are good enough.

    initiate -> load_and_split -> check_data -+-> (good) augment -> train, 15 settings of 2 kinds
                                              |     -> pick_best -> fit_best -> evaluate
                                              |     -> check_model -+-> (good) release
                                              |                     +-> (bad)  notify
                                              +-> (bad)  notify

    weft run examples/digits/workflow.py --id demo

Kill it whenever you like and start it again with the same id: it goes on where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from weftline import workflow

# scikit-learn and Matplotlib are imported by the steps that need them. Thus the process that
# drives the run stays small, and starts at once when it has to start again.

ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}}


# -- what flows between the steps ---------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    out: str
    min_accuracy: float
    missing: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("min_accuracy", "missing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Images:
    """Pictures of digits: `pixels` float32 [n, 64] from 0 (paper) to 1 (ink), `digits` int [n]."""

    pixels: np.ndarray
    digits: np.ndarray

    def __len__(self) -> int:
        return len(self.digits)


@dataclass(frozen=True)
class Split:
    """To learn from, to choose between settings with, and to judge the chosen one by."""

    training: Images
    validation: Images
    test: Images


@dataclass(frozen=True)
class Setting:
    """One kind of model (`svc` or `forest`) and its hyper-parameters."""

    kind: str
    parameters: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{k}={v}' for k, v in self.parameters.items())})"


@dataclass(frozen=True)
class Score:
    """How well a setting did on the validation images."""

    setting: Setting
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """How well the final model did on the test images.

    `confusion[i][j]` counts the images of digit i that were read as j; `picture` shows it (PNG).
    """

    accuracy: float
    recall: list[float]
    confusion: list[list[int]]
    picture: bytes


@dataclass(frozen=True)
class Report:
    """What is released beside the model, for those who will use it."""

    run: str
    setting: Setting
    accuracy: float
    recall: list[float]
    confusion: list[list[int]]
    validation: list[Score]
    images: dict[str, int]


SETTINGS = [
    Setting("svc", {"C": penalty, "gamma": gamma})
    for penalty in (1.0, 10.0, 100.0)
    for gamma in (0.01, 0.1, 0.3)
] + [
    Setting("forest", {"n_estimators": trees, "max_depth": depth})
    for trees in (50, 100, 150)
    for depth in (8, 16)
]


# -- what all steps of this job have in common --------------------------------------------------


def step(**options: Any) -> Callable[[Callable[..., Any]], workflow.Step]:
    """`@workflow.step` under the function's plain name, with one thread: steps run side by side,
    and would fight over the processors if each took all of them."""

    def make(function: Callable[..., Any]) -> workflow.Step:
        options.setdefault("name", function.__name__)
        return workflow.step(runtime_env=ONE_THREAD, **options)(traced(function))

    return make


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have the step write a line when it starts and one when it ends into the file that
    $DIGITS_TRACE names, if there is one: who counts the lines sees what ran, and how often."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        trace("start")
        result = function(*args, **kwargs)
        trace("end")
        return result

    return wrapper


def trace(what: str) -> None:
    path, here = os.environ.get("DIGITS_TRACE"), workflow.current()
    if path and here:
        with open(path, "a") as file:
            file.write(f"{what} {here.step}\n")


# -- the steps ----------------------------------------------------------------------------------


@step()
def initiate(job: Job) -> Job:
    """The order, once its results have a place: better to fail now than after the training."""
    folder_of_run(job)
    print(f"to be trained: a model of digits, {job.min_accuracy:.1%} right or better")
    return job


@step()
def load_and_split(job: Job) -> Split:
    """The 1,797 images that scikit-learn ships, split 60:20:20 with equal shares of each digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    images = Images(lose_pixels((pixels / 16).astype(np.float32), job), digits)

    def cut(images: Images, share: float) -> tuple[Images, Images]:
        p, q, d, e = train_test_split(
            images.pixels,
            images.digits,
            test_size=share,
            stratify=images.digits,
            random_state=job.seed,
        )
        return Images(p, d), Images(q, e)

    rest, test = cut(images, 0.2)
    training, validation = cut(rest, 0.25)
    print(f"{len(training)} images to train, {len(validation)} to validate, {len(test)} to test")
    return Split(training, validation, test)


@step()
def check_data(job: Job, split: Split) -> workflow.Workflow:
    """Go on to training if the data are good; else tell those who can mend them."""
    problems = problems_of_data(split)
    if problems:
        return notify.step(job, "data team", problems)
    print("data are complete: training begins")
    larger = augment.step(split)
    scores = [
        train.options(name=f"train_{setting.kind}").step(job, setting, larger)
        for setting in SETTINGS
    ]
    best = pick_best.step(scores)
    model = fit_best.step(job, best, larger)
    evaluation = evaluate.step(model, larger)
    return check_model.step(job, split_sizes(split), scores, best, model, evaluation)


@step()
def augment(split: Split) -> Split:
    """The same images, those for training also moved by one pixel each way: five times as many."""
    training = shifted(split.training)
    print(f"{len(split.training)} images to train became {len(training)}")
    return Split(training, split.validation, split.test)


@step(timeout_s=120)
def train(job: Job, setting: Setting, split: Split) -> Score:
    """What one setting reaches on the validation images."""
    model = new_model(setting, job.seed).fit(split.training.pixels, split.training.digits)
    accuracy = float(model.score(split.validation.pixels, split.validation.digits))
    print(f"{setting} reads {accuracy:.1%} of the validation images")
    return Score(setting, accuracy)


@step()
def pick_best(scores: list[Score]) -> Setting:
    """The setting with the highest accuracy; of equals, the one listed first."""
    best = max(scores, key=lambda score: score.accuracy)
    print(f"best of {len(scores)} settings: {best.setting} with {best.accuracy:.1%}")
    return best.setting


@step(timeout_s=120)
def fit_best(job: Job, setting: Setting, split: Split) -> Any:
    """The final model: the best setting, fitted to training and validation images together."""
    more = shifted(split.validation)
    pixels = np.concatenate([split.training.pixels, more.pixels])
    digits = np.concatenate([split.training.digits, more.digits])
    return new_model(setting, job.seed).fit(pixels, digits)


@step()
def evaluate(model: Any, split: Split) -> Evaluation:
    """How the model does on images that nothing was fitted to or chosen with."""
    from sklearn.metrics import confusion_matrix

    found = model.predict(split.test.pixels)
    confusion = confusion_matrix(split.test.digits, found, labels=range(10))
    accuracy = float((found == split.test.digits).mean())
    print(f"{accuracy:.1%} of {len(split.test)} test images are read right")
    return Evaluation(
        accuracy=accuracy,
        recall=[round(float(share), 4) for share in confusion.diagonal() / confusion.sum(axis=1)],
        confusion=confusion.tolist(),
        picture=draw(confusion, f"Handwritten digits: {accuracy:.1%} of test images read right"),
    )


@step()
def check_model(
    job: Job,
    sizes: dict[str, int],
    scores: list[Score],
    setting: Setting,
    model: Any,
    evaluation: Evaluation,
) -> workflow.Workflow:
    """Release the model if it is good enough; else tell those who can better it."""
    if evaluation.accuracy < job.min_accuracy:
        worst = int(np.argmin(evaluation.recall))
        reasons = [
            f"accuracy {evaluation.accuracy:.4f} on test images is below {job.min_accuracy}",
            f"digit {worst} is read right least often: {evaluation.recall[worst]:.1%}",
        ]
        return notify.step(job, "model team", reasons, evaluation.picture)
    here = workflow.current()
    assert here is not None
    report = Report(
        run=here.run_id,
        setting=setting,
        accuracy=round(evaluation.accuracy, 4),
        recall=evaluation.recall,
        confusion=evaluation.confusion,
        validation=sorted(scores, key=lambda score: -score.accuracy),
        images=sizes,
    )
    return release.step(job, model, report, evaluation.picture)


@step(max_retries=3, retry_delay_s=0.5, retry_on=OSError)
def release(job: Job, model: Any, report: Report, picture: bytes) -> dict[str, Any]:
    """Put model, report and picture where their users look for them.

    A full disk or a lost mount may pass, so it is tried three times. The report comes last: who
    sees it may rely on the rest.
    """
    import joblib

    folder = folder_of_run(job)
    with replaced(folder / "model.joblib") as part:
        joblib.dump(model, part)
    with replaced(folder / "confusion.png") as part:
        part.write_bytes(picture)
    with replaced(folder / "report.json") as part:
        part.write_text(json.dumps(asdict(report), indent=2) + "\n")
    print(f"released in {folder}")
    return {
        "released": True,
        "setting": str(report.setting),
        "accuracy": report.accuracy,
        "model": str(folder / "model.joblib"),
        "report": str(folder / "report.json"),
        "picture": str(folder / "confusion.png"),
    }


@step(max_retries=3, retry_delay_s=0.5, retry_on=OSError)
def notify(job: Job, whom: str, reasons: list[str], picture: bytes | None = None) -> dict[str, Any]:
    """Tell people why nothing is released.

    Here it is a file. A real one would post it somewhere, with the idempotency key of
    `workflow.current()`, so that nobody is told twice.
    """
    folder = folder_of_run(job)
    result = {
        "released": False,
        "notified": whom,
        "reasons": reasons,
        "notice": str(folder / "notice.json"),
    }
    if picture is not None:
        with replaced(folder / "confusion.png") as part:
            part.write_bytes(picture)
        result["picture"] = str(folder / "confusion.png")
    with replaced(folder / "notice.json") as part:
        part.write_text(json.dumps({"to": whom, "reasons": reasons}, indent=2) + "\n")
    print(f"to the {whom}: {'; '.join(reasons)}")
    return result


# -- what the steps are made of -----------------------------------------------------------------


def new_model(setting: Setting, seed: int) -> Any:
    """An unfitted model of scikit-learn."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    match setting.kind:
        case "svc":
            return SVC(**setting.parameters)
        case "forest":
            return RandomForestClassifier(**setting.parameters, random_state=seed)
    raise ValueError(f"unknown kind of model: {setting.kind!r}")


def lose_pixels(pixels: np.ndarray, job: Job) -> np.ndarray:
    """The pixels without a share of them, as a broken scanner would deliver them."""
    is_lost = np.random.default_rng(job.seed).random(pixels.shape) < job.missing
    return np.where(is_lost, np.float32(np.nan), pixels)


def shifted(images: Images) -> Images:
    """The images as they are, and moved by one pixel to the right, left, top and bottom."""
    grid = images.pixels.reshape(-1, 8, 8)
    framed = np.pad(grid, ((0, 0), (1, 1), (1, 1)))
    moves = [(1, 1), (1, 0), (1, 2), (2, 1), (0, 1)]
    moved = [framed[:, row : row + 8, column : column + 8] for row, column in moves]
    pixels = np.concatenate(moved).reshape(-1, 64)
    return Images(pixels, np.tile(images.digits, len(moves)))


def problems_of_data(split: Split) -> list[str]:
    """What is wrong with the data, in words."""
    problems = []
    parts = {"training": split.training, "validation": split.validation, "test": split.test}
    for name, images in parts.items():
        lost = float(np.isnan(images.pixels).mean())
        if lost:
            problems.append(f"{lost:.1%} of the pixels of the {name} images are missing")
        rare = [digit for digit in range(10) if Counter(images.digits.tolist())[digit] < 20]
        if rare:
            problems.append(f"fewer than 20 {name} images of the digits {rare}")
    seen = {image.tobytes() for image in split.training.pixels}
    twice = sum(image.tobytes() in seen for image in split.test.pixels)
    if twice:
        problems.append(f"{twice} of the test images are also training images")
    return problems


def split_sizes(split: Split) -> dict[str, int]:
    """How many images each part has."""
    return {
        "training": len(split.training),
        "validation": len(split.validation),
        "test": len(split.test),
    }


def draw(confusion: np.ndarray, title: str) -> bytes:
    """The confusion matrix as a picture (PNG)."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.sqrt(confusion), cmap="Blues")
    for (digit, read), count in np.ndenumerate(confusion):
        if count:
            color = "white" if digit == read else "black"
            axes.text(read, digit, str(count), ha="center", va="center", color=color)
    axes.set(title=title, xlabel="read as", ylabel="digit", xticks=range(10), yticks=range(10))
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()


def folder_of_run(job: Job) -> Path:
    """Where this run leaves its files."""
    here = workflow.current()
    assert here is not None
    folder = Path(job.out).absolute() / here.run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write that takes its place under `path` when it is complete, and not before.

    A step that is killed in the middle is run again, so it must be able to run again.
    """
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)


# -- the workflow -------------------------------------------------------------------------------


def main(
    out: str = "digits-out", min_accuracy: float = 0.95, missing: float = 0.0, seed: int = 0
) -> workflow.Workflow:
    """The training workflow.

    `out`: folder for what is released, one folder a run. `min_accuracy`: on the test images, from
    0 to 1; 0.999 shows what happens to a model that is not good enough. `missing`: share of pixels
    to lose before the data are checked; 0.1 shows what happens to bad data.
    """
    job = initiate.step(Job(out, min_accuracy, missing, seed))
    return check_data.step(job, load_and_split.step(job))
