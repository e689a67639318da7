"""``data=wt103`` and ``data=wt2``: the official files, or the same text as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateloop.data import hub
from gateloop.data.cache import digest, writing
from gateloop.data.corpus import SPLITS, Split, given_path
from gateloop.errors import InputError

# Words with one end mark a line, of the word-level and of the raw files alike.
OFFICIAL = {
    "wt103": {"train": 103_227_021, "validation": 217_646, "test": 245_569},
    "wt2": {"train": 2_088_628, "validation": 217_646, "test": 245_569},
}
HUB = "Salesforce/wikitext"
HUB_CONFIG = {"wt103": "wikitext-103-raw-v1", "wt2": "wikitext-2-raw-v1"}
FILE_NAMES = {"train": "train", "validation": "valid", "test": "test"}
NEEDED = (
    "a folder with wiki.{train,valid,test}.tokens or wiki.{train,valid,test}.raw, with the "
    "dataset's {train,validation,test}-*.parquet, or one written by datasets.save_to_disk"
)


def official(name: str, splits: dict[str, Split]) -> bool:
    return all(splits[split].words == OFFICIAL[name][split] for split in SPLITS)


def files(name: str, path: str | None, cache: Path, *, fetch: bool) -> dict[str, list[Path]]:
    """The file of each split, from ``path``, or fetched into ``cache`` where it is None.

    InputError: nothing there, a file in place of the folder, a split's file lacking, no network.
    """
    if path is None:
        return _hub(name, cache, fetch)
    folder = given_path("data.path", path, NEEDED)
    key = f"data.path={path}"
    try:
        if not folder.is_dir():
            raise InputError(f"{key} is a file; data={name} needs {NEEDED}")
        entries = sorted(entry.name for entry in folder.iterdir())
    except PermissionError as error:
        raise InputError(f"cannot read {key}: permission denied; make it readable") from error
    found = {
        ending: [split for split in SPLITS if f"wiki.{FILE_NAMES[split]}.{ending}" in entries]
        for ending in ("tokens", "raw")
    }
    for ending, splits in found.items():
        if len(splits) == len(SPLITS):
            return _named(folder, ending)
    if "dataset_dict.json" in entries:
        return _converted(folder, cache, lambda: _saved(folder))
    parquet = {
        split: [folder / e for e in entries if e.startswith(split) and e.endswith(".parquet")]
        for split in SPLITS
    }
    if all(parquet.values()):
        return _converted(folder, cache, lambda: _parquet(parquet))
    for ending, splits in found.items():
        if splits:
            lacking = [FILE_NAMES[split] for split in SPLITS if split not in splits]
            raise InputError(
                f"{key} lacks {', '.join(f'wiki.{split}.{ending}' for split in lacking)}; "
                f"data={name} needs all three of wiki.{{train,valid,test}}.{ending}"
            )
    holds = f"holds {', '.join(entries[:5])}" if entries else "is empty"
    raise InputError(f"{key} {holds}; data={name} needs {NEEDED}")


def _named(folder: Path, ending: str) -> dict[str, list[Path]]:
    return {split: [folder / f"wiki.{FILE_NAMES[split]}.{ending}"] for split in SPLITS}


# -- datasets, written out as the files they were made from --------------------------------


def _hub(name: str, cache: Path, fetch: bool) -> dict[str, list[Path]]:
    folder = cache / "wikitext" / HUB_CONFIG[name]
    kept = _named(folder, "raw")
    if all(path.is_file() for paths in kept.values() for path in paths):
        return kept
    how = f"put the files in a folder and set data.path to it: {NEEDED}"
    if not fetch:
        raise InputError(f"data={name} is not on this machine yet; run it to fetch it, or {how}")
    _write(folder, _fetched(name, how))
    return kept


def _fetched(name: str, how: str) -> dict[str, Iterable[str]]:
    hub.prepare(f"{HUB} {HUB_CONFIG[name]}")
    datasets = _datasets(how)
    try:
        loaded = datasets.load_dataset(
            HUB, HUB_CONFIG[name], download_config=datasets.DownloadConfig(max_retries=1)
        )
        return {split: _texts(loaded[split], HUB) for split in SPLITS}
    except Exception as error:  # datasets, its hub client and its transport raise what they like
        raise InputError(f"cannot fetch data={name} ({hub.reason(error)}); {how}") from error


def _converted(folder: Path, cache: Path, rows: Any) -> dict[str, list[Path]]:
    """The dataset in ``folder`` as text files in the cache, known by its files' size and time."""
    stats = [
        f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    target = cache / "wikitext" / digest(*stats)
    named = _named(target, "raw")
    if not all(path.is_file() for paths in named.values() for path in paths):
        _write(target, rows())
    return named


def _write(folder: Path, rows: dict[str, Iterable[str]]) -> None:
    """A dataset's rows are the file's lines; a blank line, " " in the files, is empty in it."""
    for split in SPLITS:
        with writing(folder / f"wiki.{FILE_NAMES[split]}.raw", "WikiText's lines") as file:
            for row in rows[split]:
                line = row if row.endswith("\n") else row + "\n"
                file.write((" \n" if line == "\n" else line).encode())


def _saved(folder: Path) -> dict[str, Iterable[str]]:
    datasets = _datasets("give data.path the text files")
    try:
        loaded = datasets.load_from_disk(str(folder))
        return {split: _texts(loaded[split], folder) for split in SPLITS}
    except Exception as error:
        raise _not_a_dataset(folder, error) from error


def _parquet(files: dict[str, list[Path]]) -> dict[str, Iterable[str]]:
    try:
        from pyarrow.parquet import ParquetFile  # comes with datasets
    except ImportError as error:
        raise InputError("parquet needs the package datasets: pip install datasets") from error

    def rows(paths: list[Path]) -> Iterator[str]:
        for path in paths:
            try:
                for batch in ParquetFile(path).iter_batches(columns=["text"]):
                    yield from _strings(batch.column(0).to_pylist())
            except Exception as error:
                raise _not_a_dataset(path, error) from error

    return {split: rows(paths) for split, paths in files.items()}


def _not_a_dataset(path: Path | str, error: Exception) -> InputError:
    return InputError(
        f"{path} is not WikiText as a dataset with a column text ({hub.reason(error)})"
    )


def _texts(split: Any, where: Path | str) -> Iterator[str]:
    try:
        for batch in split.iter(batch_size=10_000):
            yield from _strings(batch["text"])
    except Exception as error:
        raise _not_a_dataset(where, error) from error


def _strings(rows: Iterable[Any]) -> Iterator[str]:
    """The rows as they are. Raises TypeError where one is no text."""
    for row in rows:
        if not isinstance(row, str):
            raise TypeError(f"{type(row).__name__} in place of a text")
        yield row


def _datasets(otherwise: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"the package datasets is not installed: pip install datasets, or {otherwise}"
        ) from error
    return datasets
