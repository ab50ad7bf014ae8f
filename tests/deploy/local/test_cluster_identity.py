from __future__ import annotations

import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509

from deploy.local.cluster_identity import make_identity


def test_the_pair_is_the_owners_and_is_kept(tmp_path):
    made = make_identity(tmp_path / "tls", "127.0.0.1")
    before = made.certificate_file.read_bytes(), made.key_file.read_bytes()
    assert stat.S_IMODE(made.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    again = make_identity(tmp_path / "tls", "127.0.0.1")
    assert (again.certificate_file.read_bytes(), again.key_file.read_bytes()) == before


def test_no_clock_shuts_the_pipeline_out(tmp_path):
    made = make_identity(tmp_path / "tls", "127.0.0.1")
    certificate = x509.load_pem_x509_certificate(made.certificate_file.read_bytes())
    assert certificate.not_valid_before_utc < datetime(2001, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc.year == 9999


@pytest.mark.parametrize("damage", ["no key", "cut off", "another's key", "another host"])
def test_what_is_no_good_pair_is_made_anew(tmp_path, damage):
    made = make_identity(tmp_path / "tls", "127.0.0.1")
    before = made.certificate_file.read_bytes()
    host = "127.0.0.1"
    if damage == "no key":
        made.key_file.unlink()
    elif damage == "cut off":
        made.certificate_file.write_bytes(before[:100])
    elif damage == "another's key":
        other = make_identity(tmp_path / "other", "127.0.0.1")
        made.key_file.write_bytes(other.key_file.read_bytes())
    else:
        host = "flink"
    make_identity(tmp_path / "tls", host)
    assert made.certificate_file.read_bytes() != before
    assert make_identity(tmp_path / "tls", host).context()
