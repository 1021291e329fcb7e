"""Tokenizers as they are kept in an engine set: one JSON text each, padding and truncation included."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from stt2v.engine.errors import ExportError

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP_PADDING = "!"  # token 0, with which open_clip fills up what its towers are given


def byte_tokenizer(length: int = LENGTH) -> str:
    """One token a byte, for networks that were never trained on text: 258 tokens, the text between two marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, START, END])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    return _fixed_length(tokenizer, vocabulary[END], END, length)


def read_tokenizer(path: Path, padding: str = END, length: int = LENGTH) -> str:
    """A published CLIP tokenizer that fills up with the token `padding`.

    Raises ExportError when the file is missing, no tokenizer or without that token.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise ExportError(f"{path} is no tokenizer ({error}); run `stt2v pull` again") from error
    if (number := tokenizer.token_to_id(padding)) is None:
        raise ExportError(f"{path} has no token {padding!r}, expected one of CLIP's tokenizers; run `stt2v pull` again")
    return _fixed_length(tokenizer, number, padding, length)


def _fixed_length(tokenizer: Tokenizer, padding: int, token: str, length: int) -> str:
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=padding, pad_token=token, length=length)
    text: str = tokenizer.to_str()
    return text
