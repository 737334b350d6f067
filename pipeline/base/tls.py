"""Certificates: the files that settings name, checked before they are used, and what a failed handshake means.

Redis and ClickHouse read the files again for each new connection, so a renewed certificate needs no restart.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pipeline.base.errors import ConfigError
from pipeline.base.text import printable


class TlsFiles(Protocol):
    """The settings ``redis.tls`` and ``clickhouse.tls``."""

    @property
    def ca_file(self) -> str:
        """PEM file of the CA; empty for the system's CAs."""

    @property
    def cert_file(self) -> str:
        """PEM file of the client's certificate; empty for none."""

    @property
    def key_file(self) -> str:
        """PEM file of its key; empty when it stands in the certificate's file."""


def check_files(files: TlsFiles, section: str) -> None:
    """Raise ``ConfigError`` naming setting and file unless a connection can be made with these certificates."""
    if files.key_file and not files.cert_file:
        raise ConfigError(f"{section}.key_file is set, but {section}.cert_file, its certificate, is not")
    for name in ("ca_file", "cert_file", "key_file"):
        file = getattr(files, name)
        if file:
            _check_readable(file, f"{section}.{name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files.ca_file:
        try:
            context.load_verify_locations(cafile=files.ca_file)
        except (ssl.SSLError, OSError):
            raise ConfigError(
                f"{section}.ca_file names {_shown(files.ca_file)}, which holds no PEM certificate"
            ) from None
    if files.cert_file:
        _check_certificate(context, files, section)


def _check_certificate(context: ssl.SSLContext, files: TlsFiles, section: str) -> None:
    def no_passphrase() -> str:
        raise ConfigError(
            f"{section}.key_file needs a passphrase, which the pipeline cannot ask for; store the key without one "
            "(openssl pkey -in KEY -out NEW) and let only this user read it"
        )

    key_file = files.key_file or files.cert_file
    try:
        context.load_cert_chain(files.cert_file, key_file, password=no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"the key in {_shown(key_file)} does not belong to the certificate in {section}.cert_file, "
                f"{_shown(files.cert_file)}"
            ) from None
        raise ConfigError(
            f"{section}.cert_file names {_shown(files.cert_file)} with the key in {_shown(key_file)}, "
            "but they do not hold a PEM certificate and its PEM key"
        ) from None


def _check_readable(file: str, name: str) -> None:
    try:
        with Path(file).open("rb") as opened:
            opened.read(1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "that is no file name"
        raise ConfigError(f"{name} names {_shown(file)}, which cannot be read: {reason}") from None


def _shown(file: str) -> str:
    return f"'{printable(file)}'"


# What OpenSSL says, and what to do about it.
_VERIFY_ERRORS: Mapping[int, str] = {
    9: "its certificate is not valid yet: compare the clocks of both machines",
    10: "its certificate has expired: renew it on the server",
    18: "its certificate is signed by itself: name that certificate in {section}.ca_file",
    19: "a certificate in its chain is signed by a CA that is not trusted here: name the CA in {section}.ca_file",
    20: "its certificate is signed by a CA that is not trusted here: name the CA in {section}.ca_file",
    21: "its certificate is signed by a CA that is not trusted here: name the CA in {section}.ca_file",
    23: "its certificate was revoked",
    62: "its certificate was made for another host name: use that name in the address, or turn "
    "{section}.check_hostname off",
    64: "its certificate was made for another address: use a name of the certificate, or turn "
    "{section}.check_hostname off",
}
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it asks for a client certificate: set {section}.cert_file and {section}.key_file",
    "HANDSHAKE_FAILURE": "it accepted neither a cipher nor, if it asks for one, the client certificate: see {section}",
    "UNKNOWN_CA": "it does not trust the CA of the client certificate in {section}.cert_file",
    "BAD_CERTIFICATE": "it refuses the client certificate in {section}.cert_file",
    "CERTIFICATE_EXPIRED": "the client certificate in {section}.cert_file has expired: renew it",
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port: check the scheme and the port of the address",
    "EOF": "it closed the connection during the TLS handshake: if it asks for a client certificate, see "
    "{section}.cert_file",
}
_NO_ANSWER = "it does not answer the TLS handshake: check that it speaks TLS on this port"


def trouble(error: BaseException, section: str) -> str:
    """What a failed TLS handshake means, in one clause about the server; empty when TLS is not the matter."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            known = _VERIFY_ERRORS.get(cause.verify_code)
            return known.format(section=section) if known else f"its certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            reason = str(cause.reason or cause)
            known = next((meaning for name, meaning in _ALERTS.items() if name in reason), None)
            return known.format(section=section) if known else f"the TLS handshake failed: {reason}"
        if isinstance(cause, TimeoutError) and "handshake" in str(cause):
            return _NO_ANSWER
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it; urllib3 and redis-py wrap in several ways."""
    followed: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in followed:
            followed.add(id(one))
            yield one
            waiting += [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]
