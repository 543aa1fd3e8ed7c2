"""A Kafka that wants to be spoken to with TLS, and to know who speaks; and what opens it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from deploy.kafka.broker import Broker
from tests.kafka.running_kafka import RunningKafka

USER = "shop"
# Each way its own, so that one that turns up where it should not can be told.
PASSWORDS = {
    "PLAIN": "plain-correct-horse",
    "SCRAM-SHA-256": "scram256-battery-staple",
    "SCRAM-SHA-512": "scram512-tape-measure",
    "key": "key-of-the-key",
}
_MODULES = "org.apache.kafka.common.security"


class GuardedKafka(RunningKafka):
    """One node with a port for TLS that wants a certificate of ours, and one for SASL over TLS.

    Args:
        folder: For certificates and keys.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = self._authority("authority")
        self._authority("stranger")
        self._certificate("server", authority, "subjectAltName=IP:127.0.0.1")
        self._certificate("client", authority, "subjectAltName=DNS:client")
        self._lock_key("client")
        both = (folder / "server.key").read_text() + (folder / "server.pem").read_text()
        (folder / "server-both.pem").write_text(both)
        on_sasl = "listener.name.sasl_ssl"
        settings = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server-both.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{on_sasl}.plain.sasl.jaas.config": (
                f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORDS["PLAIN"]}";'
            ),
            # Tokens of which nobody has to be asked, which is for tests alone.
            f"{on_sasl}.oauthbearer.sasl.jaas.config": (
                f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="server";'
            ),
        }
        users = []
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            module = f"{_MODULES}.scram.ScramLoginModule required;"
            settings[f"{on_sasl}.{mechanism.lower()}.sasl.jaas.config"] = module
            users += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORDS[mechanism]}]"]
        super().__init__(Broker(protocols=("SSL", "SASL_SSL"), settings=settings, format_options=users))

    def path(self, name: str) -> str:
        """A certificate or key: `authority.pem`, `stranger.pem`, `client.pem`, `client.key` (which has a password)."""
        return str(self._folder / name)

    def with_tls(self, **more: Any) -> dict[str, Any]:
        """Settings of a connection by TLS, without a certificate of ours."""
        return self._settings_of("SSL", **more)

    def with_sasl(self, mechanism: str, secret: dict[str, str], **more: Any) -> dict[str, Any]:
        """Settings of a connection by SASL over TLS.

        Args:
            mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
            secret: Where the password or the token is.
            **more: Settings that win.
        """
        who = {"sasl_plain_username": USER, "sasl_plain_password": secret}
        if mechanism == "OAUTHBEARER":
            who = {"sasl_oauth_token": secret}
        return self._settings_of("SASL_SSL", sasl_mechanism=mechanism, **{**who, **more})

    def _settings_of(self, protocol: str, **more: Any) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.broker.addresses[protocol],
            "security_protocol": protocol,
            "ssl_cafile": self.path("authority.pem"),
            "request_timeout_s": 10,
            **more,
        }

    def _authority(self, name: str) -> Path:
        """A certificate that vouches for itself."""
        self._key(name)
        extensions = (
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash"
        )
        self._sign(name, ["-signkey", self.path(f"{name}.key")], extensions)
        return self._folder / f"{name}.pem"

    def _certificate(self, name: str, authority: Path, names: str) -> None:
        self._key(name)
        by = ["-CA", str(authority), "-CAkey", str(authority.with_suffix(".key")), "-CAcreateserial"]
        self._sign(name, by, f"basicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n{names}")

    def _key(self, name: str) -> None:
        key = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", self.path(f"{name}.key")]
        _openssl("genpkey", *key)
        request = self.path(f"{name}.csr")
        _openssl("req", "-new", "-key", self.path(f"{name}.key"), "-subj", f"/CN={name}", "-out", request)

    def _sign(self, name: str, by: list[str], extensions: str) -> None:
        written = self._folder / f"{name}.ext"
        written.write_text(extensions + "\n")
        certificate = ["-in", self.path(f"{name}.csr"), "-out", self.path(f"{name}.pem"), "-extfile", str(written)]
        _openssl("x509", "-req", "-days", "2", *by, *certificate)

    def _lock_key(self, name: str) -> None:
        """Encrypt a key by its password."""
        key, opened = self._folder / f"{name}.key", self._folder / f"{name}-opened.key"
        key.rename(opened)
        _openssl("pkey", "-in", str(opened), "-aes256", "-passout", f"pass:{PASSWORDS['key']}", "-out", str(key))


def missing_openssl() -> str:
    """What is missing to make certificates, for a message; empty when nothing is."""
    return "" if shutil.which("openssl") else "openssl not found"


def token(*, valid_s: float = 3600.0) -> str:
    """A token of OAUTHBEARER that nobody has signed, valid for so many seconds from now; not any more when negative."""
    now = time.time()
    claims = {"sub": USER, "iat": now - 7200, "exp": now + valid_s}
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def _openssl(*arguments: str) -> None:
    ran = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
