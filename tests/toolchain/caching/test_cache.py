"""The step cache's laws: what it returns is what was written, whatever happens to its files."""

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgeops.errors import ConfigError
from edgeops.manifest import MEASUREMENTS_FILE
from toolchain.caching.cache import Entry, KeyParts, StepCache
from toolchain.caching.reasons import why


def parts_of(name: str, **config: object) -> KeyParts:
    return KeyParts(step=name, code={"m": "1"}, tools={}, config=dict(config), inputs={"data": "x"})


def make(cache: StepCache, parts: KeyParts, files: dict[str, bytes]) -> Entry:
    claim = cache.claim(parts)
    assert claim is not None
    with claim:
        for name, content in files.items():
            (claim.out / name).parent.mkdir(parents=True, exist_ok=True)
            (claim.out / name).write_bytes(content)
        return claim.publish()


def content_of(entry: Entry) -> dict[str, bytes]:
    return {file.path: (entry.folder / file.path).read_bytes() for file in entry.files}


class CacheMachine(RuleBasedStateMachine):
    """Entries are made, damaged and abandoned in any order; `get` returns what was written, or nothing."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.cache = StepCache(self.root)
        self.sound: dict[str, dict[str, bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @rule(name=st.sampled_from("abc"), content=st.binary(max_size=20))
    def make(self, name: str, content: bytes) -> None:
        files = {"one": content, "deep/two": b"2"}
        make(self.cache, parts_of(name), files)
        self.sound[name] = files

    @rule(name=st.sampled_from("abc"), how=st.sampled_from(["flip", "cut", "lose", "lose the record"]))
    def damage(self, name: str, how: str) -> None:
        folder = self.root / "steps" / parts_of(name).key
        file = folder / "files" / "deep" / "two"
        if how == "lose the record":
            (folder / "entry.json").unlink(missing_ok=True)
        elif file.exists():
            if how == "lose":
                file.unlink()
            else:
                file.write_bytes(b"3" if how == "flip" else b"")
        self.sound.pop(name, None)

    @rule(name=st.sampled_from("abc"))
    def stop_in_the_middle(self, name: str) -> None:
        claim = self.cache.claim(parts_of(name))
        assert claim is not None
        with claim:
            (claim.out / "half").write_bytes(b"half")

    @invariant()
    def what_is_returned_was_written(self) -> None:
        for name in "abc":
            entry = self.cache.get(parts_of(name).key)
            assert (None if entry is None else content_of(entry)) == self.sound.get(name)


CacheMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestCache = CacheMachine.TestCase


def test_any_part_changes_the_key() -> None:
    base = KeyParts(step="s", code={"m": "1"}, tools={"t": "1"}, config={"c": 1}, inputs={"i": "1"})
    others = [
        KeyParts(step="r", code={"m": "1"}, tools={"t": "1"}, config={"c": 1}, inputs={"i": "1"}),
        KeyParts(step="s", code={"m": "2"}, tools={"t": "1"}, config={"c": 1}, inputs={"i": "1"}),
        KeyParts(step="s", code={"m": "1"}, tools={"t": "2"}, config={"c": 1}, inputs={"i": "1"}),
        KeyParts(step="s", code={"m": "1"}, tools={"t": "1"}, config={"c": 2}, inputs={"i": "1"}),
        KeyParts(step="s", code={"m": "1"}, tools={"t": "1"}, config={"c": 1}, inputs={"i": "2"}),
    ]
    assert len({parts.key for parts in (base, *others)}) == 6


def test_measurements_do_not_count_in_the_digest(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    one = make(cache, parts_of("a"), {"x": b"1", MEASUREMENTS_FILE: b"fast"})
    two = make(cache, parts_of("b"), {"x": b"1", MEASUREMENTS_FILE: b"slow"})
    three = make(cache, parts_of("c"), {"x": b"2", MEASUREMENTS_FILE: b"fast"})
    assert one.digest == two.digest
    assert one.digest != three.digest


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    claim = cache.claim(parts_of("a"))
    assert claim is not None
    with pytest.raises(ZeroDivisionError), claim:
        (claim.out / "x").write_bytes(b"1")
        raise ZeroDivisionError
    assert cache.get(parts_of("a").key) is None
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_key_is_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    one, other, parts = StepCache(tmp_path), StepCache(tmp_path), parts_of("a")
    claim = one.claim(parts)
    assert claim is not None
    assert other.claim(parts) is None
    assert other.claim(parts_of("b")) is not None
    (claim.out / "x").write_bytes(b"1")
    entry = claim.publish()
    assert other.claim(parts) is None
    claim.close()
    again = other.claim(parts)
    assert again is not None
    assert other.get(parts.key) == entry


def test_of_many_threads_one_makes_the_entry(tmp_path: Path) -> None:
    parts, made = parts_of("a"), []
    begin = threading.Barrier(8)

    def build() -> None:
        cache = StepCache(tmp_path)
        begin.wait()
        while cache.get(parts.key) is None:
            claim = cache.claim(parts)
            if claim is not None:
                with claim:
                    if cache.get(parts.key) is None:
                        (claim.out / "x").write_bytes(b"1")
                        made.append(claim.publish())

    with ThreadPoolExecutor(max_workers=8) as threads:
        futures = [threads.submit(build) for _ in range(8)]
    assert [future.exception() for future in futures] == [None] * 8
    assert len(made) == 1


def test_checkpoints_outlive_an_error_and_not_the_entry(tmp_path: Path) -> None:
    cache, parts = StepCache(tmp_path), parts_of("a")
    first = cache.claim(parts)
    assert first is not None
    with first:
        assert list(first.checkpoints.iterdir()) == []
        (first.checkpoints / "epoch").write_text("3")
    second = cache.claim(parts)
    assert second is not None
    with second:
        assert (second.checkpoints / "epoch").read_text() == "3"
        second.publish()
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        StepCache(tmp_path / "file").claim(parts_of("a"))


def test_reasons_name_what_changed() -> None:
    last = KeyParts(
        step="s", code={"m": "1"}, tools={"torch": "2"}, config={"a": {"b": 1}, "c": 1}, inputs={"data": "1"}
    )
    now = KeyParts(
        step="s", code={"m": "2"}, tools={"torch": "3"}, config={"a": {"b": 2}, "c": 1}, inputs={"data": "2"}
    )
    assert why(now, last, damaged=False) == (
        "config a.b changed, code m changed, torch went from 2 to 3 and 1 more"
    )
    assert why(now, None, damaged=False) == "this recipe's step was not built here before"
    assert why(last, last, damaged=False) == "the cache holds no output of it"
    assert why(last, last, damaged=True) == "its cached output is damaged"


def test_the_last_build_is_remembered(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    assert cache.last_build("digits-1.0.0") == {}
    cache.record_build("digits-1.0.0", {"a": parts_of("a", rows=3)})
    assert cache.last_build("digits-1.0.0") == {"a": parts_of("a", rows=3)}
