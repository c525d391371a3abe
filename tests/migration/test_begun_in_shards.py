"""A state that an earlier version began in shards: nobody goes on there, and `state copy` makes one ledger of it."""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectron_migrate.cli.app import run
from spectron_migrate.database.location import is_url, parse_location
from spectron_migrate.dump import open_any
from spectron_migrate.errors import ExitCode, InputError
from spectron_migrate.ledger import Ledger
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.mapping import load_mapping
from tests.support.here import server_here
from tests.support.oracle import find_violations

pytestmark = [pytest.mark.slow, pytest.mark.ledger_file]  # shards had files
LEFT = Path(__file__).parents[1] / "data" / "state-in-shards" / "left.tar.gz"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """What the earlier version left, in the working directory, and the server that it had written to."""
    with tarfile.open(LEFT) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    with server_here(tmp_path / "server", context="tests", api="0.3.0") as server:
        monkeypatch.setenv("SPECTRON_CONTEXT", server.context)
        monkeypatch.setenv("SPECTRON_API_KEY", server.api_key)
        monkeypatch.setenv("SPECTRON_ENDPOINT", server.base_url)
        yield server


def receipts_in(state: Path) -> int:
    with Ledger.open_for_reading(state) as ledger:
        return int(ledger.db.execute("SELECT count(*) FROM receipt").fetchone()[0])


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.jsonl"}


@pytest.mark.parametrize(
    "command",
    ["replay", "replay --dry-run", "status", "dual-verify", "cutover check", "erase --migration m --scope user/a"],
)
@pytest.mark.parametrize("state", ["state", "state/shard-0-of-2"])
def test_every_command_refuses_it_and_names_the_command_that_gathers(
    server: RunningServer, capsys: pytest.CaptureFixture[str], command: str, state: str
) -> None:
    before = files_in(Path("state"))
    assert ExitCode.INPUT == run([*command.split(), "--state", state, "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert "the migration in state was begun in 2 shards, each with a ledger of its own" == error["message"]
    assert error["hint"].endswith("spectron-migrate state copy state state-gathered")
    assert before == files_in(Path("state"))


def test_no_ledger_is_made_beside_those_of_shards(server: RunningServer) -> None:
    for folder in (Path("state"), Path("state/shard-1-of-2")):
        with pytest.raises(InputError, match="begun in 2 shards"):
            Ledger.open_for_writing(folder)
    assert not Path("state/ledger.db").exists()


@pytest.mark.parametrize("target", ["as the hint says", "postgres"])
def test_it_is_gathered_and_goes_on_as_one(
    target: str, server: RunningServer, postgres_state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = sum(receipts_in(Path(f"state/shard-{number}-of-2")) for number in range(2))
    assert ExitCode.INPUT == run(["replay", "--state", "state", "--json"])
    hint = json.loads(capsys.readouterr().out)["error"]["hint"]
    typed = shlex.split(hint[hint.index("state copy") :])
    to = postgres_state if target == "postgres" else typed[-1]
    assert ExitCode.DONE == run([*typed[:-1], to, "--json"])
    copied = json.loads(capsys.readouterr().out)
    assert 2 == copied["shards"]
    assert sent == next(each["rows"] for each in copied["tables"] if each["name"] == "receipt")

    assert ExitCode.DONE == run(["replay", "--state", to, "--json"])
    assert 36 - sent == json.loads(capsys.readouterr().out)["written"]
    place = parse_location(to) if is_url(to) else Path(to)
    with open_any([Path("dump")]) as dump:
        assert [] == find_violations(server.database, place, list(dump.memories()), load_mapping(None))  # type: ignore[arg-type]
    assert ExitCode.INPUT == run(["replay", "--state", "state", "--json"])
    assert "moved" == json.loads(capsys.readouterr().out)["error"]["kind"]


def test_a_shard_without_a_ledger_is_named(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("state/shard-1-of-2")
    assert ExitCode.INCOMPLETE == run(["state", "copy", "state", "to", "--json"])
    assert "1 shard has no ledger here: 1/2" == json.loads(capsys.readouterr().out)["error"]["message"]
    assert not Path("state/sealed.json").exists()
