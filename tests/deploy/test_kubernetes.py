"""The manifests, as far as they can be judged without a cluster.

Kubernetes' own objects are checked against its published schemas; of the operator's
FlinkDeployment, whose schema is in no package registry, the fields are listed here (operator 1.13,
v1beta1).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy import settings as configuration

FOLDER = configuration.ROOT / "deploy" / "kubernetes"
STRING, NUMBER = {"type": "string"}, {"type": "number"}
OF_STRINGS = {"type": "object", "additionalProperties": STRING}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


PODS = closed(
    ["resource"],
    replicas={"type": "integer", "minimum": 1},
    resource=closed(
        ["cpu", "memory"], cpu=NUMBER, memory={"type": "string", "pattern": "^[0-9]+[mg]$"}
    ),
    podTemplate={"type": "object"},
)
FLINK_DEPLOYMENT = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "flink.apache.org/v1beta1"},
    kind={"const": "FlinkDeployment"},
    metadata=closed(["name"], name=STRING, namespace=STRING, labels=OF_STRINGS),
    spec=closed(
        ["image", "flinkVersion", "serviceAccount", "jobManager", "taskManager"],
        image=STRING,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        flinkVersion={"enum": ["v1_19", "v1_20", "v2_0", "v2_1", "v2_2"]},
        serviceAccount=STRING,
        mode={"enum": ["native", "standalone"]},
        flinkConfiguration=OF_STRINGS,
        logConfiguration=OF_STRINGS,
        jobManager=PODS,
        taskManager=PODS,
        podTemplate={"type": "object"},
        ingress={"type": "object"},
        job={"type": "object"},
        restartNonce={"type": "integer"},
    ),
)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def keeper() -> dict[str, Any]:
    return read("keeper.yaml")["spec"]["template"]["spec"]


def test_the_cluster_has_no_field_that_the_operator_does_not_know():
    jsonschema.validate(read("flink.yaml"), FLINK_DEPLOYMENT)


def test_the_objects_of_kubernetes_are_as_its_schemas_say():
    schemas = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate")
    schemas.validate(read("keeper.yaml"), "1.31", strict=True)
    schemas.validate(read("network_policy.yaml"), "1.31", strict=True)
    template = read("flink.yaml")["spec"]["podTemplate"]
    # The operator fills in the image of its own container.
    for container in template["spec"]["containers"]:
        assert container["name"] == "flink-main-container"
    schemas.validate(template, "1.31", strict=True)


def test_the_version_of_flink_is_the_one_that_the_job_is_built_for():
    version = next(
        line.split("==")[1].strip('",')
        for line in (configuration.ROOT / "pyproject.toml").read_text().splitlines()
        if "apache-flink==" in line
    )
    spec = read("flink.yaml")["spec"]
    assert spec["image"] == f"flink:{version}-java17"
    assert spec["flinkVersion"] == "v" + "_".join(version.split(".")[:2])
    plugin = spec["podTemplate"]["spec"]["containers"][0]["env"][0]["value"]
    assert plugin == f"flink-s3-fs-presto-{version}.jar"


def test_the_configuration_is_one_and_fits_the_cluster(monkeypatch, tmp_path):
    (tmp_path / "ca.crt").write_text("-- ca --")
    text = (FOLDER / "sparc.toml").read_text().replace("/etc/sparc-kafka", str(tmp_path))
    (tmp_path / "sparc.toml").write_text(text)
    monkeypatch.setenv("SPARC_KAFKA__SECURITY__PASSWORD", "secret")
    settings = configuration.load(tmp_path / "sparc.toml", tmp_path)
    environment = settings.job_environment()
    cluster = read("flink.yaml")
    slots = int(cluster["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert settings.streaming.parallelism <= slots * cluster["spec"]["taskManager"]["replicas"]
    assert environment.flink == f"{cluster['metadata']['name']}-rest:8081"
    assert 'password="secret"' in environment.client["sasl.jaas.config"]
    grace = keeper()["terminationGracePeriodSeconds"]
    assert grace > settings.streaming.savepoint_timeout_s + 30


def test_only_the_keeper_the_operator_and_the_cluster_reach_flink():
    spec = read("network_policy.yaml")["spec"]
    # the label that the operator gives the pods of a FlinkDeployment
    assert spec["podSelector"]["matchLabels"] == {"app": read("flink.yaml")["metadata"]["name"]}
    rest = [rule for rule in spec["ingress"] if {"port": 8081} in rule.get("ports", [])]
    assert len(rest) == 1
    callers = [source["podSelector"]["matchLabels"] for source in rest[0]["from"]]
    labels = read("keeper.yaml")["spec"]["template"]["metadata"]["labels"]
    assert callers[0].items() <= labels.items()
    assert callers[1] == {"app.kubernetes.io/name": "flink-kubernetes-operator"}
    everybody = [rule["ports"] for rule in spec["ingress"] if "from" not in rule]
    assert everybody == [[{"port": 9249}]]


def test_what_the_keeper_mounts_is_there():
    volumes = {volume["name"] for volume in keeper()["volumes"]}
    container = keeper()["containers"][0]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["args"][0] == "stream"
    generated = read("kustomization.yaml")["configMapGenerator"][0]
    assert generated["name"] in {
        volume["configMap"]["name"] for volume in keeper()["volumes"] if "configMap" in volume
    }
    for name in [*read("kustomization.yaml")["resources"], *generated["files"]]:
        assert (FOLDER / name).is_file()
    ca = tomllib.loads((FOLDER / "sparc.toml").read_text())["kafka"]["security"]["ca_file"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(ca).parent) in mounted
