"""A real Apache Kafka on this machine: one KRaft node on free loopback ports.

For tests, and for people: `make kafka` runs it as a script. Needs Java 17 and Maven; the first start
downloads the server through Maven, and the class path is remembered under `.kafka/`. Nothing of Holdfast is
used here, and nothing outlives a `Broker` that was closed: neither a process nor a file.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_HERE = Path(__file__).resolve().parent
_CACHE = _HERE.parents[1] / ".kafka"
_RESOLVING_S = 600.0
_STARTING_S = 120.0
_STOPPING_S = 20.0
_LOOK_EVERY_S = 0.05
# A node for tests lives for minutes: quick to start is worth more than quick in the long run.
_JAVA_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


class BrokerError(RuntimeError):
    """The broker cannot be had; says what to do."""


def missing_tools() -> str:
    """What a broker needs and is not on this machine, for a message; empty when all is there."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found" if missing else ""


def why_none() -> str:
    """Why no broker can be had here, for a message; empty when one can. Gets what it needs, the first time."""
    try:
        class_path()
    except BrokerError as error:
        return str(error)
    return ""


def class_path(cache: Path = _CACHE) -> str:
    """The server's class path, resolved by Maven when it is not known yet.

    Args:
        cache: The folder that remembers it.

    Raises:
        BrokerError: Java or Maven are missing, or the download failed.
    """
    pom = _HERE / "pom.xml"
    known = cache / f"class-path-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if known.exists():
        found = known.read_text().strip()
        if found and all(os.path.exists(entry) for entry in found.split(os.pathsep)):
            return found
    if missing := missing_tools():
        raise BrokerError(f"{missing}: install a Java 17 runtime and Maven to have a real Kafka.")
    cache.mkdir(parents=True, exist_ok=True)
    # Written under another name first: two may do this at once, and one may be interrupted.
    fresh = cache / f"fresh-{uuid.uuid4().hex}"
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={fresh}"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_RESOLVING_S, check=False)
        if ran.returncode != 0:
            raise BrokerError(f"Maven could not resolve {pom}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        fresh.replace(known)
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"Maven has not resolved {pom} in {_RESOLVING_S:g} s. Run this again to go on.") from error
    finally:
        fresh.unlink(missing_ok=True)
    return known.read_text().strip()


class Broker:
    """A single node with a folder of its own, which is removed with it.

    Args:
        auto_create_topics: Whether writing to a topic, or asking for it, makes it.
        protocols: What is spoken on further ports, as SSL or SASL_SSL; `settings` say with which certificates and
            users.
        settings: More lines of `server.properties`, which win.
        format_options: More options of `kafka-storage format`, as `--add-scram`.
    """

    def __init__(
        self,
        *,
        auto_create_topics: bool = False,
        protocols: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
    ) -> None:
        self._class_path = class_path()
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-kafka-"))
        self.port, controller_port, *ports = _free_ports(2 + len(protocols))
        self._process: subprocess.Popen[bytes] | None = None
        self.addresses = {
            protocol: f"127.0.0.1:{port}"
            for protocol, port in zip(("PLAINTEXT", *protocols), (self.port, *ports), strict=True)
        }
        advertised = ",".join(f"{protocol}://{address}" for protocol, address in self.addresses.items())
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"{advertised},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": advertised,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(
                ("CONTROLLER:PLAINTEXT", *(f"{protocol}:{protocol}" for protocol in self.addresses))
            ),
            "log.dirs": str(self.folder / "logs"),
            "auto.create.topics.enable": str(auto_create_topics).lower(),
            # One node: nothing can have a second copy.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.segment.delete.delay.ms": "1000",
            "log.initial.task.delay.ms": "1000",
            "log.retention.check.interval.ms": "1000",
            # A node that was killed comes back only when its last session is over.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "400",
            **(settings or {}),
        }
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        try:
            self._format(format_options)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect to: host and port, the same after a restart. `addresses` has those of `protocols`."""
        return self.addresses["PLAINTEXT"]

    @property
    def pid(self) -> int | None:
        """The server's process; None when it does not run."""
        return None if self._process is None else self._process.pid

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers a request; again: no effect.

        Raises:
            BrokerError: It ended, or did not answer in time; shows the end of its log.
        """
        if self.alive():
            return
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # Ctrl-C is for the script, which then stops this one in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + _STARTING_S
        while not _answers(self.port):
            if not self.alive() or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"Kafka did not start:\n{self.log()[-3000:]}")
            time.sleep(_LOOK_EVERY_S)

    def stop(self) -> None:
        """Ask the server to end, and end it when it takes too long. It can be started again."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash does. It can be started again."""
        self._end(signal.SIGKILL)

    def restart(self, *, crash: bool = False) -> None:
        """Stop (or kill) the server, and start it on the same port and folder."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its folder; again: no effect."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What the server has said."""
        log = self.folder / "server.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(by)
        try:
            process.wait(timeout=_STOPPING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _format(self, options: Sequence[str]) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # A leading dash would be taken for an option.
        command = self._java(
            "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(self._properties), *options
        )
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_STARTING_S, check=False)
        if ran.returncode != 0:
            raise BrokerError(f"the folder of Kafka could not be made:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        log_settings = f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}"
        return ["java", *_JAVA_OPTIONS, log_settings, "-cp", self._class_path, main, *arguments]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def _answers(port: int) -> bool:
    """Whether a server there answers a metadata request (version 1, about no topic) with at least one node."""
    name = b"holdfast"
    body = struct.pack(">hhih", 3, 1, 1, len(name)) + name + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as stream:
                header = stream.read(12)
    except OSError:
        return False
    return len(header) == 12 and struct.unpack(">iii", header)[2] > 0


def main() -> None:
    """Run one until Ctrl-C, for `make kafka`."""
    parser = argparse.ArgumentParser(description="Run a single Kafka node on free loopback ports until Ctrl-C.")
    parser.add_argument("--no-auto-create", action="store_true", help="topics must be made before they are used")
    parser.add_argument("--download", action="store_true", help="only get what is needed, if Java and Maven are there")
    given = parser.parse_args()
    if given.download:
        problem = why_none()
        if problem:
            print(f"No real Kafka on this machine: {problem}")
        return
    # A stop from outside takes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("Starting Kafka (the first time, Maven downloads it) ...", flush=True)
    try:
        with Broker(auto_create_topics=not given.no_auto_create) as broker:
            print(f"Kafka answers at {broker.bootstrap_servers} (process {broker.pid}). To use it:", flush=True)
            print(f"    export KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap_servers}", flush=True)
            print("Ctrl-C ends it and removes its data.", flush=True)
            while broker.alive():
                time.sleep(0.5)
            print(f"Kafka has ended by itself:\n{broker.log()[-3000:]}", file=sys.stderr)
            sys.exit(1)
    except BrokerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
