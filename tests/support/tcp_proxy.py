"""A network between the service and PostgreSQL that can drop or delay messages."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class ProxiedConnection:
    """A connection of a client to the proxy, and one of the proxy to the server.

    From some message on, it can hold back the data to the server.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        # The port of the connection, as PostgreSQL sees it.
        self.port: int = server.getsockname()[1]
        self.held = b""
        # Data from the server, since data has been held back.
        self.response = b""

    @property
    def deadline(self) -> float:
        """Server time after which the held statement must have no effect."""
        guards = rb"(?:to_timestamp|EXECUTE guard_update )\(([\d.]+)"
        [deadline] = re.findall(guards, self.held)
        return float(deadline)

    def reset_client(self) -> None:
        """Break the connection of the client, while the server's stays open."""
        self.client.shutdown(socket.SHUT_RDWR)

    def deliver(self) -> None:
        """Send the held data to the server."""
        # The server may have closed the connection.
        with suppress(OSError):
            self.server.sendall(self.held)


class TcpProxy:
    """A proxy from ``port`` to ``target``, both on 127.0.0.1.

    A connection that has lost a byte stays silent: a TCP stream cannot skip bytes.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._blocks = threading.Event()
        self._pattern: bytes | None = None
        # Connections that hold back data.
        self.held: list[ProxiedConnection] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        spawn(self._accept)

    def block(self) -> None:
        """Accept connections, and drop all data in both directions."""
        self._blocks.set()

    def unblock(self) -> None:
        """Forward the data of connections that have lost nothing."""
        self._blocks.clear()

    def hold(self, pattern: bytes) -> None:
        """Hold back the next data to the server that contains ``pattern``, and all
        later data of its connection."""
        self._pattern = pattern

    def close(self) -> None:
        for each in list(self._sockets):
            # Closing alone does not end a wait in another thread.
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
                connection = ProxiedConnection(client, server)
                spawn(self._forward, client, server, self._hold, connection)
                spawn(self._forward, server, client, self._record, connection)

    def _forward(
        self,
        source: socket.socket,
        sink: socket.socket,
        intercept: Callable[[ProxiedConnection, bytes], bool],
        connection: ProxiedConnection,
    ) -> None:
        is_lost = False
        # Either side may disconnect.
        with suppress(OSError):
            while data := source.recv(65536):
                is_lost = is_lost or self._blocks.is_set()
                if not is_lost and not intercept(connection, data):
                    sink.sendall(data)
            if not self._blocks.is_set() and not intercept(connection, b""):
                sink.shutdown(socket.SHUT_WR)

    def _hold(self, connection: ProxiedConnection, data: bytes) -> bool:
        """Hold back data to the server. Return whether this connection does."""
        if self._pattern and self._pattern in data:
            self._pattern = None
            connection.held = data
            self.held.append(connection)
        elif connection.held:
            connection.held += data
        return bool(connection.held)

    def _record(self, connection: ProxiedConnection, data: bytes) -> bool:
        """Record data from the server, which the client may not receive any longer."""
        if connection.held:
            connection.response += data
        return bool(connection.held)


def spawn(function: Callable[..., None], *arguments: object) -> None:
    """Run ``function`` in a daemon thread."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


@contextmanager
def tcp_proxy(target: int) -> Iterator[TcpProxy]:
    proxy = TcpProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
