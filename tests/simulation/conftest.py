"""How one seed of the simulation is lived again, and quietly."""

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="live this seed of the simulation only")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int | None:
    """The seed that was asked for on the command line, if any."""
    found: int | None = request.config.getoption("--seed", default=None)
    return found


@pytest.fixture(autouse=True)
def quiet_engines() -> Iterator[None]:
    """Troubles are what the simulation is made of: engines need not warn of each."""
    log = logging.getLogger("weftline.engine")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)
