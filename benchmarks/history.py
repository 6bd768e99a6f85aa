"""The cost of the history: the same requests with and without it."""

from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.baseline import BATCHES
from benchmarks.client import Client
from benchmarks.database import create_fleets, postgres
from benchmarks.measure import Sample, measure_interleaved, over_http
from bulk_metadata.db.history.settings import enable_history
from tests.support.service import run_service

WITHOUT, WITH = "without history", "with history"


def measure_history(
    devices: int, rounds: int, directory: Path
) -> dict[int, dict[str, Sample]]:
    """Measure requests of one and of many devices on two equal servers, interleaved."""
    with ExitStack() as stack:
        subjects = {}
        for name in (WITHOUT, WITH):
            server = stack.enter_context(postgres())
            [fleet] = create_fleets(server, (devices,))
            if name == WITH:
                with closing(server.connect()) as owner:
                    owner.autocommit = False
                    with owner, owner.cursor() as cursor:
                        enable_history(cursor)
            log = directory / f"{name}.log"
            service = stack.enter_context(
                run_service(log, DATABASE_URL=server.service_url)
            )
            client = stack.enter_context(Client(service.port, fleet.key))
            subjects[name] = over_http(client)
        # Both fleets contain the same identifiers.
        return {
            batch: measure_interleaved(subjects, fleet, batch, rounds)
            for batch in (BATCHES[0], BATCHES[-1])
        }
