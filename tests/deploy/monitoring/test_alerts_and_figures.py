"""What watches the pipeline from outside names only what the service exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.monitoring import moment
from deploy.monitoring.part_metrics import PartMetrics
from deploy.monitoring.part_status import PARTS, reporter
from streaming.statuses import IndexerStatus, ReplayStatus, StreamStatus, TrainerStatus
from tests.deploy.service.test_service_limits import Serving

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
NAME = re.compile(r"\bsparc[_:][a-z0-9_:]+")
UNITS = ("_seconds", "_records", "_ratio", "_total", "_bytes")


def rules() -> list[dict[str, str]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "sparc.json").read_text())
    shown = [t["expr"] for p in board["panels"] for t in p.get("targets", ())]
    return [rule["expr"] for rule in rules()] + shown


def test_rules_and_dashboard_name_only_what_is_exported(shelf) -> None:
    serving = Serving(shelf)
    text = serving.http.get("/metrics").text
    serving.close()
    exported = {family.name for family in text_string_to_metric_families(text)}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expression in expressions():
        for name in NAME.findall(expression):
            bare = re.sub(r"_(bucket|count|sum|total)$", "", name)
            assert {name, bare} & (exported | recorded), f"{name} of {expression}"


def test_every_metric_has_the_prefix_and_help(shelf) -> None:
    serving = Serving(shelf)
    text = serving.http.get("/metrics").text
    serving.close()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 40
    for family in families:
        assert family.name.startswith("sparc_"), family.name
        assert family.documentation, family.name
        if "age" in family.name.split("_") or "behind" in family.name:
            assert family.name.endswith(UNITS), family.name


def test_parts_are_up_while_they_report(tmp_path: Path) -> None:
    reporter(tmp_path, "train")(TrainerStatus(lag=7, prequential={"window_recall_at_50": 0.5}))
    reporter(tmp_path, "replay")(ReplayStatus(done=True))
    reporter(tmp_path, "stream")(StreamStatus(late=5, dead_letters=None))
    reporter(tmp_path, "index")(IndexerStatus(items_refused=2, withdrawn_items=1))
    registry = CollectorRegistry()
    now = [moment.now()]
    registry.register(PartMetrics(tmp_path, lambda: now[0]))
    text = generate_latest(registry).decode()
    assert 'sparc_part_up{part="train"} 1.0' in text
    assert 'sparc_part_up{part="serve"} 0.0' in text
    assert "sparc_train_lag_records 7.0" in text
    assert "sparc_stream_late_total 5.0" in text
    assert "\nsparc_stream_dead_letters_total " not in text  # not counted yet
    assert "sparc_index_items_refused_total 2.0" in text
    assert "sparc_index_withdrawn_items 1.0" in text
    assert "sparc_train_window_recall_at_50_ratio 0.5" in text
    now[0] = now[0]._replace(seconds=now[0].seconds + 3600)
    text = generate_latest(registry).decode()
    assert 'sparc_part_up{part="train"} 0.0' in text
    assert 'sparc_part_up{part="replay"} 1.0' in text  # a log that ended is no failure
    assert text.count("sparc_part_up{") == len(PARTS)


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH (apt-get install prometheus)")
    configs = [("config", ALERTS.with_name(name)) for name in ("prometheus.yml", "compose.yml")]
    for kind, path in [("rules", ALERTS), *configs]:
        asked = subprocess.run([promtool, "check", kind, path], capture_output=True, text=True)
        assert asked.returncode == 0, asked.stdout + asked.stderr


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert set(rule["annotations"]) == {"summary", "remedy"}
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_the_dashboard_has_each_panel_in_a_place_of_its_own() -> None:
    board = json.loads((DEPLOY / "grafana" / "sparc.json").read_text())
    places = set[tuple[int, int]]()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        at = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not mine & places
        assert at["x"] + at["w"] <= 24
        places |= mine
