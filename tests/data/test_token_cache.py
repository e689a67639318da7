"""The cache of tokens: whole or absent, checked, rebuilt, shared between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gateloop.config import TextConfig
from gateloop.data import cache as caching
from gateloop.data import open_source, token_cache
from gateloop.data.cache import cache_folder, keep, recall
from gateloop.errors import InputError
from gateloop.names import TokenizerName

LINES = "".join(f"line {i} of {i % 7}\n" for i in range(2000))


def config(folder: Path, tokenizer="word", cache=None) -> TextConfig:
    path = folder / "a.txt"
    if not path.exists():
        path.write_text(LINES)
    return TextConfig(
        name="text",
        path=str(path),
        tokenizer=TokenizerName(tokenizer),
        cache_dir=str(cache or folder / "cache"),
        length=16,
    )


def all_tokens(source) -> list[list[int]]:
    return [stream.tokens.tolist() for stream in source.streams.values()]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_tokens_are_made_once(tmp_path, monkeypatch):
    first = open_source(config(tmp_path))
    assert isinstance(first.streams["train"].tokens, np.memmap)
    assert first.streams["train"].tokens.dtype == np.uint16
    monkeypatch.setattr(token_cache, "_build", lambda *_: pytest.fail("tokenised again"))
    assert all_tokens(open_source(config(tmp_path))) == all_tokens(first)


def test_many_ids_take_four_bytes(tmp_path):
    words = " ".join(f"w{i}" for i in range(70_000))
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{words}\n")
    given = config(tmp_path)
    (tmp_path / "a.txt").unlink()
    given.path = str(tmp_path)
    source = open_source(given)
    assert source.streams["train"].tokens.dtype == np.int32
    assert len(set(source.streams["train"].tokens.tolist())) == 70_001


@pytest.mark.parametrize("damage", ["one bit", "cut", "longer", "gone", "facts", "facts gone"])
def test_a_damaged_cache_is_rebuilt(tmp_path, capfd, damage):
    whole = all_tokens(open_source(config(tmp_path)))
    tokens = max(
        (tmp_path / "cache" / "tokens").glob("*.bin"), key=lambda path: path.stat().st_size
    )
    content = bytearray(tokens.read_bytes())
    facts = tokens.with_suffix(".json")
    capfd.readouterr()
    if damage == "one bit":
        content[len(content) // 2] ^= 1
        tokens.write_bytes(content)
    elif damage == "cut":
        tokens.write_bytes(content[:-2])
    elif damage == "longer":
        tokens.write_bytes(content + b"\0\0")
    elif damage == "gone":
        tokens.unlink()
    elif damage == "facts":
        facts.write_text(facts.read_text()[:-9])
    else:
        facts.unlink()
    assert all_tokens(open_source(config(tmp_path))) == whole
    said = capfd.readouterr().err
    if damage == "facts gone":
        assert said == ""
    else:
        assert said.count("\n") == 1
        assert said.startswith("warning: ")
        assert str(tokens if damage != "facts" else facts) in said
    assert all_tokens(open_source(config(tmp_path))) == whole
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("tokenizer", ["word", "sentencepiece"])
def test_damaged_vocabularies_and_counts_are_made_again(tmp_path, capfd, tokenizer):
    if tokenizer == "sentencepiece":
        pytest.importorskip("sentencepiece")
    whole = all_tokens(open_source(config(tmp_path, tokenizer)))
    for kind in ("tokenizers", "corpora"):
        (kept,) = (tmp_path / "cache" / kind).iterdir()
        kept.write_text(kept.read_text().replace("1", "2", 1) if kind == "corpora" else "{")
    assert all_tokens(open_source(config(tmp_path, tokenizer))) == whole
    assert capfd.readouterr().err.count("is damaged; making it again") == 2


def test_two_processes_at_once(tmp_path):
    """Both build in the same moment; both get the right tokens, and nothing is left over."""
    given = config(tmp_path)
    (tmp_path / "a.txt").write_text(LINES * 20)
    code = (
        "import sys, time; from gateloop.data import open_source;"
        "from gateloop.config import TextConfig, TokenizerName\n"
        "while time.time() < float(sys.argv[3]): pass\n"
        "source = open_source(TextConfig(name='text', path=sys.argv[1], cache_dir=sys.argv[2],"
        "tokenizer=TokenizerName.word, length=16))\n"
        "print([int(s.tokens.astype(int).sum()) for s in source.streams.values()])"
    )
    for attempt in range(3):
        cache = tmp_path / f"cache{attempt}"
        start = str(time.time() + 1.0)
        both = [
            subprocess.Popen(
                [sys.executable, "-c", code, given.path, str(cache), start],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [process.communicate() for process in both]
        given.cache_dir = str(tmp_path / "alone")
        expected = [int(s.tokens.astype(int).sum()) for s in open_source(given).streams.values()]
        assert [out.strip() for out, _ in said] == [str(expected)] * 2, said
        assert not [path for path in files(cache) if path.suffix == ".tmp"]


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command: a full disk cannot be made")
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs is not permitted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "kept"), [("64k", ["corpora", "tokenizers"]), ("4k", ["corpora"])]
)
def test_a_full_disk(tmp_path, size, kept):
    given = config(tmp_path)
    (tmp_path / "a.txt").write_text(LINES * 20)
    with small_disk(tmp_path / "disk", size) as disk:
        given.cache_dir = str(disk)
        with pytest.raises(InputError) as raised:
            open_source(given)
        said = str(raised.value)
        assert "\n" not in said
        assert "no space left on the device" in said
        assert "data.cache_dir" in said
        assert str(disk) in said
        assert not list(disk.rglob("*.tmp"))
        assert not list(disk.rglob("*.bin"))
        assert sorted({path.parent.name for path in files(disk)}) == kept
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert open_source(given).name == "text"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written(tmp_path):
    given = config(tmp_path)
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(InputError, match="permission denied"):
        open_source(given)


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match="a file stands where a folder is needed") as raised:
        open_source(config(tmp_path))
    assert "\n" not in str(raised.value)


def test_what_killed_processes_left_is_swept_after_a_day(tmp_path):
    path = tmp_path / "a.json"
    old, new = (tmp_path / f".a.json.{i}.tmp" for i in range(2))
    for leftover in (old, new):
        leftover.write_text("half")
    os.utime(old, (time.time() - caching.ABANDONED - 9,) * 2)
    keep(path, {"a": 1}, "a test")
    assert recall(path, "a test") == {"a": 1}
    assert not old.exists()
    assert new.exists()


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GATELOOP_CACHE_DIR", str(tmp_path / "named"))
    assert cache_folder("given") == Path("given")
    assert cache_folder(None) == tmp_path / "named"
    monkeypatch.delenv("GATELOOP_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "gateloop"
    assert cache_folder("~/c") == tmp_path / "c"
