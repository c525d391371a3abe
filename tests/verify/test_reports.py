"""Reports are complete for their owner, hold nothing private for others, and never interpret the texts they show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

from spectron_migrate.errors import InputError
from spectron_migrate.local.testing import RunningServer
from spectron_migrate.verify.options import Query, VerifyOptions
from spectron_migrate.verify.reports.json_file import read_header
from spectron_migrate.verify.summary import VerifySummary
from tests.support.spectron import memory, replay, write_raw
from tests.verify.support import WordSearch, verify

pytestmark = pytest.mark.slow

SECRET = "PrivateSentenceAboutBees"
HOSTILE = [
    f'{SECRET} [bold red]markup[/] <script>alert(1)</script> & "quotes" \'',
    f"{SECRET} \x1b[2J\x1b]0;title\x07 escape \u202e bidi | pipe `tick` </td></table>",
    f"{SECRET} ]]> --> <img src=x onerror=alert(2)> \x00 \x08 end",
]
USER = "<b>|`[link](javascript:alert(3))`"
SUFFIXES = (".json", ".html", ".md", ".xml")


@pytest.fixture(scope="module")
def reported(spectron: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VerifySummary]:
    """All reports of a verification with hostile texts, ids and queries; one memory was not sent."""
    folder = tmp_path_factory.mktemp("reports")
    rows = [memory(number, USER, text.replace("\x00", "")) for number, text in enumerate(HOSTILE)]
    dump = write_raw(folder / "all.json", rows)
    replay(spectron, folder / "state", [dump])
    more = write_raw(folder / "more.json", [*rows, memory(9, USER, f"{SECRET} never sent")])
    reports = tuple(folder / "out" / f"report{suffix}" for suffix in SUFFIXES)
    options = VerifyOptions(
        queries=(Query(f"{SECRET} <svg onload=alert(4)> markup", user_id=USER, expect=(rows[0]["id"],)),),
        reports=reports,
    )
    summary = verify(spectron, folder / "state", [more], options, mem0=WordSearch(rows[::-1]))
    return folder / "out", summary


def test_all_reports_are_readable_by_their_owner_alone(reported: tuple[Path, VerifySummary]) -> None:
    folder, summary = reported
    assert [str(folder / f"report{suffix}") for suffix in SUFFIXES] == list(summary.reports)
    assert {0o600} == {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert 4 == len(list(folder.iterdir()))


def test_reports_for_sharing_hold_no_text_and_no_query(reported: tuple[Path, VerifySummary]) -> None:
    folder, _ = reported
    for suffix in (".md", ".xml"):
        text = (folder / f"report{suffix}").read_text()
        assert SECRET not in text
        assert "INCONCLUSIVE" in text


def test_reports_for_sharing_hold_texts_if_asked_to(spectron: RunningServer, user: str, tmp_path: Path) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user, SECRET)])
    replay(spectron, tmp_path / "state", [dump])
    options = VerifyOptions(reports=(tmp_path / "r.md",), report_texts=True)
    verify(spectron, tmp_path / "state", [dump], options)
    assert "holds texts" in (tmp_path / "r.md").read_text()


def test_the_json_report_holds_everything(reported: tuple[Path, VerifySummary]) -> None:
    folder, summary = reported
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"] == summary.verdict
    assert SECRET in json.dumps(report["answers"])
    assert {"options", "measured", "gates", "findings", "ids", "answers", "by_owner"} <= set(report)


def test_the_xml_is_well_formed_and_counts_its_gates(reported: tuple[Path, VerifySummary]) -> None:
    folder, summary = reported
    suite = ElementTree.fromstring((folder / "report.xml").read_text())
    assert str(len(summary.gates)) == suite.get("tests") == str(len(suite.findall("testcase")))
    undecided = [gate for gate in summary.gates if gate.passed is None and gate.decides and not gate.accepted]
    assert str(len(undecided)) == suite.get("errors")


class Seen(HTMLParser):
    """Tags and text of a page, as a browser parses it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_hostile_texts_without_interpreting_them(reported: tuple[Path, VerifySummary]) -> None:
    folder, _ = reported
    page = (folder / "report.html").read_text()
    seen = Seen()
    seen.feed(page)
    names = [tag for tag, _ in seen.tags]
    assert 1 == names.count("script")
    assert 0 == names.count("img")
    assert 0 == names.count("iframe")
    assert 0 == names.count("a")
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert not [value for _, attributes in seen.tags for name, value in attributes.items() if name in ("src", "href")]
    assert "This page holds texts" in seen.text
    assert "<script>alert(1)</script>" in seen.text
    assert USER in seen.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)


def test_the_page_allows_its_own_script_and_loads_nothing(reported: tuple[Path, VerifySummary]) -> None:
    import base64
    import hashlib

    folder, _ = reported
    page = (folder / "report.html").read_text()
    seen = Seen()
    seen.feed(page)
    policy = next(
        attributes["content"]
        for _, attributes in seen.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_browser_filters_the_page(reported: tuple[Path, VerifySummary], tmp_path: Path) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("needs a browser: chromium is not installed")
    folder, _ = reported
    shown = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            (folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "1 of 1 queries" in shown


def test_the_terminal_shows_hostile_texts_without_interpreting_them(reported: tuple[Path, VerifySummary]) -> None:
    from rich.console import Console

    from spectron_migrate.cli.verify_screen import draw

    _, summary = reported
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system=None)
    for part in draw(summary):
        console.print(part)
    text = out.getvalue()
    assert "[bold red]markup[/]" in text
    assert "\x1b[2J" not in text
    assert "\x1b]0;" not in text
    assert "Verdict: INCONCLUSIVE" in text
    assert "words 1.0" in text


def test_a_report_that_cannot_be_written_is_refused_before_any_request(
    spectron: RunningServer, user: str, tmp_path: Path
) -> None:
    dump = write_raw(tmp_path / "all.json", [memory(0, user)])
    replay(spectron, tmp_path / "state", [dump])
    options = VerifyOptions(reports=(tmp_path / "r.pdf", tmp_path / "r.json", tmp_path / "r.docx"))
    with pytest.raises(InputError) as refused:
        verify(spectron, tmp_path / "state", [dump], options, endpoint="http://127.0.0.1:1")
    assert all(part in refused.value.message for part in ("2 problems", "r.pdf", "r.docx", ".json, .md, .html, .xml"))


def test_the_header_of_a_json_report_is_read_without_its_findings_and_answers(
    reported: tuple[Path, VerifySummary],
) -> None:
    folder, summary = reported
    header = read_header((folder / "report.json").read_bytes())
    assert summary.verdict == header["verdict"]
    assert summary.report["measured"] == header["measured"]
    assert set() == {"ids", "findings", "answers"} & set(header)


def test_a_report_in_another_layout_is_read_as_a_whole(reported: tuple[Path, VerifySummary], tmp_path: Path) -> None:
    folder, summary = reported
    (tmp_path / "one-line.json").write_text(json.dumps(json.loads((folder / "report.json").read_text())))
    assert summary.verdict == read_header((tmp_path / "one-line.json").read_bytes())["verdict"]


@pytest.mark.parametrize("text", ["", "[]", '{\n "schema": 1,', "not JSON"])
def test_a_file_that_is_no_report_has_no_header(text: str) -> None:
    with pytest.raises(ValueError):
        read_header(text.encode())
