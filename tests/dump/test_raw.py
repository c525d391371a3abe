"""Raw Mem0 files, opened like a dump directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectron_migrate.dump import open_any
from spectron_migrate.errors import InputError
from spectron_migrate.records import Skipped
from tests.support.dumping import START, memory, scan, texts


def test_raw_files_and_a_directory_are_opened_alike(tmp_path: Path) -> None:
    raw = tmp_path / "get_all.json"
    raw.write_text(json.dumps({"results": [{"id": "m1", "memory": "likes tea", "user_id": "alice"}, {"id": "m2"}]}))
    scan(tmp_path / "dump", [memory("m1")])

    with open_any([raw], now=START) as dump:
        assert dump.raw
        assert dump.began is None
        assert dump.complete is None
        assert not dump.whole
        assert 1 == dump.count
        assert {"m1": "likes tea"} == texts(dump)
        assert (Skipped("m2", "no text field"),) == dump.skipped
        assert {"alice": 1} == dump.manifest.users
    for named in (tmp_path / "dump", tmp_path / "dump" / "manifest.json"):
        with open_any([named]) as dump:
            assert not dump.raw
            assert dump.complete
            assert 1 == dump.count


def test_the_digest_of_raw_files_depends_on_their_content_alone(tmp_path: Path) -> None:
    def digest(*contents: str) -> str:
        paths = [tmp_path / f"{number}.json" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        with open_any(paths) as dump:
            return dump.digest

    one, other = '[{"id": "m1", "memory": "a"}]', '[{"id": "m2", "memory": "b"}]'
    assert digest(one, other) == digest(other, one)
    assert digest(one) != digest(other)


def test_a_directory_beside_raw_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")

    with pytest.raises(InputError, match="is a directory beside other inputs"):
        open_any([tmp_path / "a.json", tmp_path])
