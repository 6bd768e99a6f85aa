"""The history on a Citus cluster."""

import pytest

from tests.commands.conftest import *  # noqa: F403
from tests.commands.test_history import *  # noqa: F403
from tests.commands.test_history_model import *  # noqa: F403

pytestmark = pytest.mark.slow(reason="each statement of the model is on several nodes")
