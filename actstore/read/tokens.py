"""Tokens as people read them: a vocabulary spells bytes and spaces in marks of its own."""

import re

import polars as pl

__all__ = ["as_read"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# Byte-level vocabularies, GPT-2's and all after it, write what prints as itself and other bytes from U+0100 on.
_PRINTED = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {**{chr(byte): byte for byte in _PRINTED}, **{chr(256 + i): byte for i, byte in enumerate(_OTHERS)}}


def as_read(tokens: pl.Series, vocabulary: pl.Series) -> pl.Series:
    """Tokens of a vocabulary as text, without spaces around them; one that is nothing else stands in quotes.

    Byte-level vocabularies are known by their `Ġ` for a space, SentencePiece's by its `▁`. A part of a character is
    U+FFFD.

    >>> as_read(pl.Series(["Ġthe", "Å", "Ċ", "ÃŁ"]), pl.Series(["Ġthe"])).to_list()
    ['the', '�', "'\\\\n'", 'ß']
    >>> as_read(pl.Series(["▁the", "<0x0A>", "▁"]), pl.Series(["▁the"])).to_list()
    ['the', "'\\\\n'", "' '"]
    """
    bytewise = bool(vocabulary.str.starts_with("Ġ").any())
    texts = {token: _text(token, bytewise=bytewise) for token in tokens.unique().drop_nulls()}
    return tokens.replace_strict(texts, default=None, return_dtype=pl.String)


def _text(token: str, *, bytewise: bool) -> str:
    if bytewise and all(letter in _BYTES for letter in token):
        text = bytes(_BYTES[letter] for letter in token).decode(errors="replace")
    else:
        byte = _BYTE.fullmatch(token)
        text = bytes([int(byte[1], 16)]).decode(errors="replace") if byte else token.replace("▁", " ")
    return text.strip() or (repr(text) if text else token)
