"""Mutation testing of the core modules: ``make mutants``, or ``python -m tests.mutants
client`` for the modules whose path contains a text.

Each mutant is one change of a module, which at least one test must detect. A forked
process runs the tests of the module, so that the libraries are imported only once.
"""

import importlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from bulk_metadata.demo.embedded import embedded_postgres

ROOT = Path(__file__).parents[1]

NAMES = "ndjson json_body source cells file_types table"
FILES = " ".join(f"files/test_{name}.py" for name in NAMES.split())

# The tests of each module, the most specific first.
TESTS = {
    "core/api_key.py": "core api/test_authentication.py commands/test_accounts.py",
    "core/jsonb.py": "core api/test_validation.py",
    "db/queries.py": "api/test_update.py api/test_dry_run_rollback.py "
    "api/test_request.py",
    "api/request.py": "api/test_request.py api/test_dry_run.py api/test_update.py",
    "api/validation.py": "api/test_validation.py api/test_request.py",
    "client/journal.py": "client/test_journal.py client/test_shutdown_and_resume.py",
    "client/retry.py": "client/test_retry_policy.py client/test_retries.py",
    "files/json_*.py": f"files/test_json_body.py {FILES}",
    "files/ndjson.py": f"files/test_ndjson.py {FILES}",
    "files/[ct]*.py": f"files/test_table.py files/test_cells.py {FILES}",
    "files/ro*.py": f"files/test_table.py files/test_cells.py {FILES}",
    "files/[fs]*.py": f"files/test_source.py files/test_file_types.py {FILES} "
    "client/test_check.py",
    "files/re*.py": f"files/test_ndjson.py {FILES} files/test_formats.py",
    "files/device.py": f"{FILES} client/test_check.py",
}

# Of the replacements of an operator, one. The others lead to the same survivors.
OPERATORS = re.compile(
    r"core/(?!ReplaceBinary|ReplaceComparison)|core/Replace\w+Operator_"
    "(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitOr_BitAnd|"
    "BitAnd_BitOr|LShift_RShift|RShift_LShift|Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|"
    "GtE_Gt|Is_IsNot|IsNot_Is)$"
)

# Imported before the fork. Everything of the project is imported after it.
LIBRARIES = """
    click docker flask gunicorn hypothesis marshmallow msgspec prometheus_client psutil
    psycopg2 requests rich.progress schemathesis tenacity
    testcontainers.community.postgres urllib3 xdist.scheduler
"""

# pytest cannot rewrite the assertions of libraries that are already imported.
OPTIONS = "-x -q -p no:cacheprovider -W ignore::pytest.PytestAssertRewriteWarning"

# Seconds. A mutant may cause an endless loop.
TIMEOUT = 120
# Seconds of the whole run. Mutants are tested in random order until then.
BUDGET = 60 * float(os.environ.get("MUTANTS_MINUTES") or 25)
SEED = int(os.environ.get("MUTANTS_SEED") or 0)

# Mutants that no test can detect: module and changed line.
EQUIVALENT = (ROOT / "tests" / "mutants-equivalent.txt").read_text().splitlines()


class Mutant(NamedTuple):
    """A module with a change, and its tests."""

    module: str
    tests: str
    original: str
    text: str

    @property
    def change(self) -> tuple[str, str]:
        """The line before and after the change."""
        lines = zip(self.original.splitlines(), self.text.splitlines(), strict=False)
        return next((a.strip(), b.strip()) for a, b in lines if a != b)


class Project(NamedTuple):
    """A copy of the project, and its server."""

    directory: Path
    server_url: str

    def write(self, module: str, text: str) -> None:
        path = self.directory / "bulk_metadata" / module
        path.write_text(text)
        # Python compares only size and seconds.
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*"):
            cached.unlink()


def mutants(part: str) -> Iterator[Mutant]:
    """Yield the mutants of the modules whose path contains ``part``."""
    for pattern, tests in TESTS.items():
        package = ROOT / "bulk_metadata"
        for path in sorted(package.glob(pattern)):
            module, original = str(path.relative_to(package)), path.read_text()
            if part not in module:
                continue
            for text in changes(path, original):
                mutant = Mutant(module, tests, original, text)
                before, after = mutant.change
                # Not a type like ``str | None``, nor the * before keyword arguments.
                is_type = re.search(r"\w\]? \| \w", before) and "|" not in after
                if not is_type and not re.search(r"(^| )/,", after):
                    yield mutant


def changes(path: Path, original: str) -> Iterator[str]:
    """Yield the texts of a module that differ in one operator, number, or keyword."""
    for item in _all_work_items([path], {}):
        [mutation] = item.mutations
        if OPERATORS.match(mutation.operator_name):
            operator = get_operator(mutation.operator_name)(**mutation.operator_args)
            with suppress(AttributeError):  # cosmic-ray fails for some exceptions
                text = mutate_code(original, operator, mutation.occurrence)
                if text not in (None, original):
                    yield text


def create_project(stack: ExitStack) -> Project:
    """Copy the project and start a server."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in files:
        target = directory / "project" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    url = stack.enter_context(embedded_postgres(directory / "postgres"))
    return Project(directory / "project", url)


def start_tests(mutant: Mutant, project: Project) -> int:
    """Test the mutant in a child process. Return its ID."""
    project.write(mutant.module, mutant.text)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = run_tests(mutant.tests, project)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def run_tests(tests: str, project: Project) -> int:
    os.setsid()
    signal.alarm(TIMEOUT)
    os.chdir(project.directory)
    os.environ["TEST_DATABASE_URL"] = project.server_url
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # The tests import the modules of the copy.
    sys.path[:] = [os.getcwd(), *(path for path in sys.path if Path(path) != ROOT)]
    for name in list(sys.modules):
        if name.split(".")[0] in ("bulk_metadata", "tests"):
            del sys.modules[name]
    paths = [f"tests/{path}" for path in tests.split()]
    return int(pytest.main([*OPTIONS.split(), *paths]))


def survivors(queue: list[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Yield each tested mutant, and whether all tests passed."""
    end = time.monotonic() + BUDGET
    running: dict[int, tuple[Mutant, Project]] = {}
    with ExitStack() as stack:
        # Tests spend half of their time waiting.
        projects = [create_project(stack) for _ in range(2 * (os.cpu_count() or 1))]
        while True:
            while projects and queue and time.monotonic() < end:
                mutant, project = queue.pop(), projects.pop()
                running[start_tests(mutant, project)] = mutant, project
            if not running:
                return
            process, status = os.wait()
            mutant, project = running.pop(process)
            # Terminate the processes that the tests have started, too.
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            project.write(mutant.module, mutant.original)
            projects.append(project)
            yield mutant, status == 0


def main() -> int:
    found = list(mutants("".join(sys.argv[1:])))
    random.Random(SEED).shuffle(found)
    for name in LIBRARIES.split():
        importlib.import_module(name)
    # Without a change, the tests must pass.
    unchanged = {m.tests: m._replace(text=m.original) for m in found}
    survived, killed, equivalent = [], 0, 0
    for mutant, passed in survivors([*found, *unchanged.values()]):
        if mutant.text == mutant.original:
            if not passed:
                sys.exit(f"The tests fail without a mutant: {mutant.tests}")
        elif not passed:
            killed += 1
        elif f"{mutant.module}: {mutant.change[1]}" in EQUIVALENT:
            equivalent += 1
        else:
            survived.append((mutant.module, *mutant.change))
        print(f"\r{killed} killed, {len(survived)} survived", end="")
    for module, before, after in sorted(survived):
        print(f"\n{module}\n  - {before}\n  + {after}", end="")
    tested = killed + len(survived)
    score = 100 * killed / tested
    print(f"\n{tested} of {len(found)} mutants tested, {equivalent} equivalent.")
    print(f"Score: {score:.1f} %")
    return int(score < 90)


if __name__ == "__main__":
    sys.exit(main())
