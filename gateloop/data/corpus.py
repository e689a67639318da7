"""A corpus: text files, what is known of each split, and their text in pieces."""

from __future__ import annotations

import codecs
import difflib
import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from gateloop.data.cache import digest, keep, recall
from gateloop.data.progress import Progress
from gateloop.errors import InputError

SPLITS = ("train", "validation", "test")
BLOCK = 1 << 22  # bytes read at once
PIECE = 1 << 19  # bytes of text handed to a tokeniser at once
END_OF_TEXT = "\udcff"  # the mark within text: a lone surrogate, which UTF-8 cannot contain

# A WikiText article starts with its title, alone between two blank lines: " = Title = ".
HEADING = re.compile(rb" \n( = (?!= )[^\n]*(?<! =) = \n)(?= \n)")


@dataclass(frozen=True)
class Part:
    """A range of bytes of a file, from a line's start to a line's end."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Split:
    """A split and its counts; ``words`` has one end mark for each line, ``bytes`` the newlines."""

    name: str
    parts: tuple[Part, ...]
    sha256: str
    bytes: int
    words: int
    lines: int
    unknowns: int  # the word <unk>, which word-level WikiText has for rare words

    @property
    def where(self) -> str:
        first, last = self.parts[0].path, self.parts[-1].path
        return first if first == last else f"{first} … {last}"


@dataclass(frozen=True)
class Corpus:
    """Three splits under the name that results carry. ``headings``: WikiText's articles."""

    name: str
    splits: dict[str, Split]
    headings: bool

    @property
    def fingerprint(self) -> str:
        return digest(*(self.splits[name].sha256 for name in SPLITS))


# -- describing --------------------------------------------------------------------------


def describe(files: dict[str, list[Path]], cache: Path) -> dict[str, Split]:
    """Hash and count the splits; each read once, then known by its files' size and time.

    ``files`` gives the files of each split, or under "all" those to be cut by lines 90/5/5.
    InputError: unreadable, invalid UTF-8, an empty split.
    """
    stats = {split: [_stat(path) for path in paths] for split, paths in files.items()}
    path = cache / "corpora" / f"{digest(json.dumps(stats))}.json"
    kept = recall(path, "the count of a corpus")
    if kept is None:
        parts = _cut_by_lines(files["all"]) if "all" in files else _whole(files)
        total = sum(part.stop - part.start for split in SPLITS for part in parts[split])
        with Progress("counting words", total) as progress:
            splits = [_scan(split, parts[split], progress) for split in SPLITS]
        kept = {split.name: asdict(split) for split in splits}
        keep(path, kept, "the count of a corpus")
    for facts in kept.values():
        facts["parts"] = tuple(Part(**part) for part in facts["parts"])
    splits_by_name = {name: Split(**facts) for name, facts in kept.items()}
    for split in splits_by_name.values():
        if split.words == split.lines:
            where = split.where if split.parts else ", ".join(map(str, files.get("all", [])))
            raise InputError(
                f"the {split.name} split is empty: {where} has no words for it"
                + ("; a text cut 90/5/5 needs 20 lines or more" if "all" in files else "")
            )
    return splits_by_name


def _stat(path: Path) -> list[str | int]:
    path = path.resolve()
    with readable(path) as file:
        status = os.fstat(file.fileno())
    return [str(path), status.st_size, status.st_mtime_ns]


def _whole(files: dict[str, list[Path]]) -> dict[str, tuple[Part, ...]]:
    return {
        split: tuple(Part(str(path.resolve()), 0, path.stat().st_size) for path in paths)
        for split, paths in files.items()
    }


def _cut_by_lines(files: list[Path]) -> dict[str, tuple[Part, ...]]:
    """The first 90% of the lines of all files together, the next 5%, the rest."""
    lines = 0
    for path in files:
        with readable(path) as file:
            last = b"\n"
            while block := file.read(BLOCK):
                lines += block.count(b"\n")
                last = block
            lines += not last.endswith(b"\n")
    bounds = [lines * 90 // 100, lines * 95 // 100, lines]
    parts: dict[str, list[Part]] = {split: [] for split in SPLITS}
    line, split = 0, 0
    for path in files:
        name, start, position = str(path.resolve()), 0, 0
        with readable(path) as file:
            for text in file:
                while line == bounds[split]:
                    if position > start:
                        parts[SPLITS[split]].append(Part(name, start, position))
                    start, split = position, split + 1
                line, position = line + 1, position + len(text)
        if position > start:
            parts[SPLITS[split]].append(Part(name, start, position))
    return {split: tuple(ranges) for split, ranges in parts.items()}


def _scan(name: str, parts: tuple[Part, ...], progress: Progress) -> Split:
    content = hashlib.sha256()
    size = words = lines = unknowns = 0
    for part in parts:
        content.update(f"{part.stop - part.start}\n".encode())
        size += part.stop - part.start
        for text in read(part, content):
            words += len(text.split())
            lines += text.count("\n")
            unknowns += text.count("<unk>")
            progress.advance(len(text))
    return Split(name, parts, content.hexdigest(), size, words + lines, lines, unknowns)


# -- reading -----------------------------------------------------------------------------


def given_path(key: str, text: str, needed: str) -> Path:
    """The path that ``key`` gives; InputError where nothing is there, or nobody may look."""
    try:
        path = Path(text).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder locked, no such user
        reason = str(getattr(error, "strerror", None) or error).rstrip(".").lower()
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise InputError(f"{key}={shown}: {reason}; needed: {needed}") from error
    if not exists:
        raise missing(f"{key}={text}", path, needed)
    return path


def missing(key: str, path: Path, needed: str) -> InputError:
    """The error for a path that is not there, with the nearest names beside it."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir())
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, 3, 0.4) or names[:3]
    hint = f"; {parent} has {', '.join(near)}" if near else f"; {parent} is empty"
    return InputError(f"{key} does not exist{hint}; needed: {needed}")


def readable(path: Path | str) -> BufferedReader:
    """The file, open for reading bytes; InputError where it cannot be read."""
    try:
        return open(path, "rb")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"cannot read {path}: {reason}; make it a file that this user may read"
        ) from error


def read(part: Part, content: Any = None) -> Iterator[str]:
    """The text of a part, cut where no tokeniser's result changes; InputError on invalid UTF-8."""
    with readable(part.path) as file:
        yield from _read(file, part, BLOCK, last_cut, content)


def _read(
    file: BinaryIO, part: Part, size: int, cut_at: Callable[[str, int], int], content: Any = None
) -> Iterator[str]:
    file.seek(part.start)
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, rest = part.start, ""
    while position < part.stop:
        block = file.read(min(size, part.stop - position))
        if not block:
            raise InputError(f"{part.path} became shorter while it was read; start again")
        if content is not None:
            content.update(block)
        pending = len(decoder.getstate()[0])
        try:
            text = rest + decoder.decode(block, final=position + len(block) == part.stop)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{part.path} is not valid UTF-8 at byte {position - pending + error.start} "
                f"({error.reason}); convert it to UTF-8"
            ) from error
        position += len(block)
        cut = len(text) if position == part.stop else cut_at(text, max(0, len(rest) - 2))
        if cut:
            yield text[:cut]
        rest = text[cut:]


def last_cut(text: str, seen: int = 0) -> int:
    """The last place where a text may be cut without changing its tokens or words; 0: none.

    ``seen``: letters before which there is known to be none.
    Before a space that a word follows, or after a lone newline between words: byte-level BPE
    gives the last space of a run to the word, and no piece of ours crosses either place.
    """
    for i in range(len(text) - 2, max(1, seen - 1), -1):
        if text[i] == " " and not text[i + 1].isspace():
            return i
        if text[i] == "\n" and not text[i - 1].isspace() and not text[i + 1].isspace():
            return i + 1
    return 0


def last_line(text: str, seen: int = 0) -> int:
    """Where the last unfinished line starts; ``seen`` letters are known to end none."""
    return text.rfind("\n", seen) + 1


def pieces(split: Split, *, headings: bool, whole_lines: bool) -> Iterator[tuple[str, bool]]:
    """The text of a split in order, with whether a document starts there.

    Documents are WikiText's articles where there are ``headings``, else the files.
    """
    cut_at = last_line if whole_lines else last_cut
    for part in split.parts:
        with readable(part.path) as file:
            starts = _articles(file, part) if headings else [part.start]
            for start, stop in zip(starts, [*starts[1:], part.stop], strict=True):
                first = True
                for text in _read(file, Part(part.path, start, stop), PIECE, cut_at):
                    yield text, first
                    first = False


def _articles(file: BinaryIO, part: Part) -> list[int]:
    """Where documents start; what stands before the first title belongs to it if it is blank."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        found = [match.start(1) for match in HEADING.finditer(view, part.start, part.stop)]
        blank = found and not view[part.start : found[0]].strip()
    return [part.start, *(found[1:] if blank else found)]


def mark_lines(text: str) -> str:
    """End-of-text after each line that is not blank; blank lines are dropped."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return "".join(line + END_OF_TEXT for line in lines if line.strip())
