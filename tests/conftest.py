"""What every test relies on."""

from hypothesis import HealthCheck, settings

# The same examples on every machine and in every run, and nothing that depends on its speed:
# a test that fails once fails always.
settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")
