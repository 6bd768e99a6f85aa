"""A network between the service and its database: one that can swallow everything."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Forwards what comes to ``port`` of 127.0.0.1 to another port, until it is told to
    swallow: then it still accepts, and nothing arrives any more, in neither direction.

    A connection that has lost a byte never gets another one through, as in a stream
    that cannot be resumed; new ones do as soon as the relay forwards again.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._swallows = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        spawn(self._accept)

    def swallow(self) -> None:
        self._swallows.set()

    def forward(self) -> None:
        self._swallows.clear()

    def close(self) -> None:
        for each in list(self._sockets):
            # Shut down first: closing alone does not wake who waits on it.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        # Until the listener is closed.
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                spawn(self._pump, client, server)
                spawn(self._pump, server, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        lost = False
        # Either side may hang up.
        with suppress(OSError):
            while data := source.recv(65536):
                lost = lost or self._swallows.is_set()
                if not lost:
                    sink.sendall(data)
            if not self._swallows.is_set():
                sink.shutdown(socket.SHUT_WR)


def spawn(function: Callable[..., None], *arguments: object) -> None:
    """Run ``function`` in a thread that keeps nobody from ending."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()
