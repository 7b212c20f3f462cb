"""How hard to try a step, and where it may run."""

from msgspec import Struct


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How hard to try: retries, back-off, time-out, and whether a failure is a value.

    `tries` counts every try (the first one too). The wait before try n+1 is
    `retry_delay_s * retry_backoff ** (n - 1)`, made longer by a random share of up to
    `retry_jitter`. With `retry_selected` only failures that the child reported as matching the
    step's `retry_on` are tried again. Without `checkpoint` a large result need not survive a crash
    (None: as the step that returned this one; True at the top). With `inplace` the step, when
    another one returns it, is carried out by the process that carried out that one.
    """

    tries: int = 1
    retry_delay_s: float = 0.0
    retry_backoff: float = 1.0
    retry_jitter: float = 0.0
    retry_selected: bool = False
    timeout_s: float | None = None
    catch: bool = False
    checkpoint: bool | None = None
    inplace: bool = False

    def delay_s(self, tried: int, luck: float) -> float:
        """Seconds to wait after `tried` tries; `luck` in [0, 1) is the random share."""
        if not self.retry_delay_s:
            return 0.0
        try:
            wait = self.retry_delay_s * self.retry_backoff ** (tried - 1)
        except OverflowError:
            wait = MAX_DELAY_S
        return min(wait * (1.0 + self.retry_jitter * luck), MAX_DELAY_S)


MAX_DELAY_S = 30 * 24 * 3600.0
"""No retry waits longer than a month, whatever the back-off grows to."""


class Placement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a step may run and what it occupies while it does.

    `resources` and `env_vars` are sorted pairs, so that a placement can be a key. `memory` is the
    most that its processes may have resident together, in bytes; 0 is no limit.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: tuple[tuple[str, float], ...] = ()
    env_vars: tuple[tuple[str, str], ...] = ()
    memory: int = 0


DEFAULT_POLICY = Policy()
DEFAULT_PLACEMENT = Placement()
