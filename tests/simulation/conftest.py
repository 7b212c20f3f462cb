"""How one seed of the simulation is lived again."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="live this seed of the simulation only")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int | None:
    """The seed that was asked for on the command line, if any."""
    found: int | None = request.config.getoption("--seed", default=None)
    return found
