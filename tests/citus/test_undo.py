"""Undo on a Citus cluster."""

from tests.commands.conftest import *  # noqa: F403
from tests.commands.test_undo import *  # noqa: F403

# Citus cannot change the organization of a device.
del test_change_in_another_organization_is_skipped  # noqa: F821
