"""Undo on a Citus cluster."""

from tests.commands.conftest import *  # noqa: F403
from tests.commands.test_undo import *  # noqa: F403
