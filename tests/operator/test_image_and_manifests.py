"""The manifests are valid Kubernetes and use the exit codes of the program; the image has what it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectron_migrate.database.location import PostgresLocation
from spectron_migrate.errors import ExitCode
from spectron_migrate.mapping.load import parse_mapping
from spectron_migrate.settings import load_settings

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

ROOT = Path(__file__).parents[2]
K8S = ROOT / "configs" / "k8s"
DOCUMENTS = [
    (file.name, document) for file in sorted(K8S.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text())
]
JOBS = {document["metadata"]["name"]: document["spec"] for _, document in DOCUMENTS if document["kind"] == "Job"}


@pytest.mark.parametrize("version", ["1.31", "1.34", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(("name", "document"), [(f"{name} {each['kind']}", each) for name, each in DOCUMENTS])
def test_every_document_is_valid(name: str, document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


PODS = {
    document["metadata"]["name"]: document["spec"]["template"]["spec"]
    for _, document in DOCUMENTS
    if document["kind"] in ("Job", "Deployment")
}


def rules_of(job: dict[str, Any]) -> dict[str, set[int]]:
    return {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }


RETRIED = {ExitCode.UNREACHABLE, ExitCode.LOCKED, ExitCode.SIGINT, ExitCode.SIGTERM}
OF_OTHER_COMMANDS = {ExitCode.NO_GO, ExitCode.INCONCLUSIVE, ExitCode.NOT_CONFIRMED}
"""export and replay give no verdict and ask no question."""


def test_exit_codes_that_a_retry_can_fix_are_retried_and_no_others() -> None:
    for name in ("memory-migration", "memory-migration-plan", "memory-migration-work"):
        plain = rules_of(JOBS[name])["FailJob"]
        assert {code for code in ExitCode if code} - RETRIED - OF_OTHER_COMMANDS <= plain
        assert not plain & RETRIED


def test_workers_share_no_volume_and_one_process_follows() -> None:
    assert JOBS["memory-migration-work"]["parallelism"] > 1
    follow = next(document["spec"] for _, document in DOCUMENTS if document["kind"] == "Deployment")
    assert (1, "Recreate") == (follow["replicas"], follow["strategy"]["type"])
    for name in ("memory-migration-plan", "memory-migration-work", "memory-migration-follow"):
        assert [{}] == [each["emptyDir"] for each in PODS[name]["volumes"] if each["name"] == "data"]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_disruption_does_not_count_and_a_write_in_flight_has_time_to_end(job: dict[str, Any]) -> None:
    disruption = job["podFailurePolicy"]["rules"][0]
    assert "Ignore" == disruption["action"]
    assert "DisruptionTarget" == disruption["onPodConditions"][0]["type"]
    timeout = load_settings(None, env={}, overrides={}).spectron.timeout_s
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] > timeout
    assert "Failed" == job["podReplacementPolicy"]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_container_has_no_rights_that_it_does_not_need(pod: dict[str, Any]) -> None:
    rights = pod["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert "RuntimeDefault" == rights["seccompProfile"]["type"]
    assert "OnRootMismatch" == rights["fsGroupChangePolicy"]
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert ["ALL"] == rights["capabilities"]["drop"]
        assert {"requests", "limits"} == set(container["resources"])
        assert ["/data"] == [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for _, document in DOCUMENTS if document["kind"] == kind}


def test_the_network_policies_cover_every_pod_and_allow_the_ports_of_the_settings() -> None:
    policies = {name: policy["spec"] for name, policy in of_kind("NetworkPolicy").items()}
    labels = [policy["podSelector"]["matchLabels"].items() for policy in policies.values()]
    for name, document in (of_kind("Job") | of_kind("Deployment")).items():
        own = document["spec"]["template"].get("metadata", {"labels": {}})["labels"]
        own = {**own, "batch.kubernetes.io/job-name": name}  # as Kubernetes labels the pods of a Job
        assert any(each <= own.items() for each in labels), name
    for name, more in (("memory-migration", set()), ("memory-migration-shared", {5432})):
        ports = {port["port"] for rule in policies[name]["egress"] for port in rule["ports"]}
        settings = of_kind("ConfigMap")[name]["data"]["spectron-migrate.yaml"]
        named = re.findall(r"https://[^/\s\":]+(?::(\d+))?", settings)
        assert {53, *(int(port or 443) for port in named)} | more == ports


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("memory-migration", Path("/data/state")),
        ("memory-migration-shared", PostgresLocation("postgresql://migrator@db/app", "spectron_migrate")),
    ],
)
def test_the_settings_in_the_manifests_load(name: str, state: Path | PostgresLocation, tmp_path: Path) -> None:
    data = of_kind("ConfigMap")[name]["data"]
    for file, text in data.items():
        (tmp_path / file).write_text(text)
    env = {"SPECTRON_API_KEY": "sk", "MEM0_API_KEY": "m0", "SPECTRON_MIGRATE_STATE": "postgresql://migrator@db/app"}
    given = env if name.endswith("shared") else {key: env[key] for key in ("SPECTRON_API_KEY", "MEM0_API_KEY")}
    settings = load_settings(tmp_path / "spectron-migrate.yaml", env=given, overrides={})
    assert Path("/data/dump") == settings.dump
    assert state == settings.state
    parse_mapping(data["mapping.yaml"], tmp_path)


def test_the_image_runs_unprivileged_and_contains_nothing_private() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert ["/data"] == re.findall(r"^VOLUME (.+)$", text, re.MULTILINE)
    copied = " ".join(re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)).split()
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in kept
    assert {f"!{name}" for name in copied} == {line for line in kept if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_version_of_the_image_is_that_of_the_program() -> None:
    from spectron_migrate import __version__

    tags = re.findall(r"spectron-migrate:([0-9][\w.]*)", "".join(file.read_text() for file in K8S.glob("*.yaml")))
    dockerfile = (ROOT / "Dockerfile").read_text()
    tags += re.findall(r"spectron-migrate:([0-9][\w.]*)", dockerfile)
    tags += re.findall(r'image\.version="([^"]+)"', dockerfile)
    assert {__version__} == set(tags)
