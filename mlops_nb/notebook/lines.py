"""From a magic's line to words: quotes, brackets, `{name}` and `$name`, `;` between commands, `#` before a comment."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import UsageError

_PLACE = re.compile(r"\$?\{([A-Za-z_][^{}]*)\}|\$([A-Za-z_]\w*)")
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_QUOTES = "\"'"
_ESCAPABLE = " \\\"'()[]{};#$"

Evaluate = Callable[[str], object]


def commands(line: str, evaluate: Evaluate) -> list[list[str]]:
    """The commands on a line, each as its words without a leading `%mlops`.

    `{name}` and `$name` become what *evaluate* says, as part of the word they stand in: a value is never split, whatever it
    holds.  Inside brackets spaces and quotes stay, so that `X[['a', 'b']].head()` is one word.  `{{`, the `}}` that
    ends it, and `$$` stand for the sign itself; a `}}` that ends none, as JSON has them, is two.

    Raises UsageError for a quote that is not closed, and whatever *evaluate* raises.
    """
    scan = _Scan(line, evaluate)
    scan.run()
    return [words[1:] if words[0] == "%mlops" else words for words in scan.commands if words and words != ["%mlops"]]


def fragment_and_words(line: str) -> tuple[list[str], str] | None:
    """The finished words of the last command and the fragment before the cursor; None where the line cannot be read yet."""
    scan = _Scan(line, lambda name: f"{{{name}}}")
    try:
        scan.run()
    except UsageError:
        return None
    words = scan.commands[-1] if scan.commands else []
    words = words[1:] if words[:1] == ["%mlops"] else words
    ended = not line or line[-1].isspace() or line.rstrip().endswith(";")
    if ended or not words:
        return words, ""
    return words[:-1], words[-1]


class _Scan:
    def __init__(self, line: str, evaluate: Evaluate) -> None:
        self.line = line
        self.evaluate = evaluate
        self.commands: list[list[str]] = [[]]
        self.word: list[str] | None = None
        self.opened = 0
        """How often `{{` stands before in the word, so that so many `}}` are its ends."""
        self.place = 0

    def run(self) -> None:
        while self.place < len(self.line):
            sign = self.line[self.place]
            if self._placeholder():
                continue
            if sign in _QUOTES:
                self._quoted(sign)
            elif sign in _CLOSES and (end := _closing(self.line, self.place)):
                self._bracketed(end)
            elif sign == "\\" and self.line[self.place + 1 : self.place + 2] in _ESCAPABLE and self.place + 1 < len(self.line):
                self._take(self.line[self.place + 1], 2)
            elif sign.isspace():
                self._end_word()
                self.place += 1
            elif sign == ";":
                self._end_word()
                self.commands.append([])
                self.place += 1
            elif sign == "#" and self.word is None:
                break
            else:
                self._take(sign, 1)
        self._end_word()

    def _take(self, text: str, length: int) -> None:
        self.word = [*(self.word or []), text]
        self.place += length

    def _end_word(self) -> None:
        if self.word is not None:
            self.commands[-1].append("".join(self.word))
        self.word, self.opened = None, 0

    def _placeholder(self) -> bool:
        """Take a placeholder that stands here."""
        doubled = self.line[self.place : self.place + 2]
        if doubled in ("{{", "$$") or (doubled == "}}" and self.opened):
            self.opened += {"{{": 1, "}}": -1}.get(doubled, 0)
            self._take(doubled[0], 2)
            return True
        found = _PLACE.match(self.line, self.place)
        if not found:
            return False
        self._take(str(self.evaluate(found[1] or found[2])), len(found[0]))
        return True

    def _quoted(self, quote: str) -> None:
        """Take a quoted part: the quotes go, the rest belongs to the word."""
        self._take("", 1)
        while self.place < len(self.line):
            sign = self.line[self.place]
            if sign == quote:
                self.place += 1
                return
            if sign == "\\" and self.line[self.place + 1 : self.place + 2] in (quote, "\\"):
                self._take(self.line[self.place + 1], 2)
            elif not self._placeholder():
                self._take(sign, 1)
        raise UsageError(f"A quote is not closed in: {self.line.strip()[:80]}", hint=f"close it with {quote}")

    def _bracketed(self, end: int) -> None:
        """Take a bracketed part as it stands, as Python is written."""
        while self.place <= end:
            if not self._placeholder():
                self._take(self.line[self.place], 1)


def _closing(line: str, place: int) -> int | None:
    """Where the bracket at *place* closes, quotes and inner brackets passed over; None when it does not."""
    waiting, quote = [], ""
    for i in range(place, len(line)):
        sign = line[i]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES:
            quote = sign
        elif sign in _CLOSES:
            waiting.append(_CLOSES[sign])
        elif waiting and sign == waiting[-1]:
            waiting.pop()
            if not waiting:
                return i
    return None
