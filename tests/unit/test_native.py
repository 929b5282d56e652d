"""C compiled when it is wanted: kept, made anew when damaged, and refused with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smoothgen import native
from smoothgen.native import NativeError, library

SOURCE = """
#ifndef ADDED
#define ADDED 1
#endif
int next(int x) { return x + ADDED; }
"""


def there_is_a_compiler() -> bool:
    try:
        native._compiler()
    except NativeError:
        return False
    return True


pytestmark = pytest.mark.skipif(not there_is_a_compiler(), reason="no C compiler here")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMOOTHGEN_CACHE", str(tmp_path / "cache"))
    native._library.cache_clear()
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "next.c").write_text(SOURCE)
    yield sources
    native._library.cache_clear()


def kept(directory: Path) -> list[Path]:
    return sorted((directory.parent / "cache" / "native").glob("*.so"))


def test_compiled_once_and_found_again(directory):
    assert library(directory, "next.c").next(1) == 2
    (made,) = kept(directory)
    written = made.stat().st_mtime_ns
    native._library.cache_clear()
    assert library(directory, "next.c").next(1) == 2
    assert [path.stat().st_mtime_ns for path in kept(directory)] == [written]


def test_macros_and_changed_sources_make_libraries_of_their_own(directory):
    assert library(directory, "next.c", ("ADDED=5",)).next(1) == 6
    assert library(directory, "next.c").next(1) == 2
    (directory / "next.c").write_text(SOURCE.replace("ADDED 1", "ADDED 2"))
    native._library.cache_clear()
    assert library(directory, "next.c").next(1) == 3
    assert len(kept(directory)) == 3


def test_a_damaged_library_is_made_anew(directory):
    native_cache = directory.parent / "cache" / "native"
    library(directory, "next.c")
    (made,) = kept(directory)
    made.unlink()  # not written over: this process has it open
    made.write_bytes(b"no library")
    native._library.cache_clear()
    assert library(directory, "next.c").next(1) == 2
    assert [path.name for path in native_cache.glob("*.so")] == [made.name]


def test_no_compiler_is_said_with_what_to_do(directory, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    with pytest.raises(NativeError, match=r"no C compiler found.*pip install smoothgen\[compiled\]"):
        library(directory, "next.c")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(directory):
    (directory / "next.c").write_text("int next(int x) { return undeclared; }")
    with pytest.raises(NativeError, match=r"exit code 1.*undeclared") as first:
        library(directory, "next.c")
    assert not kept(directory)
    with pytest.raises(NativeError) as second:
        library(directory, "next.c")
    assert second.value is first.value  # tried once


def test_a_compiler_that_is_none_is_told(directory, monkeypatch):
    monkeypatch.setenv("CC", str(directory / "nothing"))
    with pytest.raises(NativeError, match=r"nothing.*cannot be run"):
        library(directory, "next.c")


def test_a_cache_that_others_can_write_is_refused(directory):
    place = directory.parent / "cache" / "native"
    place.mkdir(parents=True)
    os.chmod(place, 0o777)
    with pytest.raises(NativeError, match="can be written by, another user; set SMOOTHGEN_CACHE"):
        library(directory, "next.c")


def test_a_cache_that_cannot_be_made_is_told(directory, monkeypatch):
    monkeypatch.setenv("SMOOTHGEN_CACHE", str(directory / "next.c"))
    with pytest.raises(NativeError, match=r"cannot be kept or loaded.*SMOOTHGEN_CACHE"):
        library(directory, "next.c")
