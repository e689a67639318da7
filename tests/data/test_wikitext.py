"""WikiText in each of the forms it is handed about in."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time

import pytest

from gateloop.config import TextConfig
from gateloop.data import fingerprint, locate, open_source
from gateloop.data.text_source import find_corpus
from gateloop.data.wikitext import FILE_NAMES, OFFICIAL
from gateloop.errors import InputError
from gateloop.names import TokenizerName

TEXTS = {
    "train": " \n = One = \n \n The word is <unk> . \n \n = Two = \n \n Another é . \n \n",
    "validation": " \n = Three = \n \n A sentence . \n",
    "test": " \n = Four = \n \n Its end . \n \n",
}


def config(path, cache, name="wt103", **more) -> TextConfig:
    more = {"length": 4, "tokenizer": TokenizerName.word} | more
    path = None if path is None else str(path)
    return TextConfig(name=name, path=path, cache_dir=str(cache), **more)


def written(folder, ending="tokens", texts=TEXTS):
    folder.mkdir(exist_ok=True)
    for split, text in texts.items():
        (folder / f"wiki.{FILE_NAMES[split]}.{ending}").write_text(text)
    return folder


def rows(text: str) -> list[str]:
    """A file's lines as the published dataset has them: a blank line is an empty row."""
    return [line if line.strip() else "" for line in text.splitlines(keepends=True)]


def contents(config: TextConfig) -> dict[str, str]:
    found = find_corpus(config)
    return {
        name: "".join(open(part.path, newline="").read() for part in split.parts)
        for name, split in found.splits.items()
    }


@pytest.mark.parametrize("ending", ["tokens", "raw"])
def test_files(tmp_path, ending):
    folder = written(tmp_path / "wiki", ending)
    assert contents(config(folder, tmp_path / "cache")) == TEXTS
    source = open_source(config(folder, tmp_path / "cache", reset_at_documents=True))
    assert source.name == "wt103-partial"
    assert source.info["partial"]
    assert source.streams["train"].documents.tolist() == [0, 13]
    assert source.tokenizer.decode(source.streams["train"].tokens) == TEXTS["train"]


def test_a_folder_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {name: datasets.Dataset.from_dict({"text": rows(TEXTS[name])}) for name in TEXTS}
    datasets.DatasetDict(columns).save_to_disk(str(tmp_path / "saved"))
    given = config(tmp_path / "saved", tmp_path / "cache")
    assert contents(given) == TEXTS
    same = config(written(tmp_path / "wiki"), tmp_path / "cache")
    assert fingerprint(given) == fingerprint(same)
    (tmp_path / "saved" / "train" / "state.json").write_text("{")
    with pytest.raises(InputError, match="is not WikiText as a dataset") as raised:
        locate(config(tmp_path / "saved", tmp_path / "other"))
    assert "\n" not in str(raised.value)


def test_parquet_in_several_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name, text in TEXTS.items():
        lines = rows(text)
        for i, half in enumerate((lines[:2], lines[2:])):
            target = folder / f"{name}-0000{i}-of-00002.parquet"
            datasets.Dataset.from_dict({"text": half}).to_parquet(str(target))
    assert contents(config(folder, tmp_path / "cache")) == TEXTS
    (folder / "test-00001-of-00002.parquet").write_bytes(b"PAR1 is not all")
    with pytest.raises(InputError, match=r"test-00001-of-00002\.parquet is not WikiText"):
        locate(config(folder, tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("column", [[None, None], [1, 2], [b"a", b"b"], [" = One = ", None]])
@pytest.mark.parametrize("saved", [False, True], ids=["parquet", "saved"])
def test_a_column_that_is_no_text(tmp_path, column, saved):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "wiki"
    folder.mkdir()
    columns = {name: datasets.Dataset.from_dict({"text": column}) for name in TEXTS}
    if saved:
        datasets.DatasetDict(columns).save_to_disk(str(folder))
    else:
        for name, table in columns.items():
            table.to_parquet(str(folder / f"{name}-0.parquet"))
    with pytest.raises(
        InputError, match=r"is not WikiText as a dataset .*in place of a text"
    ) as raised:
        locate(config(folder, tmp_path / "cache"))
    assert str(raised.value).startswith(str(folder)) and "\n" not in str(raised.value)


def test_fetched_through_datasets_and_then_kept(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*names, **_):
        asked.append(names)
        return {name: datasets.Dataset.from_dict({"text": rows(TEXTS[name])}) for name in TEXTS}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    given = config(None, tmp_path / "cache")
    with pytest.raises(InputError, match="not on this machine yet"):
        locate(given, fetch=False)
    assert asked == []
    assert contents(given) == TEXTS
    assert contents(given) == TEXTS
    assert asked == [("Salesforce/wikitext", "wikitext-103-raw-v1")]
    assert locate(given, fetch=False) == "wt103-partial"
    locate(config(None, tmp_path / "cache", name="wt2"))
    assert asked[1] == ("Salesforce/wikitext", "wikitext-2-raw-v1")


CODE = (
    "import sys; from gateloop.data import locate; from gateloop.config import TextConfig;"
    "from gateloop.errors import InputError\n"
    "try: locate(TextConfig(name='wt103', cache_dir=sys.argv[1]))\n"
    "except InputError as error: print(error)"
)


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "nobody answers"])
def test_without_network_it_fails_soon_and_says_what_to_do(tmp_path, monkeypatch, answers):
    pytest.importorskip("datasets")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen(20)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        for offline in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(offline, raising=False)
        command = [sys.executable, "-c", CODE, str(tmp_path / "cache")]
        begun = time.monotonic()
        said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        assert time.monotonic() - begun < 45
    lines = said.stdout.splitlines()
    assert len(lines) == 1, said.stdout
    assert said.stderr == ""
    assert lines[0].startswith("cannot fetch data=wt103 (")
    assert "set data.path" in lines[0]
    assert "wiki.{train,valid,test}.tokens" in lines[0]


def refused(given: TextConfig) -> str:
    with pytest.raises(InputError) as raised:
        open_source(given)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_is_not_wikitext(tmp_path):
    cache = tmp_path / "cache"
    (tmp_path / "wikitext-103").mkdir()
    said = refused(config(tmp_path / "wikitext103", cache))
    assert "does not exist" in said
    assert "wikitext-103" in said
    assert "is empty" in refused(config(tmp_path / "wikitext-103", cache))
    folder = written(tmp_path / "wiki")
    said = refused(config(folder / "wiki.train.tokens", cache))
    assert "is a file" in said
    (folder / "wiki.train.tokens").unlink()
    assert "lacks wiki.train.tokens" in refused(config(folder, cache))
    (folder / "wiki.train.tokens").write_text("")
    assert "the train split is empty" in refused(config(folder, cache))
    (folder / "wiki.train.tokens").write_bytes(b" \n caf\xe9 \n")
    assert "is not valid UTF-8 at byte 6" in refused(config(folder, cache))


def test_the_official_files_and_the_cut_ones(shared_data, tmp_path):
    assert locate(config(shared_data / "wikitext-2", tmp_path, name="wt2")) == "wt2"
    assert locate(config(shared_data / "wikitext-2", tmp_path, name="wt103")) == "wt103-partial"
    assert locate(config(shared_data / "wikitext-103", tmp_path)) == "wt103-partial"
    found = find_corpus(config(shared_data / "wikitext-103", tmp_path)).splits
    for split in ("validation", "test"):
        assert found[split].words == OFFICIAL["wt103"][split] == OFFICIAL["wt2"][split]
    assert found["train"].words == 548_410
    # raw and word-level files have the same counts
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("valid", "test"):
        shutil.copy(shared_data / "wikitext-raw" / f"wiki.{name}.raw", raw)
    shutil.copy(shared_data / "wikitext-raw" / "wiki.valid.raw", raw / "wiki.train.raw")
    found = find_corpus(config(raw, tmp_path)).splits
    assert [found[split].words for split in ("validation", "test")] == [217_646, 245_569]


def test_articles_of_the_official_files(shared_data, tmp_path):
    given = config(
        shared_data / "wikitext-2",
        tmp_path,
        name="wt2",
        tokenizer=TokenizerName.byte,
        reset_at_documents=True,
    )
    source = open_source(given)
    counts = {split: len(stream.documents) for split, stream in source.streams.items()}
    assert counts == {"train": 600, "validation": 60, "test": 60}  # as published
