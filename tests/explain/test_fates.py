"""`explain` names what became of a memory, with the evidence of both sides, for each of twelve fates.

That of a memory that was deleted in Mem0 is in `test_over_mem0.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.migration.replay_options import ReplayOptions
from tests.support import output
from tests.support.here import server_here
from tests.support.proxy import misbehaving, refusing
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import tampering

pytestmark = pytest.mark.slow

MAPPING = (
    "version: 1\nrules:\n"
    '  - when: {metadata.kind: secret, user_id: "*"}\n    skip: true\n    name: secrets\n'
    '  - when: {user_id: "*"}\n    scope: {user: "{user_id}"}\n'
    'labels: {mem0_id: "{id}"}\n'
)


class Scene:
    """A server, a state directory, and the newest dump."""

    def __init__(self, server: RunningServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.folder = folder
        self.capsys = capsys
        self.dumps = 0
        (folder / "mapping.yaml").write_text(MAPPING)

    def replay(self, rows: Sequence[dict[str, Any]], *, endpoint: str | None = None, **options: Any) -> None:
        """Replay these rows; they are the dump from then on."""
        self.dumps += 1
        self.dump = write_raw(self.folder / f"dump{self.dumps}.json", rows)
        replay(
            self.server,
            self.folder / "state",
            [self.dump],
            mapping=self.folder / "mapping.yaml",
            endpoint=endpoint,
            options=ReplayOptions(**options) if options else None,
        )

    def explain(self, mem0_id: str) -> dict[str, Any]:
        """The page as JSON."""
        self.capsys.readouterr()
        assert 0 == run([*self.words(mem0_id), "--json"])
        answer: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        output.check(answer)
        return answer

    def page(self, mem0_id: str) -> str:
        """The page as people see it."""
        self.capsys.readouterr()
        assert 0 == run(self.words(mem0_id))
        return self.capsys.readouterr().out

    def words(self, mem0_id: str) -> list[str]:
        state, mapping = str(self.folder / "state"), str(self.folder / "mapping.yaml")
        return ["explain", mem0_id, "--state", state, "--mapping", mapping, "--dump", str(self.dump)]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "spectron", context="explained") as server:
        point_at(monkeypatch, server)
        yield Scene(server, tmp_path, capsys)


def point_at(monkeypatch: pytest.MonkeyPatch, server: RunningServer) -> None:
    for name, value in (("ENDPOINT", server.base_url), ("CONTEXT", server.context), ("API_KEY", server.api_key)):
        monkeypatch.setenv(f"SPECTRON_{name}", value)


def test_written(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Drives a tram")])

    page = scene.explain("anna-0000")

    assert "written" == page["fate"]
    assert "as sent" == page["spectron"]["turn"]
    assert ["Lives in Lisbon"] == page["spectron"]["passages"]
    assert [("lives_in", "Lisbon", True)] == [
        (fact["key"], fact["value"], fact["live"]) for fact in page["spectron"]["facts"]
    ]
    assert 1 == page["search"]["spectron"]["rank"]
    assert [["user/anna"]] == page["mapping"]["scopes"]
    shown = scene.page("anna-0000")
    assert "Memory anna-0000: written" in shown
    assert "lives_in: Lisbon" in shown


def test_late(scene: Scene) -> None:
    scene.replay([memory(5, "anna", "Lives in Lisbon")])
    scene.replay([memory(5, "anna", "Lives in Lisbon"), memory(1, "anna", "Lives in Rome")])

    assert "late" == scene.explain("anna-0001")["fate"]


def test_superseded(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Now lives in Porto")])

    page = scene.explain("anna-0000")

    assert "superseded" == page["fate"]
    (newer,) = page["spectron"]["superseded_by"]
    assert ("Lisbon", "Porto", "anna-0001") == (newer["old"], newer["new"], newer["memory"])


def test_refused(scene: Scene) -> None:
    with misbehaving(scene.server.base_url) as proxy:
        proxy.choose = lambda seen: refusing(400, "not this one") if b"tram" in seen.body else "none"
        scene.replay(
            [memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Drives a tram")], endpoint=proxy.base_url
        )

    page = scene.explain("anna-0001")

    assert "refused" == page["fate"]
    assert "not this one" in page["why"]
    assert page["next"].endswith("--retry-failed")


def test_moved(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon")])
    scene.replay([{**memory(0, "bo", "Lives in Lisbon"), "id": "anna-0000"}])

    page = scene.explain("anna-0000")

    assert "moved" == page["fate"]
    assert [["user/bo"]] == page["mapping"]["scopes"]
    assert [["user/anna"]] == page["versions"][0]["scopes"]


def test_undecidable(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon")])
    scene.replay([memory(0, "anna", "Lives in Porto")])  # at the same time: nothing shows which is newer

    page = scene.explain("anna-0000")

    assert "undecidable" == page["fate"]
    assert "Lives in Porto" == page["pending"]
    assert page["next"].startswith("spectron-migrate status")


def test_expired(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Has a cold", expiration_date="2020-01-01")])

    assert "expired" == scene.explain("anna-0001")["fate"]


def test_skipped_by_rule(scene: Scene) -> None:
    scene.replay(
        [memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "The code is 12", metadata={"kind": "secret"})]
    )

    page = scene.explain("anna-0001")

    assert "skipped by rule" == page["fate"]
    assert "secrets" in page["why"]
    assert "secrets" in scene.page("anna-0001")


def test_altered(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon")])
    with tampering(scene.server) as db:
        db.execute("UPDATE turn SET content = 'Lives on the moon'")
    point_at(monkeypatch, scene.server)

    page = scene.explain("anna-0000")

    assert "altered" == page["fate"]
    assert "altered" == page["spectron"]["turn"]


def test_in_doubt(scene: Scene) -> None:
    with misbehaving(scene.server.base_url) as proxy:
        proxy.choose = lambda seen: "500_before_stuck" if b"tram" in seen.body else "none"
        scene.replay(
            [memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Drives a tram")],
            endpoint=proxy.base_url,
            max_seconds=3.0,
        )

    page = scene.explain("anna-0001")

    assert "in doubt" == page["fate"]
    assert "intended" == page["versions"][0]["state"]
    assert "tries" in scene.page("anna-0001")


def test_never_seen(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon")])

    page = scene.explain("nobody-knows")

    assert "never seen" == page["fate"]
    assert None is page["mem0"]["record"]
    assert "never seen" in scene.page("nobody-knows")


def test_a_user(scene: Scene) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Has a cold", expiration_date="2020-01-01")])

    page = scene.explain("anna")

    assert {"written": 1, "expired": 1} == page["fates"]
    assert ["user/anna"] == page["scopes"]
    assert "User anna: 2 memories" in scene.page("anna")


def test_without_a_server_the_page_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.replay([memory(0, "anna", "Lives in Lisbon")])
    monkeypatch.delenv("SPECTRON_API_KEY")

    page = scene.explain("anna-0000")

    assert "written" == page["fate"]
    assert page["spectron_problem"].startswith("not asked")


@pytest.mark.parametrize("api", ["0.0.0", "0.2.1"])
def test_an_older_generation_says_what_cannot_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], api: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "spectron", context="explained", api=api) as server:
        point_at(monkeypatch, server)
        older = Scene(server, tmp_path, capsys)
        older.replay([memory(0, "anna", "Lives in Lisbon"), memory(1, "anna", "Now lives in Porto")])

        page = older.explain("anna-0000")

    assert "superseded" == page["fate"]
    assert page["spectron"]["unknown"].startswith("no labels")
