"""An author's SQL statement as text: where the relation `events` goes into it, and which texts cannot be right.

PostgreSQL alone decides what a statement means; here only its words are told from comments, strings and quoted names,
as PostgreSQL's lexer does it (with `standard_conforming_strings`, its default since 9.1). Should the two ever disagree,
nothing worse happens than an error: a statement is sent by a protocol that takes one at a time.

The relation is a common table expression in front of the statement, or the first of those that it has already::

    INSERT INTO …                    WITH events AS (…) INSERT INTO …
    WITH RECURSIVE a AS (…) …        WITH RECURSIVE events AS (…), a AS (…) …

Nothing that begins or ends a transaction, makes a table or changes a setting can stand behind one: PostgreSQL's grammar
knows only SELECT (with VALUES and TABLE), INSERT, UPDATE, DELETE and MERGE there. `SELECT … INTO` would make a table,
and is refused here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Final

# What a statement that can read a common table expression begins with.
_VERBS: Final = frozenset({"select", "insert", "update", "delete", "merge", "values", "table", "with", "("})

# Before INTO: an INSERT's or a MERGE's, a column called "into", or one of a table.
_BEFORE_OTHER_INTO: Final = frozenset({"insert", "merge", "as", "."})

# How much of a line is quoted in a message.
_QUOTED: Final = 60

# Source: PostgreSQL, src/backend/parser/scan.l. Possessive: no text is tried in two ways, however long it is.
# Of an unterminated string the rest of the text is taken; the server says what is wrong with it.
_TOKEN: Final = re.compile(
    r"""
      (?P<space> [ \t\n\r\f\v]++ | --[^\n\r]*+ )
    | (?P<comment> /\* )
    | (?P<quoted>
        [eE]' (?:
            [^'\\] | \\. | ''
          | ' (?: [ \t\f\v] | --[^\n\r]*+ )*+ [\n\r] (?: [ \t\n\r\f\v] | --[^\n\r]*+ )*+ '  # goes on in another line
        )*+ (?: ' | \Z )
      | ' (?: [^'] | '' )*+ (?: ' | \Z )
      | " (?: [^"] | "" )*+ (?: " | \Z )
      | \$ (?P<tag> (?: [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_\x80-\U0010ffff]*+ )? ) \$ .*? (?: \$(?P=tag)\$ | \Z )
      )
    | (?P<parameter> \$[0-9]++ )
    | (?P<word> [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_$\x80-\U0010ffff]*+ | [0-9] [A-Za-z0-9_.]*+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")


class _Kind(Enum):
    """What a token is; comments and white space are none."""

    WORD = auto()
    QUOTED = auto()
    PARAMETER = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    """Lower case."""

    start: int
    end: int


class Statement:
    """One statement as its author wrote it."""

    def __init__(self, text: str) -> None:
        parts = list(_parts(text))
        self.text = parts[0] if len(parts) == 1 else text
        tokens = list(_tokens(self.text)) if parts else []
        self.fault = _find_fault(self.text, tokens, len(parts))
        """What is wrong with it, for all that can be said without a server; empty when nothing is."""
        self._first = tokens[0].start if tokens else len(self.text)
        words = [token.text for token in tokens[:3]]
        self._has_with = words[:1] == ["with"]
        # "recursive" is a keyword, unless it is the name of the first of them.
        is_recursive = words[1:2] == ["recursive"] and words[2:] not in (["as"], ["("])
        # Comments in front stay in front: some hold hints for the planner.
        self._place = tokens[is_recursive].end if self._has_with else self._first

    def over(self, relation: str) -> str:
        """Give the statement with the definition of a relation, ``events AS (…)``, that it can read."""
        definition = f" {relation}," if self._has_with else f"WITH {relation} "
        return f"{self.text[: self._place]}{definition}{self.text[self._place :]}"

    @property
    def first_line(self) -> str:
        """Its first line, without comments in front, as people recognise it."""
        return self._line(self._first)

    def line_at(self, position: int, relation: str) -> str:
        """Give the author's line at a position, from 0, of what ``over`` gave; empty for one in the definition."""
        added = len(self.over(relation)) - len(self.text)
        if position >= self._place + added:
            return self._line(position - added)
        return self._line(position) if position < self._place else ""

    def _line(self, position: int) -> str:
        start = max(self.text.rfind("\n", 0, position) + 1, self._first)
        end = self.text.find("\n", position)
        line = self.text[start : end if end >= 0 else len(self.text)].rstrip()
        # Of a long line what is around the position.
        cut = max(0, min(position - start - _QUOTED // 2, len(line) - _QUOTED))
        shown = line[cut : cut + _QUOTED].strip()
        return f"{'…' if cut else ''}{shown}{'…' if cut + _QUOTED < len(line) else ''}"


def _parts(text: str) -> Iterator[str]:
    """Cut a text at its semicolons, and leave out what holds comments only."""
    start, is_empty = 0, True
    for token in _tokens(text):
        if token.text != ";":
            is_empty = False
            continue
        if not is_empty:
            yield text[start : token.start]
        start, is_empty = token.end, True
    if not is_empty:
        yield text[start:]


def _find_fault(text: str, tokens: list[_Token], parts: int) -> str:
    """Say what is wrong where PostgreSQL would say nothing, or something that only we understand."""
    if not parts:
        return "there is no statement in it"
    if parts > 1:
        return "it holds several statements; make `sql` a tuple of them"
    if "\0" in text or _is_unencodable(text):
        return "it has a character that PostgreSQL cannot take (NUL, or half of a surrogate pair)"
    if tokens[0].text not in _VERBS:
        what = text[tokens[0].start : tokens[0].end].upper()[:_QUOTED]
        return f"it begins with {what}; write INSERT, UPDATE, DELETE, MERGE or SELECT, and DDL into `schema`"
    return _find_misused_word(tokens)


def _find_misused_word(tokens: list[_Token]) -> str:
    for before, token in pairwise(tokens):
        if token.kind is _Kind.PARAMETER:
            return f"it has the parameter {token.text}, but gets none; write the value, or read it from events"
        if token.kind is _Kind.WORD and token.text == "into" and before.text not in _BEFORE_OTHER_INTO:
            return "SELECT … INTO makes a table for each batch; make it in `schema`, and write INSERT INTO … SELECT"
    return ""


def _is_unencodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while match := _TOKEN.match(text, position):
        position = match.end()
        match match.lastgroup:
            case "comment":
                position = _end_of_comment(text, position)
            case "space":
                pass
            case group:
                kind = _Kind[(group or "other").upper()]
                yield _Token(kind, match[0].lower(), match.start(), position)


def _end_of_comment(text: str, position: int) -> int:
    """Find where a block comment ends: one within it has to end first."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(text, position):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(text)
