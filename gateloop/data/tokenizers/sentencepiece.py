"""Byte-pair encoding by the package sentencepiece, trained so that no text is lost."""

from __future__ import annotations

import io
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateloop.data.cache import writing
from gateloop.data.corpus import readable
from gateloop.data.tokenizers.base import Tokenizer
from gateloop.data.words import SPACE, cores
from gateloop.errors import InputError
from gateloop.files import write_json_atomic

SETTINGS = "bpe, identity, byte fallback, coverage 0.9995, whole <unk> and newline, version 2"
NEEDED = "a sentencepiece .model file, or a folder with one"
PROBE = "a  b\n\n = c =\n\té\u3000 <unk> 中 \U0001f600 x"  # what a lossy model would change


class SentencePieceTokenizer(Tokenizer):
    """A trained model; ``where`` names it in errors.

    Raises InputError where the package is missing, the bytes are no model, or the model does not
    give every text back as it was (then bits per byte would mean nothing).
    """

    name = "sentencepiece"

    def __init__(self, model: bytes, where: str, fingerprint: str | None = None):
        library = _library()
        self.model = model
        try:
            self._processor = library.SentencePieceProcessor(model_proto=model)
        except Exception as error:
            raise InputError(f"{where} is not a sentencepiece model") from error
        processor = self._processor
        self.size = processor.get_piece_size()
        self.end_of_text = processor.eos_id() if processor.eos_id() >= 0 else None
        self.fingerprint = fingerprint or sha256(model).hexdigest()[:32]
        self._bytes = [self._spelled(token) for token in range(self.size)]
        # sentencepiece writes a space as ▁, so a ▁ of the text goes byte by byte
        self._literal = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        lossless = all(processor.is_byte(token) for token in self._literal)
        if not lossless or self.decode(self.encode(PROBE)) != PROBE:
            raise InputError(
                f"{where} does not give text back unchanged; train it with identity "
                "normalisation, byte fallback, no dummy prefix and extra whitespace kept"
            )

    def _spelled(self, token: int) -> bytes:
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        piece = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def encode_plain(self, texts: list[str]) -> list[list[int]]:
        parts = [text.split(SPACE) for text in texts]
        flat = [part for several in parts for part in several]
        encoded = iter(self._processor.encode(flat, num_threads=cores()))
        ids = []
        for several in parts:
            tokens = next(encoded)
            for _ in several[1:]:
                tokens += self._literal
                tokens += next(encoded)
            ids.append(tokens)
        return ids

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise self.out_of_range(token)
        return self._bytes[token]

    def save(self, folder: Path) -> None:
        with writing(folder / "tokenizer.model", "the tokeniser") as file:
            file.write(self.model)
        facts = {"name": self.name, "fingerprint": self.fingerprint}
        write_json_atomic(folder / "tokenizer.json", facts)

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> SentencePieceTokenizer:
        return from_path(folder / "tokenizer.model", str(facts["fingerprint"]))


def from_path(path: Path, fingerprint: str | None = None) -> SentencePieceTokenizer:
    """The model in a file, or the only .model file of a folder."""
    if path.is_dir():
        models = sorted(path.glob("*.model"))
        if len(models) != 1:
            raise InputError(
                f"data.tokenizer_path={path} has {len(models)} .model files; needed: {NEEDED}"
            )
        path = models[0]
    with readable(path) as file:
        return SentencePieceTokenizer(file.read(), str(path), fingerprint)


def train(counts: Counter[str], vocabulary: int) -> bytes:
    """A model of at most so many pieces, from counted words ("▁word" after a space).

    BPE counts whole numbers, so that the same words give the same model on any machine.
    InputError where ``vocabulary`` has no room for the characters of the text.
    """
    library = _library()
    model = io.BytesIO()
    words = (f"{word}\t{counts[word]}" for word in sorted(counts) if not set("\t\0") & set(word))
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=words,
            input_format="tsv",
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            byte_fallback=True,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=0.9995,
            max_sentence_length=1 << 20,
            bos_id=-1,
            eos_id=1,
            unk_id=0,
            unk_piece="<unknown>",
            # WikiText's own mark for a rare word, and the line's end, are one symbol each.
            user_defined_symbols=[f"{SPACE}<unk>", "<unk>", f"{SPACE}\n", "\n"],
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"sentencepiece cannot train data.vocabulary={vocabulary} on this text "
            f"({reason[-160:]}); try another size"
        ) from error
    return model.getvalue()


def _library() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(
            "the package sentencepiece is not installed: pip install sentencepiece, "
            "or take data.tokenizer=byte"
        ) from error
    return sentencepiece
