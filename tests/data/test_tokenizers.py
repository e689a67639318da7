"""Tokenisers: the counts that are known, nothing lost, the same however the text is cut."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateloop.config import TextConfig
from gateloop.data import load_tokenizer, open_source
from gateloop.data import tokenizers as made
from gateloop.data import words as words_module
from gateloop.data.corpus import END_OF_TEXT, last_cut, mark_lines
from gateloop.data.text_source import find_corpus
from gateloop.data.tokenizers import gpt2, sentencepiece
from gateloop.data.tokenizers.byte import ByteTokenizer
from gateloop.data.tokenizers.word import WordTokenizer, vocabulary
from gateloop.errors import InputError
from gateloop.names import LineEnd, TokenizerName

TEXT = "".join(f" the cat {i} sat\n on thé  mat ▁ and {i % 7} ran .\n\n" for i in range(200))
FRAGMENTS = [
    " ",
    "  ",
    "\n",
    " \n",
    "\r",
    "\t",
    "\u3000",
    "\0",
    "▁",
    "a",
    "b1",
    "'s",
    ".",
    "é中",
    "😀",
]
AWKWARD = st.lists(st.sampled_from([*FRAGMENTS, "<0x41>"]), max_size=20).map("".join)


@pytest.fixture(scope="module")
def official(shared_data):
    pytest.importorskip("tokenizers")
    return gpt2.from_folder(shared_data / "gpt2")


@pytest.fixture(scope="module")
def pieces_model():
    pytest.importorskip("sentencepiece")
    counts = Counter(TEXT.replace(" ", " ▁").split())
    return sentencepiece.SentencePieceTokenizer(sentencepiece.train(counts, 400), "a test")


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("wikitext-2", "wt2", {"train": 2_448_382, "validation": 258_659, "test": 295_877}),
        ("wikitext-103", "wt103", {"validation": 249_735, "test": 285_234}),
    ],
)
def test_gpt2_counts_of_whole_files(shared_data, official, tmp_path, folder, name, expected):
    config = TextConfig(
        name=name,
        path=str(shared_data / folder),
        tokenizer_path=str(shared_data / "gpt2"),
        cache_dir=str(tmp_path),
    )
    info = open_source(config).info
    assert {split: info[split]["tokens"] for split in expected} == expected


def test_gpt2_files_with_the_line_ends_of_another_system(shared_data, official, tmp_path):
    for name in gpt2.FILES[0]:
        content = (shared_data / "gpt2" / name).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b"\n", b"\r\n"))
    found = gpt2.from_folder(tmp_path)
    assert found.fingerprint == official.fingerprint
    assert found.encode(TEXT).tolist() == official.encode(TEXT).tolist()


def test_gpt2_count_of_tinyshakespeare(shared_data, official):
    text = (shared_data / "tinyshakespeare" / "input.txt").read_text()
    ids = official.encode(text)
    assert len(ids) == 338_025
    assert official.decode(ids) == text
    assert ids.dtype == np.uint16
    assert official.size == 50_257
    assert official.end_of_text == 50_256


def test_word_counts_and_vocabulary_of_wikitext(shared_data, tmp_path):
    config = TextConfig(
        name="wt2",
        path=str(shared_data / "wikitext-2"),
        tokenizer=TokenizerName.word,
        cache_dir=str(tmp_path),
    )
    source = open_source(config)
    assert source.inputs == source.classes == source.tokenizer.size == 33_278
    for split, words in (("train", 2_088_628), ("validation", 217_646), ("test", 245_569)):
        assert source.info[split]["tokens"] == source.info[split]["words"] == words
        assert source.info[split]["out_of_vocabulary"] == 0
        text = (shared_data / "wikitext-2" / f"wiki.{split[:5]}.tokens").read_text()
        assert source.tokenizer.decode(source.streams[split].tokens) == text


@given(text=AWKWARD)
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost(official, pieces_model, text):
    for tokenizer in (official, pieces_model, ByteTokenizer(marks=True)):
        ids = tokenizer.encode(text)
        assert ids.max(initial=0) < tokenizer.size
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@given(text=AWKWARD)
@settings(max_examples=100, deadline=None)
def test_a_cut_changes_no_token(official, pieces_model, text):
    """At every place where reading in blocks of any size might cut."""
    cuts = {last_cut(text[:size]) for size in range(len(text) + 1)}
    word = WordTokenizer(vocabulary(Counter(TEXT.split())), "")
    for tokenizer in (official, pieces_model, word, ByteTokenizer(marks=False)):
        whole = tokenizer.encode(text).tolist()
        for cut in cuts:
            halves = [tokenizer.encode(half).tolist() for half in (text[:cut], text[cut:])]
            assert halves[0] + halves[1] == whole


def test_a_stream_holds_back_unfinished_characters():
    tokenizer = ByteTokenizer(marks=False)
    assert list(tokenizer.decode_stream(tokenizer.encode("aé😀"))) == ["a", "é", "😀"]
    assert list(tokenizer.decode_stream(iter([0xF0, 0x9F, ord("b")]))) == ["\ufffdb"]
    assert list(tokenizer.decode_stream([0xC3])) == ["\ufffd"]


def test_marks_stand_after_lines(official, pieces_model):
    text = " a b\n \n c\n"
    word = WordTokenizer(["a", "b", "c"], "")
    assert word.encode(mark_lines(text)).tolist() == [2, 3, 1, 4, 1]
    assert word.encode(text).tolist() == [2, 3, 1, 1, 4, 1]
    for tokenizer in (official, pieces_model, ByteTokenizer(marks=True)):
        end = tokenizer.end_of_text
        expected = [*tokenizer.encode(" a b\n"), end, *tokenizer.encode(" c\n"), end]
        assert tokenizer.encode(mark_lines(text)).tolist() == expected
        assert tokenizer.decode(expected) == " a b\n c\n"
        # the mark is never read out of the text itself
        assert end not in tokenizer.encode("<|endoftext|></s>")
    assert END_OF_TEXT not in TEXT


@pytest.mark.parametrize(
    ("prompt", "marked"),
    [
        ("a b", "a b"),
        ("a b\n", f"a b\n{END_OF_TEXT}"),
        (" \na\n\nb\n c", f"a\n{END_OF_TEXT}b\n{END_OF_TEXT} c"),
        ("\n", END_OF_TEXT),
        (" \n\n", END_OF_TEXT),
    ],
)
def test_a_prompt_is_read_as_its_lines_were_in_training(official, pieces_model, prompt, marked):
    for tokenizer in (official, pieces_model, ByteTokenizer(marks=True)):
        expected = tokenizer.encode(marked).tolist()
        assert made.encode_prompt(tokenizer, prompt, LineEnd.end_of_text).tolist() == expected
        plain = made.encode_prompt(tokenizer, prompt, LineEnd.newline)
        assert plain.tolist() == tokenizer.encode(prompt).tolist()
    word = WordTokenizer(["a", "b", "c"], "")
    expected = word.encode(marked.replace(END_OF_TEXT, "") or "\n").tolist()
    assert made.encode_prompt(word, prompt, LineEnd.end_of_text).tolist() == expected


def test_words_and_unknown_words():
    words = vocabulary(Counter("b a a <unk> c b d".split()))
    assert words == ["a", "b", "c", "d"]
    word = WordTokenizer(words, "")
    text = " a zebra <unk>\n d\n"
    assert word.encode(text).tolist() == [2, 0, 0, 1, 5, 1]
    assert word.unknown([text]) == 1
    assert word.decode(word.encode(text)) == " a <unk> <unk> \n d \n"


def test_out_of_vocabulary_rate_is_reported(tmp_path):
    for name, text in (("train", "a b\n" * 20), ("valid", "a x y\n"), ("test", "b <unk>\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    config = TextConfig(
        name="text",
        path=str(tmp_path),
        tokenizer=TokenizerName.word,
        cache_dir=str(tmp_path / "cache"),
        length=4,
    )
    info = open_source(config).info
    rates = [info[split]["out_of_vocabulary"] for split in ("train", "validation", "test")]
    assert rates == [0.0, 2 / 4, 0.0]  # a written <unk> is a word of its own


def test_processes_count_and_look_up_as_one_does(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(TEXT * 40)
    alone = _source(path, tmp_path / "alone", TokenizerName.word)
    monkeypatch.setattr(words_module, "ALONE", 1 << 14)
    monkeypatch.setattr(words_module, "cores", lambda: 2)
    together = _source(path, tmp_path / "together", TokenizerName.word)
    assert together.tokenizer.words == alone.tokenizer.words
    assert np.array_equal(together.streams["train"].tokens, alone.streams["train"].tokens)
    vocabulary_ = {"<unk>": 0, "\n": 1, **{w: i + 2 for i, w in enumerate(alone.tokenizer.words)}}
    lines = (TEXT * 40).split("\n")[: alone.info["train"]["lines"]]
    plainly = [vocabulary_[word] for line in lines for word in [*line.split(), "\n"]]
    assert alone.streams["train"].tokens.tolist() == plainly


def _source(path, cache, tokenizer, **more):
    return open_source(
        TextConfig(
            name="text", path=str(path), tokenizer=tokenizer, cache_dir=str(cache), length=8, **more
        )
    )


def test_sentencepiece_is_trained_the_same_again(tmp_path):
    pytest.importorskip("sentencepiece")
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    one = _source(path, tmp_path / "one", TokenizerName.sentencepiece, vocabulary=380).tokenizer
    two = _source(path, tmp_path / "two", TokenizerName.sentencepiece, vocabulary=380).tokenizer
    assert one.model == two.model
    assert one.fingerprint == two.fingerprint
    assert one.size <= 380
    assert len(one.encode(" the cat")) < 8  # it has learned something
    (tmp_path / "m.model").write_bytes(one.model)
    for given_ in (tmp_path / "m.model", tmp_path):
        again = _source(
            path, tmp_path / "two", TokenizerName.sentencepiece, tokenizer_path=str(given_)
        ).tokenizer
        assert again.encode(TEXT).tolist() == one.encode(TEXT).tolist()


@pytest.mark.parametrize("name", list(TokenizerName))
@pytest.mark.parametrize("line_end", list(LineEnd))
def test_a_run_folder_carries_its_tokeniser(request, tmp_path, name, line_end):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    more = {"vocabulary": 380, "line_end": line_end}
    if name is TokenizerName.sentencepiece:
        pytest.importorskip("sentencepiece")
    if name is TokenizerName.gpt2:
        request.getfixturevalue("official")
        more["tokenizer_path"] = str(request.getfixturevalue("shared_data") / "gpt2")
    source = _source(path, tmp_path / "cache", name, **more)
    folder = tmp_path / "run"
    folder.mkdir()
    source.tokenizer.save(folder)
    shutil.rmtree(tmp_path / "cache")
    loaded = load_tokenizer(folder)
    tokens = source.streams["test"].tokens
    assert loaded.decode(tokens) == source.tokenizer.decode(tokens)
    assert loaded.encode(TEXT).tolist() == source.tokenizer.encode(TEXT).tolist()
    facts = ("name", "size", "end_of_text", "fingerprint", "dtype")
    assert [getattr(loaded, fact) for fact in facts] == [
        getattr(source.tokenizer, fact) for fact in facts
    ]
    with pytest.raises(InputError, match=f"not one of the {name.value} tokeniser's"):
        loaded.token_bytes(loaded.size)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_tokenizer(folder)


def test_end_of_text_tokens_are_the_marked_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    source = _source(path, tmp_path / "cache", TokenizerName.byte, line_end=LineEnd.end_of_text)
    train = TEXT.split("\n")[: source.info["train"]["lines"]]
    plainly = [b for line in train if line.strip() for b in [*f"{line}\n".encode(), 256]]
    assert source.streams["train"].tokens.tolist() == plainly
    assert source.info["train"]["bytes"] == len("".join(f"{line}\n" for line in train).encode())


# -- what is refused -----------------------------------------------------------------------------


def refused(tmp_path, **more) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    config = TextConfig(
        name="text", path=str(path), cache_dir=str(tmp_path / "cache"), length=8, **more
    )
    with pytest.raises(InputError) as raised:
        open_source(config)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_wrong_tokenizer_paths(tmp_path):
    folder = tmp_path / "gpt2"
    for name in TokenizerName:
        said = refused(tmp_path, tokenizer=name, tokenizer_path=str(tmp_path / "nowhere"))
        expected = "has no meaning" if name.value in ("word", "byte") else "does not exist"
        assert expected in said
    folder.mkdir()
    assert "encoder.json" in refused(tmp_path, tokenizer_path=str(folder))
    (folder / "encoder.json").write_text("{}x")
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    assert "does not hold a byte-level BPE" in refused(tmp_path, tokenizer_path=str(folder))
    (folder / "encoder.json").write_text(json.dumps({"a": 0, "b": 2}))
    assert "gaps" in refused(tmp_path, tokenizer_path=str(folder))
    (folder / "encoder.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (folder / "vocab.bpe").write_text("a b\na c\n")
    said = refused(tmp_path, tokenizer_path=str(folder))
    assert said.startswith(str(folder)) and "the merge a c needs a token c" in said
    (folder / "encoder.json").write_bytes(b"\xff")
    assert "not valid UTF-8" in refused(tmp_path, tokenizer_path=str(folder))


def test_models_that_lose_text(tmp_path):
    library = pytest.importorskip("sentencepiece")
    pieces = {"tokenizer": TokenizerName.sentencepiece}
    path = tmp_path / "lossy.model"
    path.write_bytes(b"no model")
    assert "is not a sentencepiece model" in refused(tmp_path, tokenizer_path=str(path), **pieces)
    (tmp_path / "corpus").write_text(TEXT)
    for more in ({}, {"byte_fallback": True}, {"normalization_rule_name": "identity"}):
        with open(path, "wb") as file:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXT.splitlines()),
                model_writer=file,
                vocab_size=300,
                hard_vocab_limit=False,
                minloglevel=2,
                **more,
            )
        assert "does not give text back" in refused(tmp_path, tokenizer_path=str(path), **pieces)
    (tmp_path / "two.model").write_bytes(b"")
    assert "has 2 .model files" in refused(tmp_path, tokenizer_path=str(tmp_path), **pieces)


def test_a_vocabulary_without_room_for_the_characters(tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "many.txt").write_text("".join(f" {chr(0x4E00 + i)}\n" for i in range(200)))
    config = TextConfig(
        name="text",
        path=str(tmp_path / "many.txt"),
        tokenizer=TokenizerName.sentencepiece,
        vocabulary=300,
        cache_dir=str(tmp_path / "cache"),
    )
    with pytest.raises(InputError, match=r"cannot train data\.vocabulary=300") as raised:
        open_source(config)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("package", ["tokenizers", "sentencepiece"])
def test_a_missing_package_is_named(tmp_path, shared_data, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    more = {"tokenizer": TokenizerName("gpt2" if package == "tokenizers" else package)}
    if package == "tokenizers":
        monkeypatch.setitem(sys.modules, "tokenizers.models", None)
        more["tokenizer_path"] = str(shared_data / "gpt2")
    assert f"pip install {package}" in refused(tmp_path, **more)


def test_gpt2_without_files_or_network(tmp_path):
    said = refused(tmp_path, tokenizer=TokenizerName.gpt2)
    assert said.startswith("cannot fetch the gpt2 tokeniser")
    assert "data.tokenizer_path" in said


def test_gpt2_fetched_once(tmp_path, shared_data, official, monkeypatch):
    from gateloop.data import hub

    asked = []

    def download(repository, name, purpose):
        asked.append((repository, name))
        ours = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}[name]
        return (shared_data / "gpt2" / ours).read_bytes()

    monkeypatch.setattr(hub, "download", download)
    for _ in range(2):
        tokenizer = gpt2.fetched(tmp_path)
        assert tokenizer.fingerprint == official.fingerprint
    assert asked == [("gpt2", "vocab.json"), ("gpt2", "merges.txt")]


def test_nothing_heavy_is_imported_to_find_data():
    code = (
        "import sys, gateloop.data; heavy = {'torch', 'datasets', 'tokenizers', 'sentencepiece', "
        "'pyarrow', 'rich', 'hydra', 'pytorch_lightning'}; print(heavy & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_fingerprint_of_a_trained_tokeniser_is_the_one_it_carries(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    for name in (TokenizerName.word, TokenizerName.byte):
        config = TextConfig(name="text", path=str(path), tokenizer=name, cache_dir=str(tmp_path))
        corpus = find_corpus(config)
        known = made.tokenizer_fingerprint(config, corpus, tmp_path)
        assert known == made.make_tokenizer(config, corpus, tmp_path).fingerprint
