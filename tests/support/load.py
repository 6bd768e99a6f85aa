"""Clients that keep their connections, a load of them, and a bounded way to wait."""

import http.client
import json
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from psycopg2.extensions import cursor as Cursor

from tests.support.cluster import Cluster
from tests.support.service import PATH, Answer, Service
from tests.support.waiting import TIMEOUT, wait_until


class Client:
    """A client as fleet tools are: call after call on one connection."""

    def __init__(self, service: Service, key: str) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", service.port, timeout=TIMEOUT
        )
        self.headers = {"x-api-key": key}

    def post(self, devices: object) -> Answer:
        """Send a call, and never send it again. Raises OSError or HTTPException if no
        answer comes."""
        self.leave_if_closed()
        body = json.dumps({"devices": devices}).encode()
        try:
            self.connection.request("POST", PATH, body, self.headers)
            response = self.connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        except BaseException:
            self.close()
            raise

    def leave_if_closed(self) -> None:
        """Give up a kept connection that has come to its end, as every client looks
        before it sends; the next call opens another."""
        kept = self.connection.sock
        if kept is not None and select.select([kept], [], [], 0)[0]:
            self.close()

    def close(self) -> None:
        self.connection.close()


@contextmanager
def load(step: Callable[[int], object], clients: int) -> Iterator[None]:
    """Let ``clients`` threads call ``step(client's number)`` again and again; in the
    end raise what any of them raised."""
    stop = threading.Event()

    def run(number: int) -> None:
        while not stop.is_set():
            step(number)

    with ThreadPoolExecutor(clients) as executor:
        futures = [executor.submit(run, number) for number in range(clients)]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


def workers(service: Service) -> dict[int, psutil.Process]:
    """Return gunicorn's living workers, by process id."""
    found = {}
    for child in psutil.Process(service.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it ended just now
            if child.status() != psutil.STATUS_ZOMBIE:
                found[child.pid] = child
    return found


def reload(service: Service) -> None:
    """Have gunicorn replace its workers, and wait until the old ones are gone."""
    old = set(workers(service))
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: old.isdisjoint(workers(service)), "the old workers to end")


def backends(cursor: Cursor, condition: str = "true") -> dict[int, int]:
    """Return the process ids of the service's backends, by the port they talk to."""
    cursor.execute(
        "SELECT client_port, pid FROM pg_stat_activity"
        f" WHERE application_name = 'bulk-metadata' AND {condition}"
    )
    return dict(cursor.fetchall())


def ports(process: psutil.Process, server: Cluster) -> set[int]:
    """Return the ports from which ``process`` has connections to ``server``."""
    return {
        connection.laddr.port
        for connection in process.net_connections("tcp")
        if connection.raddr and connection.raddr.port == server.port
    }


def devices(numbers: Iterable[int], metadata: Any = None) -> dict[str, Any]:
    """Return what a call sends to set the same metadata on devices."""
    return {f"SN-{number}": metadata or {"a": 1} for number in numbers}
