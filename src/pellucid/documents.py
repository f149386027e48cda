"""Text longer than a sentence: lines split into sentences, translated, and joined again in the same layout.

A line is a paragraph: line in, line out, with its indentation; blank lines stay as they are. Text that is wrapped in
the middle of sentences is to be unwrapped first. Where sentences end is decided by the library sentencex, which knows
the marks and abbreviations of many languages. Knows nothing of models or of how a sentence is translated.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.errors import ConfigError, MissingExtraError

__all__ = ["SplitLine", "join_sentences", "sentence_splitter", "split_line", "translate_document"]

Splitter = Callable[[str], list[str]]
"""A text, cut into consecutive pieces, a sentence each."""

_CLOSING = frozenset("\"'”’»›)]}）】」』》〉〕］｝")


@dataclass(frozen=True, slots=True)
class SplitLine:
    """One line of a document.

    Attributes:
        indent: the blanks it begins with; of a blank line, all of it.
        sentences: what is to be translated, without blanks around; none in a blank line.
    """

    indent: str
    sentences: list[str]

    def joined(self, translations: Sequence[str]) -> str:
        """The line again, from what has come out for each of its sentences."""
        assert len(translations) == len(self.sentences)
        return self.indent + join_sentences(translations)


def sentence_splitter(language: str = "en") -> Splitter:
    """What cuts text in ``language`` into sentences.

    Args:
        language: ISO 639 code of the text's language, such as ``de`` or ``zh``; a region (``pt-BR``) is ignored. A
            language that sentencex does not know is cut by general rules.

    Raises:
        ConfigError: not a language code.
        MissingExtraError: sentencex is not installed.
    """
    code = re.fullmatch(r"([A-Za-z]{2,3})([-_]\w+)*", language)
    if code is None:
        raise ConfigError(f"language = {language!r}: expected a code such as de or zh")
    try:
        import sentencex  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("documents", "splitting text into sentences") from None
    name = code[1].lower()

    def split(text: str) -> list[str]:
        return list(sentencex.segment(name, text))

    return split


def split_line(line: str, split: Splitter) -> SplitLine:
    """A line of a document, in its parts."""
    text = line.lstrip()
    sentences = [piece.strip() for piece in split(text)] if text else []
    return SplitLine(line[: len(line) - len(text)], [sentence for sentence in sentences if sentence])


def join_sentences(sentences: Sequence[str]) -> str:
    """Sentences one after another, with a space between them, or nothing where the script is written without.

    That is told by the last character, quotes and brackets that close the sentence aside: behind a Chinese or Japanese
    character or full stop there is no space. (Korean has spaces.)
    """
    line = ""
    for sentence in filter(None, sentences):
        if line and not _without_spaces(line):
            line += " "
        line += sentence
    return line


def translate_document(translator: Any, text: str, language: str = "en", **settings: Any) -> str:
    """Translate a document, sentence by sentence.

    Args:
        translator: a :class:`~pellucid.translator.Translator`.
        text: any number of lines.
        language: of ``text``, see :func:`sentence_splitter`.
        **settings: any of :class:`~pellucid.config.DecodingConfig`.

    Raises:
        ConfigError: a setting or the language is wrong.
        LengthError: a sentence is longer than the model takes; its number counts the document's sentences.
        MissingExtraError: sentencex is not installed.
    """
    split = sentence_splitter(language)
    ends = re.findall(r"\r?\n", text)
    lines = [split_line(line, split) for line in re.split(r"\r?\n", text)]
    generations = translator.generate([sentence for line in lines for sentence in line.sentences], **settings)
    texts = iter([" ".join(generation.text.splitlines()) for generation in generations])
    joined = [line.joined([next(texts) for _ in line.sentences]) for line in lines]
    return "".join(line + end for line, end in zip(joined, [*ends, ""], strict=True))


def _without_spaces(text: str) -> bool:
    """Whether a sentence follows ``text`` without a space."""
    last = next((character for character in reversed(text) if character not in _CLOSING), text[-1])
    if "HANGUL" in unicodedata.name(last, "") or unicodedata.category(last) == "So":  # emoji are wide, too
        return False
    return unicodedata.east_asian_width(last) in ("W", "F")
