"""Only make check and make soak install the dependencies of the benchmark."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("matplotlib") else ["test_benchmarks.py"]
