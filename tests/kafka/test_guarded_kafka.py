"""Servers that want TLS, a certificate, a password or a token: who has it is let in, who has not is told what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from holdfast import workflow
from holdfast.listeners import KafkaListener
from tests.integration.leftovers import until as wait_until
from tests.kafka.guarded_kafka import PASSWORDS, GuardedKafka, missing_openssl, token
from tests.kafka.reading import Reading, play, until

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
WRONG = "wrong-wrong-wrong"
TOKEN = token()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    if missing := missing_openssl():
        pytest.skip(missing)
    running = GuardedKafka(tmp_path_factory.mktemp("certificates"))
    yield running
    running.close()


@pytest.fixture
def reading(guarded: GuardedKafka, tmp_path: Path) -> Iterator[Callable[..., Reading]]:
    made: list[Reading] = []

    def make(settings: dict[str, Any]) -> Reading:
        made.append(Reading(guarded, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.kv.close()


def written(folder: Path, secret: str) -> dict[str, str]:
    (folder / "secret").write_text(secret + "\n")
    return {"file": str(folder / "secret")}


def own_certificate(guarded: GuardedKafka, folder: Path) -> dict[str, Any]:
    return guarded.with_tls(
        ssl_certfile=guarded.path("client.pem"),
        ssl_keyfile=guarded.path("client.key"),
        ssl_password=written(folder, PASSWORDS["key"]),
    )


class TestWhoIsNotLetIn:
    """What is wrong is said with the connection, the server and what to do, and without the secret."""

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_by_a_wrong_password_or_token_until_the_file_has_the_right_one(
        self, guarded: GuardedKafka, reading: Callable[..., Reading], tmp_path: Path, mechanism: str
    ) -> None:
        wrong, right = (WRONG, PASSWORDS.get(mechanism, TOKEN))
        if mechanism == "OAUTHBEARER":
            wrong = token(valid_s=-3600)

        async def scenario() -> None:
            topic = guarded.make_topic()
            at = reading(guarded.with_sasl(mechanism, written(tmp_path, wrong)))
            at.want(topic)
            async with at.at_work() as source:
                await until(lambda: source.health().last_error)
                said = source.health().last_error
                assert f"'default' to {guarded.broker.addresses['SASL_SSL']} fails" in said
                assert ("Check the token" if mechanism == "OAUTHBEARER" else "refuses the user 'shop'") in said
                assert f"the file {tmp_path / 'secret'}" in said
                assert wrong not in said
                written(tmp_path, right)
                await at.until_begun(topic)
                guarded.produce(topic, [("k", "1")])
                await at.until_events(topic, 1)

        play(scenario)

    @pytest.mark.parametrize(
        ("case", "problem", "fix"),
        [
            ("stranger", "certificate is not accepted: unable to get local issuer", "as ssl_cafile"),
            ("other name", "certificate is not accepted: Hostname mismatch", "ssl_check_hostname"),
            ("no certificate", "ends the connection|TLS fails", "give ssl_certfile and ssl_keyfile"),
            ("plaintext", "ends the connection", "check security_protocol"),
            ("no SASL", "nobody logs in there", "listener for SASL"),
            ("nobody there", "does not answer", "Check bootstrap_servers"),
        ],
    )
    def test_by_anything_else(
        self,
        guarded: GuardedKafka,
        reading: Callable[..., Reading],
        tmp_path: Path,
        case: str,
        problem: str,
        fix: str,
    ) -> None:
        addresses = guarded.broker.addresses
        settings = {
            "stranger": guarded.with_tls(ssl_cafile=guarded.path("stranger.pem")),
            "other name": guarded.with_tls(bootstrap_servers=addresses["SSL"].replace("127.0.0.1", "localhost")),
            "no certificate": guarded.with_tls(),
            "plaintext": {"bootstrap_servers": addresses["SASL_SSL"]},
            "no SASL": guarded.with_sasl(
                "PLAIN",
                written(tmp_path, PASSWORDS["PLAIN"]),
                bootstrap_servers=addresses["PLAINTEXT"],
                security_protocol="SASL_PLAINTEXT",
                ssl_cafile=None,
            ),
            "nobody there": {"bootstrap_servers": "127.0.0.1:1"},
        }[case]

        async def scenario() -> None:
            at = reading(settings)
            at.want("any")
            async with at.at_work() as source:
                await until(lambda: source.health().last_error)
                said = source.health().last_error
                assert re.search(problem, said), said
                assert fix in said
                assert settings["bootstrap_servers"] in said

        play(scenario)

    def test_a_server_that_refuses_is_named_before_one_that_is_away(
        self, guarded: GuardedKafka, reading: Callable[..., Reading], tmp_path: Path
    ) -> None:
        refusing = guarded.broker.addresses["SASL_SSL"]
        settings = guarded.with_sasl(
            "PLAIN", written(tmp_path, WRONG), bootstrap_servers=f"127.0.0.1:1,{refusing},127.0.0.1:2"
        )

        async def scenario() -> None:
            at = reading(settings)
            at.want("any")
            async with at.at_work() as source:
                await until(lambda: source.health().last_error)
                assert f"'default' to {refusing} fails: it refuses the user" in source.health().last_error

        play(scenario)


def test_the_name_of_the_server_need_not_be_in_its_certificate_when_that_is_said(
    guarded: GuardedKafka, reading: Callable[..., Reading], tmp_path: Path
) -> None:
    address = guarded.broker.addresses["SSL"].replace("127.0.0.1", "localhost")

    async def scenario() -> None:
        topic = guarded.make_topic()
        settings = {**own_certificate(guarded, tmp_path), "bootstrap_servers": address, "ssl_check_hostname": False}
        at = reading(settings)
        at.want(topic)
        async with at.at_work():
            await at.until_begun(topic)

    play(scenario)


@pytest.fixture(scope="module")
def logs() -> Iterator[Path]:
    """A local Ray whose processes have some of the secrets in their environment; the folder of its logs."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SHOP_PLAIN", PASSWORDS["PLAIN"])
        environment.setenv("SHOP_SCRAM", PASSWORDS["SCRAM-SHA-512"])
        context = ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        yield Path(context.address_info["session_dir"]) / "logs"
        ray.shutdown()


@pytest.fixture(scope="module")
def connections(guarded: GuardedKafka, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("tls", "scram256", "oauth", "wrong")}
    return {
        "tls": own_certificate(guarded, folders["tls"]),
        "plain": guarded.with_sasl("PLAIN", {"env": "SHOP_PLAIN"}),
        "scram256": guarded.with_sasl("SCRAM-SHA-256", written(folders["scram256"], PASSWORDS["SCRAM-SHA-256"])),
        "scram512": guarded.with_sasl("SCRAM-SHA-512", {"env": "SHOP_SCRAM"}),
        "oauth": guarded.with_sasl("OAUTHBEARER", written(folders["oauth"], TOKEN)),
        "wrong": guarded.with_sasl("SCRAM-SHA-256", written(folders["wrong"], WRONG)),
    }


@pytest.fixture(scope="module")
def storage(
    logs: Path, connections: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("platform") / "storage"
    workflow.init(str(folder), kafka=connections)
    yield folder
    workflow.shutdown()


@pytest.mark.slow
def test_a_message_comes_by_each_way_and_no_secret_is_left_anywhere(
    guarded: GuardedKafka, storage: Path, logs: Path, connections: dict[str, dict[str, Any]]
) -> None:
    topic = guarded.make_topic()
    values = {
        name: workflow.run_async(
            workflow.wait_for_event(KafkaListener, topic=topic, cluster=name, key=name), workflow_id=name
        )
        for name in connections
    }

    def sources() -> dict[str, Any]:
        return {source.name.split("/")[1]: source for source in workflow.event_sources()}

    def read(name: str) -> bool:
        source = sources().get(name)
        return source is not None and bool(source.partitions)

    wait_until(lambda: all(read(name) for name in connections if name != "wrong"), 120)
    guarded.produce(topic, [(name, f'"by {name}"') for name in connections])
    for name in connections.keys() - {"wrong"}:
        assert ray.get(values[name], timeout=60).value == f"by {name}"

    wait_until(lambda: "wrong" in sources() and sources()["wrong"].last_error)
    refused = sources()["wrong"]
    assert (refused.state, refused.accepted) == ("connecting", 0)
    assert "the Kafka connection 'wrong' to" in refused.last_error
    assert "refuses the user 'shop' (SCRAM-SHA-256). Check sasl_plain_username" in refused.last_error

    secrets = {WRONG, TOKEN, *PASSWORDS.values()}
    stored = _bytes_below(storage)
    assert b"SHOP_PLAIN" in stored, "the references are not where they are looked for"
    assert [secret for secret in secrets if secret.encode() in stored] == []
    said = _bytes_below(logs)
    assert b"refuses the user 'shop'" in said, "the logs are not where they are looked for"
    assert [secret for secret in secrets if secret.encode() in said] == []

    # Whoever mends the file need tell nobody: what was waited for all the time comes.
    Path(connections["wrong"]["sasl_plain_password"]["file"]).write_text(PASSWORDS["SCRAM-SHA-256"])
    assert ray.get(values["wrong"], timeout=60).value == "by wrong"


def _bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
