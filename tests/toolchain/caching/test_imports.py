"""The import statements that are kept from build to build: as parsed, and never those of another source."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.canonical import sha256_bytes
from edgeops.errors import ConfigError
from toolchain.caching.imports import (
    KEPT_FILE,
    LOCK_FILE,
    MAX_SOURCES,
    ImportStatement,
    import_statements,
    imports_kept,
)
from toolchain.caching.locks import FileLock

names = st.from_regex(r"[a-z_]{1,4}[0-9]", fullmatch=True)
modules = st.lists(names, min_size=1, max_size=3).map(".".join)


@st.composite
def imports(draw: st.DrawFn) -> tuple[str, ImportStatement]:
    """A statement as text, and what it says."""
    alias = draw(st.sampled_from(["", " as z"]))
    if draw(st.booleans()):
        found = draw(st.lists(modules, min_size=1, max_size=3))
        return "import " + ", ".join(name + alias for name in found), ImportStatement(tuple(found))
    level = draw(st.integers(0, 3))
    base = draw(modules) if level == 0 else draw(st.just("") | modules)
    found = draw(st.lists(names, min_size=1, max_size=3))
    inner = ", ".join(name + alias for name in found)
    text = draw(st.sampled_from([inner, f"(\n    {inner},\n)"]))
    return f"from {'.' * level}{base} import {text}", ImportStatement(tuple(found), base, level)


# Where statements stand, and text that only looks like one.
PLACES = (
    "{}",
    "def f():\n{}",
    "class A:\n    async def f(self):\n        with x:\n{}",
    "if x:\n    pass\nelse:\n{}",
    "try:\n    pass\nexcept E:\n{}",
    "try:\n    pass\nfinally:\n{}",
    "match x:\n    case 1:\n{}",
    "for x in y:\n    pass\nelse:\n{}",
)
DEPTHS = (0, 4, 12, 4, 4, 4, 8, 4)


@st.composite
def sources(draw: st.DrawFn) -> tuple[bytes, set[ImportStatement]]:
    """A module, and the import statements in it."""
    text, expected = "'''\nimport not_one\n'''\n# import nor_this\nx = 'from a import b'\n", set()
    for statement, meaning in draw(st.lists(imports(), max_size=6)):
        place = draw(st.integers(0, len(PLACES) - 1))
        text += PLACES[place].format(textwrap.indent(statement, " " * DEPTHS[place])) + "\n"
        expected.add(meaning)
    return text.encode(), expected


def statements(source: bytes) -> set[ImportStatement]:
    return set(import_statements(source, sha256_bytes(source), "tested"))


def keep(folder: Path, *some: bytes) -> list[set[ImportStatement]]:
    """What a build finds in these sources that keeps its findings in the folder."""
    with imports_kept(folder):
        return [statements(source) for source in some]


def known(folder: Path, source: bytes) -> bool:
    """Whether the source's statements are kept there: then even what is no Python is not parsed."""
    with imports_kept(folder):
        try:
            import_statements(b"no python at all", sha256_bytes(source), "tested")
        except SyntaxError:
            return False
    return True


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(modules=st.lists(sources(), max_size=3))
def test_what_is_kept_is_what_is_parsed(
    tmp_path_factory: pytest.TempPathFactory, modules: list[tuple[bytes, set[ImportStatement]]]
) -> None:
    folder = tmp_path_factory.mktemp("imports")
    texts, expected = [text for text, _ in modules], [found for _, found in modules]
    assert [statements(text) for text in texts] == expected
    assert keep(folder, *texts) == expected
    assert keep(folder, *texts) == expected
    assert all(known(folder, text) for text in texts)


def test_statements_are_found_again_by_the_digest_alone(tmp_path: Path) -> None:
    source = b"try:\n    import a.b, c as d\nexcept E:\n    from .. import e\n"
    expected = [{ImportStatement(("a.b", "c")), ImportStatement(("e",), "", 2)}]
    assert not known(tmp_path, source)
    assert keep(tmp_path, source) == keep(tmp_path, source) == expected
    assert known(tmp_path, source)


def test_another_source_is_parsed(tmp_path: Path) -> None:
    keep(tmp_path, b"import a")
    assert keep(tmp_path, b"import b") == [{ImportStatement(("b",))}]


def test_what_is_no_python_is_named_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError) as raised:
        keep(tmp_path, b"import (")
    assert raised.value.filename == "tested"
    assert not (tmp_path / KEPT_FILE).exists()


def test_a_damaged_file_is_not_believed(tmp_path: Path) -> None:
    file, source = tmp_path / KEPT_FILE, b"from a import b"
    keep(tmp_path, source)
    whole = file.read_bytes()
    damaged = [whole[:place] for place in range(0, len(whole), 7)] + [whole + b" ", b"\xff" * 200, whole[65:]]
    damaged += [whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :] for place, byte in enumerate(whole)]
    for data in damaged:
        file.write_bytes(data)
        assert not known(tmp_path, source), data
    assert keep(tmp_path, source) == [{ImportStatement(("b",), "a")}]
    assert file.read_bytes() == whole, "it is replaced"


def test_a_folder_in_the_files_place_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / KEPT_FILE).mkdir()
    with pytest.raises(ConfigError, match=f"{KEPT_FILE} cannot be written"):
        keep(tmp_path, b"import a")


def test_what_another_python_or_another_state_of_the_module_kept_is_not_believed(tmp_path: Path) -> None:
    source = b"import a"
    keep(tmp_path, source)
    body = (tmp_path / KEPT_FILE).read_bytes().partition(b"\n")[2]
    for reader in (b"", sha256_bytes(b"3.10.0 (main)" + b"other code").encode()):
        (tmp_path / KEPT_FILE).write_bytes(sha256_bytes(reader + body).encode() + b"\n" + body)
        assert not known(tmp_path, source)


def test_a_block_that_fails_keeps_nothing(tmp_path: Path) -> None:
    def failing() -> None:
        with imports_kept(tmp_path):
            statements(b"import a")
            raise KeyError("a build that failed")

    with pytest.raises(KeyError):
        failing()
    assert not known(tmp_path, b"import a")


def test_outside_the_block_all_is_parsed(tmp_path: Path) -> None:
    keep(tmp_path, b"import a")
    assert known(tmp_path, b"import a")
    with pytest.raises(SyntaxError):
        import_statements(b"no python at all", sha256_bytes(b"import a"), "tested")


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    old, used, new = b"import old", b"import used", b"import new"
    fill = [f"import a{number}".encode() for number in range(MAX_SOURCES - 2)]
    keep(tmp_path, used, old, *fill)
    keep(tmp_path, used, new)
    assert known(tmp_path, used)
    assert known(tmp_path, new)
    assert not known(tmp_path, old)
    kept = json.loads((tmp_path / KEPT_FILE).read_bytes().partition(b"\n")[2])
    assert len(kept) == MAX_SOURCES


def test_a_use_is_seen_by_a_prune(tmp_path: Path) -> None:
    keep(tmp_path, b"import a")
    os.utime(tmp_path / KEPT_FILE, (1, 1))
    keep(tmp_path, b"import a")
    assert (tmp_path / KEPT_FILE).stat().st_mtime > 1


@pytest.mark.slow
def test_builds_at_once_lose_nothing_and_see_whole_files(tmp_path: Path) -> None:
    begin = threading.Barrier(6)
    texts = [[f"import a{build}_{turn}".encode() for turn in range(15)] for build in range(6)]

    def building(build: int) -> None:
        begin.wait()
        for turn, text in enumerate(texts[build]):
            assert keep(tmp_path, text) == [{ImportStatement((f"a{build}_{turn}",))}]

    with ThreadPoolExecutor(max_workers=6) as threads:
        builds = [threads.submit(building, build) for build in range(6)]
    assert [build.exception() for build in builds] == [None] * 6
    assert all(known(tmp_path, text) for of_build in texts for text in of_build)
    assert {path.name for path in tmp_path.iterdir()} == {KEPT_FILE, LOCK_FILE}


def test_who_only_reads_waits_for_nobody(tmp_path: Path) -> None:
    keep(tmp_path, b"import a")
    writer = FileLock.acquire(tmp_path / LOCK_FILE)
    assert writer is not None
    with writer:
        assert known(tmp_path, b"import a")


# Digests of real steps' code, and how many sources were parsed for them.
WATCHED = """
import json, sys
from pathlib import Path
from toolchain.caching.code import code_digests
from toolchain.caching.imports import imports_kept
parsed = []
sys.addaudithook(lambda event, about: event == "compile" and about[0] is not None and parsed.append(about[1]))
with imports_kept(Path(sys.argv[1])):
    before = len(parsed)
    found = code_digests(["toolchain.steps.train_rows", "toolchain.steps.package", "models.digits.network"])
    print(json.dumps([found, len(parsed) - before]))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_same_code_and_parses_nothing(tmp_path: Path) -> None:
    def run() -> tuple[dict[str, str], int]:
        done = subprocess.run(
            [sys.executable, "-P", "-c", WATCHED, str(tmp_path)], capture_output=True, text=True, check=True
        )
        found, parsed = json.loads(done.stdout)
        return found, parsed

    (first, first_parsed), (second, second_parsed) = run(), run()
    assert first == second
    assert first_parsed == len(first)
    assert second_parsed == 0
