from __future__ import annotations

import pytest

from streaming.security import Security, SecurityError


def test_without_any_nothing_is_said():
    plain = Security()
    assert plain.kafka_python() == plain.java() == plain.librdkafka() == {}


def test_each_client_hears_the_same_in_its_own_words(tmp_path):
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"-- {name} --\n")
    (tmp_path / "password").write_text('s"e\\cret\n')
    both = Security(
        protocol="SASL_SSL",
        mechanism="SCRAM-SHA-512",
        username="sparc",
        password_file=tmp_path / "password",
        ca_file=tmp_path / "ca",
        certificate_file=tmp_path / "cert",
        key_file=tmp_path / "key",
        check_hostname=False,
    )
    assert both.kafka_python() == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "sparc",
        "sasl_plain_password": 's"e\\cret',
        "ssl_cafile": str(tmp_path / "ca"),
        "ssl_certfile": str(tmp_path / "cert"),
        "ssl_keyfile": str(tmp_path / "key"),
        "ssl_check_hostname": False,
    }
    java = both.java()
    assert java["sasl.jaas.config"].endswith(
        'scram.ScramLoginModule required username="sparc" password="s\\"e\\\\cret";'
    )
    assert java["ssl.truststore.certificates"] == "-- ca --\n"
    assert java["ssl.keystore.key"] == "-- key --\n"
    assert java["ssl.endpoint.identification.algorithm"] == ""
    fast = both.librdkafka()
    assert fast["sasl.password"] == 's"e\\cret'
    assert fast["ssl.ca.location"] == str(tmp_path / "ca")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"protocol": "TLS"}, "protocol is 'TLS'"),
        ({"protocol": "SASL_SSL", "username": "a", "password": "b"}, "mechanism is ''"),
        ({"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "a"}, "password_file"),
        ({"protocol": "SSL", "key_file": "k"}, "certificate_file and key_file"),
    ],
)
def test_what_contradicts_itself_is_named(settings, named):
    with pytest.raises(SecurityError, match=named):
        Security(**settings)


def test_a_file_that_is_not_there_is_named(tmp_path):
    secured = Security(protocol="SSL", ca_file=tmp_path / "none.pem")
    for words in (secured.kafka_python, secured.java):
        with pytest.raises(SecurityError, match=r"ca_?file: cannot read .*none.pem"):
            words()
