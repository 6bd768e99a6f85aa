"""What drives the browser is installed apart: by make check, and not by make test."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("playwright") else ["test_page.py"]
