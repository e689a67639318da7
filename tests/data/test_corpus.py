"""Finding, counting, cutting and refusing text."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateloop.config import TextConfig
from gateloop.data import corpus as corpora
from gateloop.data import fingerprint, locate, open_source
from gateloop.data.corpus import END_OF_TEXT, Part, describe, last_cut, mark_lines, pieces, read
from gateloop.data.text_source import find_corpus
from gateloop.errors import InputError
from gateloop.names import TokenizerName

LINES = [f"line {i} says that {i * i} is a square\n" for i in range(100)]


def config(path, cache, **more) -> TextConfig:
    more = {"length": 16, "tokenizer": TokenizerName.byte} | more
    return TextConfig(name="text", path=str(path), cache_dir=str(cache), **more)


def text_of(split) -> str:
    return "".join(text for text, _ in pieces(split, headings=False, whole_lines=False))


def test_a_file_is_cut_by_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("".join(LINES))
    splits = find_corpus(config(file, tmp_path / "cache")).splits
    assert text_of(splits["train"]) == "".join(LINES[:90])
    assert text_of(splits["validation"]) == "".join(LINES[90:95])
    assert text_of(splits["test"]) == "".join(LINES[95:])


def test_a_folder_of_texts_is_cut_by_lines_over_all_files(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("".join(LINES[40:])[:-1])  # its last line is not ended
    (folder / "a.txt").write_text("".join(LINES[:40]))
    (folder / "empty.txt").write_text("")
    (folder / "notes.md").write_text("not this one\n")
    splits = find_corpus(config(folder, tmp_path / "cache")).splits
    assert text_of(splits["train"]) == "".join(LINES[:90])
    assert text_of(splits["test"]) == "".join(LINES[95:])[:-1]
    starts = [
        text for text, start in pieces(splits["train"], headings=False, whole_lines=False) if start
    ]
    assert [text.split("says")[0] for text in starts] == ["line 0 ", "line 40 "]


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_a_folder_with_named_splits(tmp_path, name):
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, text in (
        ("train", "a b\nc\n"),
        (name, "d e\n"),
        ("test", "f é\n\n"),
        ("other", "g"),
    ):
        (folder / f"{split}.txt").write_text(text)
    splits = find_corpus(config(folder, tmp_path / "cache")).splits
    assert [text_of(split) for split in splits.values()] == ["a b\nc\n", "d e\n", "f é\n\n"]
    facts = [(split.words, split.bytes, split.lines) for split in splits.values()]
    assert facts == [(5, 6, 2), (3, 4, 1), (4, 6, 2)]


def test_the_count_is_kept_by_size_and_time(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("".join(LINES))
    first = fingerprint(config(file, tmp_path / "cache"))
    monkeypatch.setattr(corpora, "_scan", lambda *_: pytest.fail("read again"))
    assert fingerprint(config(file, tmp_path / "cache")) == first
    monkeypatch.undo()
    file.write_text("".join(LINES).replace("line 3 ", "line 4 "))
    assert fingerprint(config(file, tmp_path / "cache")) != first
    file.write_text("".join(LINES))
    assert fingerprint(config(file, tmp_path / "other")) == first


def test_a_fingerprint_knows_text_and_tokeniser_but_not_the_path(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(LINES))
    cache = tmp_path / "cache"
    one = fingerprint(config(tmp_path / "a.txt", cache))
    assert one == fingerprint(config(tmp_path / "b.txt", cache))
    settings_ = [
        {"tokenizer": TokenizerName.word},
        {"tokenizer": TokenizerName.sentencepiece},
        {"tokenizer": TokenizerName.sentencepiece, "vocabulary": 512},
    ]
    found = {fingerprint(config(tmp_path / "a.txt", cache, **setting)) for setting in settings_}
    assert len(found | {one}) == 4
    assert not (cache / "tokens").exists()
    assert not (cache / "tokenizers").exists()  # nothing was trained for it


@given(text=st.text(st.sampled_from("ab é\u3000\n\t中=."), max_size=60), size=st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text_and_cut_no_word(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("pieces") / "a.txt"
    path.write_bytes(text.encode())
    part = Part(str(path), 0, len(text.encode()))
    with open(path, "rb") as file:
        found = list(corpora._read(file, part, size, last_cut))
    assert "".join(found) == text
    assert [word for piece in found for word in piece.split()] == text.split()


def test_a_text_without_a_place_to_cut_is_looked_through_once(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("文\r\n".encode() * 20_000)
    looked = []

    def cut_at(text, seen):
        looked.append(len(text) - seen)
        return last_cut(text, seen)

    size = 1_000
    with open(path, "rb") as file:
        found = list(corpora._read(file, Part(str(path), 0, 100_000), size, cut_at))
    assert "".join(found).encode() == path.read_bytes() and len(looked) == 99
    assert max(looked) <= size + 2


def test_marked_lines():
    text = "a b\n\n \n c\nunended"
    assert mark_lines(text) == f"a b\n{END_OF_TEXT} c\n{END_OF_TEXT}unended{END_OF_TEXT}"


def test_articles_are_found_and_mathematics_is_not(tmp_path):
    text = (
        " \n = One = \n \n words \n = 2 x = \n more \n \n = = Section = = \n \n \n"
        " = Two = \n \n = Three = \n \n"
    )
    path = tmp_path / "wiki.tokens"
    path.write_text(text)
    split = describe({name: [path] for name in corpora.SPLITS}, tmp_path / "cache")["train"]
    found = [(piece, start) for piece, start in pieces(split, headings=True, whole_lines=False)]
    assert "".join(piece for piece, _ in found) == text
    assert [
        piece.split("\n")[0 if i else 1] for i, (piece, start) in enumerate(found) if start
    ] == [
        " = One = ",
        " = Two = ",
        " = Three = ",
    ]


# -- what is refused, in one line each ---------------------------------------------------------


def refused(config: TextConfig) -> str:
    with pytest.raises(InputError) as raised:
        open_source(config)
    with pytest.raises(InputError):
        locate(config)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_missing_path_names_its_siblings(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("x")
    said = refused(config(tmp_path / "shakespear.txt", tmp_path))
    assert "does not exist" in said
    assert "shakespeare.txt" in said
    assert "data.path" in refused(TextConfig(name="text", cache_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a" * 300, "file name too long"), ("~nosuchuser/a", "could not determine home")],
)
@pytest.mark.parametrize(
    "given",
    [
        {"name": "text", "path": ...},
        {"name": "wt2", "path": ...},
        {"name": "text", "path": __file__, "tokenizer": "gpt2", "tokenizer_path": ...},
        {"name": "text", "path": __file__, "tokenizer": "sentencepiece", "tokenizer_path": ...},
    ],
    ids=["text", "wt2", "gpt2", "sentencepiece"],
)
def test_a_path_that_cannot_be_looked_at_is_one_line(tmp_path, given, path, reason):
    given = {key: path if value is ... else value for key, value in given.items()}
    if "tokenizer" in given:
        given["tokenizer"] = TokenizerName(given["tokenizer"])
    key = "data.tokenizer_path" if "tokenizer_path" in given else "data.path"
    with pytest.raises(InputError, match=rf"{key}=.*: {reason}.*; needed: ") as raised:
        open_source(TextConfig(**given, cache_dir=str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_missing_folder_on_the_way(tmp_path):
    (tmp_path / "corpora").mkdir()
    assert "corpora" in refused(config(tmp_path / "corpus" / "deep" / "a.txt", tmp_path))


@pytest.mark.parametrize("at", [0, 5, 4 << 20, (4 << 20) + 3, 9 << 20])
def test_invalid_utf8_names_file_and_byte(tmp_path, at):
    path = tmp_path / "a.txt"
    content = bytearray(("é" * 49 + "\n").encode() * 100_000)
    at -= at % 99  # a line's start, so that the byte stands between characters
    content[at : at + 1] = b"\xff"
    path.write_bytes(content[: at + 990] if at > 1000 else content[:9900])
    said = refused(config(path, tmp_path / "cache"))
    assert f"{path} is not valid UTF-8 at byte {at} " in said


def test_utf8_that_ends_early(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("".join(LINES).encode() + "é".encode()[:1])
    assert f"at byte {len(''.join(LINES))} " in refused(config(path, tmp_path / "cache"))


def test_empty_splits(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("")
    assert f"the train split is empty: {path}" in refused(config(path, tmp_path / "cache"))
    path.write_text("one line without an end")
    assert "split is empty" in refused(config(path, tmp_path / "cache"))
    path.write_text("".join(LINES[:9]))
    said = refused(config(path, tmp_path / "cache"))
    assert "the validation split is empty" in said
    assert "20 lines" in said
    path.write_text("".join(LINES[:20]))
    assert find_corpus(config(path, tmp_path / "cache")).splits["test"].lines == 1


def test_folder_without_text_or_without_a_split(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    assert "has no .txt file" in refused(config(folder, tmp_path / "cache"))
    (folder / "train.txt").write_text("a\n")
    (folder / "test.txt").write_text("a\n")
    assert "no valid.txt" in refused(config(folder, tmp_path / "cache"))


def test_a_split_too_short_to_predict_in(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text("word " * 50 if name != "test" else "x")
    with pytest.raises(InputError, match=r"the test split .*test.txt\) has 1 token"):
        open_source(config(folder, tmp_path / "cache"))
    (folder / "test.txt").write_text("xy")
    with pytest.raises(InputError, match=r"data.length=250 is too long .* at most 249"):
        open_source(config(folder, tmp_path / "cache", length=250))
    assert open_source(config(folder, tmp_path / "cache", length=249)).samples(0, 0, 3)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root to become another user"
)
def test_unreadable_file_and_folder(tmp_path):
    """As another user, whom permissions bind."""
    folder = tmp_path / "texts"
    folder.mkdir()
    file = folder / "a.txt"
    file.write_text("".join(LINES))
    file.chmod(0o600)
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest-" in str(parent):  # pytest's own folders, closed to others
            parent.chmod(0o755)
    code = (
        "import os, sys; from gateloop.data import locate; from gateloop.config import TextConfig;"
        "from gateloop.errors import InputError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: locate(TextConfig(name='text', path=sys.argv[1], cache_dir='/nowhere'))\n"
        "except InputError as error: print(error)"
    )

    def said() -> str:
        command = [sys.executable, "-c", code, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said().startswith(f"cannot read {file}: permission denied")
    folder.chmod(0o700)
    assert "permission denied" in said()
    assert said().count("\n") == 1


def test_reading_a_part_is_reading_the_bytes_between(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(LINES))
    start, stop = len("".join(LINES[:3])), len("".join(LINES[:7]))
    assert "".join(read(Part(str(path), start, stop))) == "".join(LINES[3:7])
