"""``data=text``: any UTF-8 file or folder."""

from __future__ import annotations

from pathlib import Path

from gateloop.data.corpus import SPLITS, given_path
from gateloop.errors import InputError

NAMES = {"train": ("train",), "validation": ("valid", "validation", "val"), "test": ("test",)}
NEEDED = "a UTF-8 file, or a folder with train.txt, valid.txt and test.txt or with any .txt files"


def files(path: str | None) -> dict[str, list[Path]]:
    """The files of each split; "all" where they are to be cut by lines 90/5/5.

    InputError: no path, nothing there, a folder without text or with only some of the splits.
    """
    if path is None:
        raise InputError(f"data=text needs data.path: {NEEDED}")
    given = given_path("data.path", path, NEEDED)
    key = f"data.path={path}"
    try:
        if not given.is_dir():
            return {"all": [given]}
        texts = sorted(entry for entry in given.iterdir() if entry.suffix == ".txt")
    except PermissionError as error:
        raise InputError(f"cannot read {key}: permission denied; make it readable") from error
    by_stem = {text.stem: text for text in texts}
    named = {
        split: next(by_stem[name] for name in names if name in by_stem)
        for split, names in NAMES.items()
        if by_stem.keys() & set(names)
    }
    if len(named) == len(SPLITS):
        return {split: [named[split]] for split in SPLITS}
    if "train" in named and len(named) == 2:
        lacking = next(split for split in SPLITS if split not in named)
        raise InputError(
            f"{key} has {' and '.join(p.name for p in named.values())} but no "
            f"{NAMES[lacking][0]}.txt; add it, or rename them to be cut by lines 90/5/5"
        )
    if not texts:
        raise InputError(f"{key} has no .txt file; needed: {NEEDED}")
    return {"all": texts}
