"""The key and the certificate of a local Flink cluster, one pair for each data directory.

The JobManager, the TaskManager and the pipeline's own client hold the same key: who can read the
data directory may drive its cluster, and nobody else. The certificate is its own authority and does
not end ("no well-defined expiration date", RFC 5280, 4.1.2.5), nor does it begin today, so that no
clock that is put forward or back shuts the pipeline out; a new pair is made where the old one is
missing or damaged. Remove the folder, and the next start makes another.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from streaming.job.flink_tls import PRIVATE_FOLDER, FlinkTls, write_private

KEY_BITS = 3072
BEGINS, NEVER_ENDS = datetime(2000, 1, 1), datetime(9999, 12, 31, 23, 59, 59)


def make_identity(folder: Path, host: str) -> FlinkTls:
    """The pair in `folder` for the cluster at `host`, made if there is no good one."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(PRIVATE_FOLDER)
    tls = FlinkTls.in_folder(folder)
    if not _fits(tls, host):
        key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(folder / "key.pem", pem)
        content = _certificate(key, host).public_bytes(Encoding.PEM)
        write_private(folder / "certificate.pem", content)
    return tls


def _names(host: str) -> x509.SubjectAlternativeName:
    try:
        return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    except ValueError:
        return x509.SubjectAlternativeName([x509.DNSName(host)])


def _certificate(key: rsa.RSAPrivateKey, host: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SPARC-stream Flink cluster")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINS)
        .not_valid_after(NEVER_ENDS)
        .add_extension(_names(host), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _fits(tls: FlinkTls, host: str) -> bool:
    """Whether the pair is whole, one pair, and for that host."""
    assert tls.certificate_file is not None and tls.key_file is not None  # noqa: S101
    try:
        certificate = x509.load_pem_x509_certificate(tls.certificate_file.read_bytes())
        key = load_pem_private_key(tls.key_file.read_bytes(), None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return certificate.public_key() == key.public_key() and names.value == _names(host)
