from __future__ import annotations

import ssl
import stat

import pytest

from deploy.local.cluster_identity import make_identity
from streaming.job.flink_tls import FlinkTls, FlinkTlsError
from streaming.job.settings import JobConfig, JobEnvironment, from_json, to_json


@pytest.fixture
def identity(tmp_path) -> FlinkTls:
    return make_identity(tmp_path / "tls", "127.0.0.1")


def test_without_files_flink_is_spoken_to_in_plain(tmp_path):
    assert FlinkTls().url("flink:8081") == "http://flink:8081"
    assert FlinkTls().java_settings(tmp_path, "rest") == {}
    assert not list(tmp_path.iterdir())


def test_with_an_authority_it_is_https(identity, tmp_path):
    alone = FlinkTls(identity.ca_file)
    assert alone.url("flink:8081") == "https://flink:8081"
    assert isinstance(alone.context(), ssl.SSLContext)
    settings = alone.java_settings(tmp_path, "rest")
    assert settings["security.ssl.rest.enabled"] == "true"
    assert "security.ssl.rest.keystore" not in settings
    assert "security.ssl.rest.authentication-enabled" not in settings


def test_key_stores_are_private_and_their_password_is_new_each_time(identity, tmp_path):
    first = identity.java_settings(tmp_path, "rest", "internal")
    second = identity.java_settings(tmp_path, "rest", "internal")
    assert first["security.ssl.rest.key-password"] != second["security.ssl.rest.key-password"]
    for kind in ("rest", "internal"):
        for store in ("keystore", "truststore"):
            path = tmp_path / f"{store}.p12"
            assert second[f"security.ssl.{kind}.{store}"] == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_half_a_pair_and_an_unreadable_file_are_named(identity, tmp_path):
    with pytest.raises(FlinkTlsError, match="give both"):
        FlinkTls(identity.ca_file, identity.certificate_file)
    with pytest.raises(FlinkTlsError, match="ca_file is missing"):
        FlinkTls(None, identity.certificate_file, identity.key_file)
    with pytest.raises(FlinkTlsError, match=r"absent\.pem"):
        FlinkTls(tmp_path / "absent.pem").context()
    with pytest.raises(FlinkTlsError, match=r"absent\.pem"):
        FlinkTls(tmp_path / "absent.pem").java_settings(tmp_path, "rest")
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(FlinkTlsError, match=r"no\.pem"):
        FlinkTls(tmp_path / "no.pem").java_settings(tmp_path, "rest")


def test_it_survives_the_way_to_the_submitting_process(identity):
    environment = JobEnvironment("k:1", "f:1", (), "file:///c", tls=identity)
    assert from_json(to_json(JobConfig(), environment)) == (JobConfig(), environment)
