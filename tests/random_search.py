"""The size and the seed of random searches. ``make soak`` sets both; other runs always
search the same small part, so that no change fails by chance."""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("SOAK_FACTOR") or 1)
SEED = int(os.environ.get("SOAK_SEED") or 0)

settings.register_profile(
    "tests",
    max_examples=100 * FACTOR,
    derandomize=FACTOR == 1,
    database=None,
    deadline=None,
    # All examples of a test share its fixtures, and some are slow.
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("tests")


def examples(number: int) -> settings:
    """Return the settings for ``number`` examples outside of ``make soak``."""
    return settings(max_examples=number * FACTOR)
