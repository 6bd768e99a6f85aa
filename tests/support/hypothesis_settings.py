"""How long the fuzz tests search, and from where, which ``make fuzz`` decides."""

import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, seed, settings

# A short run is the same every time, so that nobody's change fails by bad luck. A long
# one starts somewhere else each time.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

SENT = itertools.count(1)

Test = TypeVar("Test", bound=Callable[..., Any])


def fuzz(test: Test, examples: int = EXAMPLES) -> Test:
    """Let hypothesis run ``test`` as often and from where it was told."""
    limited = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        # All examples of a test share its organizations, and some are slow: on purpose.
        suppress_health_check=list(HealthCheck),
    )(test)
    seeded: Test = seed(SEED)(limited)
    return seeded


def show_progress() -> None:
    """Print how many examples there have been, now and then in a long run."""
    if (sent := next(SENT)) % 1000 == 0:
        print(f"  {sent} examples", flush=True)
