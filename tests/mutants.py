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
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import Queue
from pathlib import Path

import pytest
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from bulk_metadata.demo.embedded import embedded_postgres

ROOT = Path(__file__).parents[1]

# The tests of each module, the most specific first.
TESTS = {
    "core/api_key.py": "core api/test_authentication.py commands/test_accounts.py",
    "core/jsonb.py": "core api/test_validation.py",
    "db/queries.py": "api/test_update.py api/test_dry_run.py db/test_pool.py",
    "api/request.py": "api/test_request.py api/test_dry_run.py api/test_update.py",
    "api/validation.py": "api/test_validation.py api/test_request.py",
    "client/journal.py": "client/test_shutdown_and_resume.py client/test_results.py",
    "client/retry.py": "client/test_retries.py client/test_network.py",
    "files/json_*.py": "files/test_json_body.py files client/test_check.py",
    "files/ndjson.py": "files/test_ndjson.py files",
    "files/[tcr]*.py": "files/test_table.py files client/test_check.py",
    "files/[ads]*.py": "files client/test_check.py",
}

# One replacement for each operator. The others lead to the same survivors.
REPLACEMENTS = {
    "Binary": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul BitOr_BitAnd "
    "BitAnd_BitOr LShift_RShift RShift_LShift Pow_Mul",
    "Comparison": "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Is_IsNot IsNot_Is",
}
OPERATORS = {
    f"core/Replace{kind}Operator_{name}"
    for kind, names in REPLACEMENTS.items()
    for name in names.split()
}

# Imported before the fork. Everything of the project is imported after it.
LIBRARIES = """
    click docker flask gunicorn hypothesis marshmallow msgspec prometheus_client psutil
    psycopg2 requests rich.progress schemathesis tenacity
    testcontainers.community.postgres urllib3 xdist.scheduler
"""

# pytest cannot rewrite the assertions of libraries that are already imported.
IGNORE = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]

# Seconds. A mutant may cause an endless loop.
TIMEOUT = 180
# Seconds of the whole run. Mutants are tested in random order until then.
BUDGET = 60 * float(os.environ.get("MUTANTS_MINUTES") or 25)
SEED = int(os.environ.get("MUTANTS_SEED") or 0)

# Mutants that no test can detect: module, line and replacement, with the reason.
EQUIVALENT: dict[tuple[str, str, str], str] = {}

Mutant = tuple[str, str, str, str, str]


def mutants() -> Iterator[Mutant]:
    """Yield module, tests, text, and the changed line before and after."""
    for pattern, tests in TESTS.items():
        for path in sorted((ROOT / "bulk_metadata").glob(pattern)):
            text = path.read_text()
            for item in _all_work_items([path], {}):
                [mutation] = item.mutations
                name = mutation.operator_name
                if has_variants(name) and name not in OPERATORS:
                    continue
                operator = get_operator(name)(**mutation.operator_args)
                try:
                    changed = mutate_code(text, operator, mutation.occurrence)
                except AttributeError:  # cosmic-ray fails for ``except module.Error``
                    continue
                if changed is None or changed == text:
                    continue
                pair = zip(text.splitlines(), changed.splitlines(), strict=False)
                before, after = next((a, b) for a, b in pair if a != b)
                if is_annotation(before, after):
                    continue
                module = str(path.relative_to(ROOT))
                yield module, tests, changed, before.strip(), after.strip()


def has_variants(operator: str) -> bool:
    return operator.startswith(("core/ReplaceBinary", "core/ReplaceComparison"))


def is_annotation(before: str, after: str) -> bool:
    """Return whether the change is in a type, like ``str | None``."""
    return bool(re.search(r"\w\]? \| \w", before)) and "|" not in after


def create_project(stack: ExitStack) -> tuple[Path, str]:
    """Copy the project and start a server. Return its directory and its URL."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in files:
        target = directory / "project" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    url = stack.enter_context(embedded_postgres(directory / "postgres"))
    return directory / "project", url


def prepare_process(projects: "Queue[tuple[Path, str]]") -> None:
    """Use one of the projects in a process of the pool, and import the libraries."""
    project, os.environ["TEST_DATABASE_URL"] = projects.get()
    for name in LIBRARIES.split():
        importlib.import_module(name)
    # The tests import the modules of the copy.
    sys.path[:] = [path for path in sys.path if Path(path) != ROOT]
    for name in list(sys.modules):
        if name.split(".")[0] in ("bulk_metadata", "tests"):
            del sys.modules[name]
    os.chdir(project)


def survives(mutant: Mutant) -> bool:
    """Return whether all tests pass with the mutant."""
    module, tests, changed, *_ = mutant
    file = Path(module)
    original = file.read_text()
    # Python compares only size and seconds.
    for cached in file.parent.glob(f"__pycache__/{file.stem}.*"):
        cached.unlink()
    file.write_text(changed)
    try:
        return pass_tests(tests)
    finally:
        file.write_text(original)


def pass_tests(tests: str) -> bool:
    child = os.fork()
    if child == 0:
        os.setsid()
        run_tests(tests)
    end = time.monotonic() + TIMEOUT
    pid = status = 0
    while not pid and time.monotonic() < end:
        time.sleep(0.02)
        pid, status = os.waitpid(child, os.WNOHANG)
    # End the processes that the tests have started, too.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not pid:
        os.waitpid(child, 0)
    return pid != 0 and status == 0


def run_tests(tests: str) -> None:
    """Run the tests in this process and exit."""
    sys.path.insert(0, os.getcwd())
    output = os.open("output", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    paths = [f"tests/{path}" for path in tests.split()]
    code = 1
    try:
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *IGNORE, *paths])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def main() -> int:
    found = [mutant for mutant in mutants() if "".join(sys.argv[1:]) in mutant[0]]
    random.Random(SEED).shuffle(found)
    workers = os.cpu_count() or 1
    survivors: list[Mutant] = []
    tested = 0

    with ExitStack() as stack:
        projects: Queue[tuple[Path, str]] = Queue()
        for _ in range(workers):
            projects.put(create_project(stack))
        pool = stack.enter_context(
            ProcessPoolExecutor(
                workers, initializer=prepare_process, initargs=(projects,)
            )
        )
        threads = stack.enter_context(ThreadPoolExecutor(workers))

        def check_tests(module: str, tests: str) -> None:
            unchanged = (module, tests, (ROOT / module).read_text(), "", "")
            if not pool.submit(survives, unchanged).result():
                sys.exit(f"The tests fail without a mutant: {tests}")

        lists = {tests: module for module, tests, *_ in found}
        list(threads.map(check_tests, lists.values(), lists))
        end = time.monotonic() + BUDGET

        def test(mutant: Mutant) -> None:
            nonlocal tested
            if time.monotonic() > end:
                return
            if pool.submit(survives, mutant).result():
                survivors.append(mutant)
            tested += 1
            print(f"\r{tested} of {len(found)}, {len(survivors)} survived", end="")

        list(threads.map(test, found))

    equivalent = [m for m in survivors if (m[0], m[3], m[4]) in EQUIVALENT]
    for module, _, _, before, after in sorted(set(survivors) - set(equivalent)):
        print(f"\n{module}\n  - {before}\n  + {after}", end="")
    tested -= len(equivalent)
    score = 100 - 100 * (len(survivors) - len(equivalent)) / tested
    print(f"\n{tested} of {len(found)} mutants tested, {len(equivalent)} equivalent.")
    print(f"Score: {score:.1f} %")
    return int(score < 90)


if __name__ == "__main__":
    sys.exit(main())
