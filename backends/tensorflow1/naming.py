"""Names that TensorFlow allows, and what other names are written as."""

from __future__ import annotations

import re

_LEGAL_FIRST = re.compile(r"[A-Za-z0-9.]")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_./-]")
_ESCAPED = re.compile(r"-u([0-9a-f]+)-")


def to_name(name: str) -> str:
    """Return the name that an operation gets for a name of the IR, which is not empty.

    TensorFlow allows letters, digits and ``_ . / -``, the first of which is a letter, digit or ``.``. Any other letter
    is written as ``-uHEX-``, its code point, with a ``.`` before it at the start; so is the ``-`` of a name that looks
    like that, and the ``/`` at an end.

    >>> to_name("layer1.0.conv1.weight"), to_name("scope/fc/kernel:0"), to_name("_x")
    ('layer1.0.conv1.weight', 'scope/fc/kernel-u3a-0', '.-u5f-x')
    """
    text = re.sub(r"-(?=u[0-9a-f])", lambda match: _escaped(match.group()), name)
    text = "".join(_escaped(letter) if _ILLEGAL.match(letter) else letter for letter in text)
    if text.endswith("/"):
        text = text[:-1] + _escaped("/")
    if text[0] == "." and _ESCAPED.match(text[1:]):
        text = _escaped(".") + text[1:]  # else it would look like the mark below
    elif not _LEGAL_FIRST.match(text) and not _ESCAPED.match(text):
        text = _escaped(text[0]) + text[1:]
    return f".{text}" if text[0] == "-" else text


def from_name(name: str) -> str:
    """Return the IR's name for that of an operation, the inverse of `to_name`.

    >>> from_name("scope/fc/kernel-u3a-0"), from_name(to_name("-u41-")), from_name(".x")
    ('scope/fc/kernel:0', '-u41-', '.x')
    """
    text = name[1:] if name.startswith(".") and _ESCAPED.match(name[1:]) else name
    return _ESCAPED.sub(_letter, text)


def _escaped(letter: str) -> str:
    return f"-u{ord(letter):x}-"


def _letter(match: re.Match[str]) -> str:
    code = int(match.group(1), 16) if len(match.group(1)) < 7 else -1
    return chr(code) if 0 <= code < 0x110000 else match.group()
