"""Statements as text, and the size of the ranges that they are executed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectiond.kinds.statement import Statement

DEFINED = "events AS (…)"


# --- where the relation goes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", "WITH events AS (…) SELECT 1"),
        (" -- a\n/* b */ SELECT 1 -- c", " -- a\n/* b */ WITH events AS (…) SELECT 1 -- c"),
        ("WITH a AS (b) SELECT 1", "WITH events AS (…), a AS (b) SELECT 1"),
        ("with recursive a AS (b) TABLE a", "with recursive events AS (…), a AS (b) TABLE a"),
        ("/* a */WITH/* b */Recursive/* c */a AS (b)", "/* a */WITH/* b */Recursive events AS (…),/* c */a AS (b)"),
        ('WITH"a"AS (b)', 'WITH events AS (…),"a"AS (b)'),
        ('WITH "recursive" AS (b)', 'WITH events AS (…), "recursive" AS (b)'),
        ("WITH recursive AS (b)", "WITH events AS (…), recursive AS (b)"),
        ("WITH recursive (c) AS (b)", "WITH events AS (…), recursive (c) AS (b)"),
        ("WITHIN", "WITH events AS (…) WITHIN"),
        ("(SELECT 1)", "WITH events AS (…) (SELECT 1)"),
        ("/* /* WITH */ */ SELECT 1", "/* /* WITH */ */ WITH events AS (…) SELECT 1"),
        ("--WITH\rSELECT 1", "--WITH\rWITH events AS (…) SELECT 1"),
        ("SELECT 1;", "WITH events AS (…) SELECT 1"),
        (";; SELECT 1 ;-- a\n;", " WITH events AS (…) SELECT 1 "),
    ],
)
def test_the_relation_stands_first_behind_leading_comments(text: str, expected: str) -> None:
    assert Statement(text).over(DEFINED) == expected


@pytest.mark.parametrize(
    "literal",
    [
        "'; $1 '",
        "''';'",
        "'\\'';'",
        "E'\\';'",
        "E'\\\\'';'",
        "e';'\n  -- it's a comment; a\n  '\\';'",
        "U&';'",
        "n';'",
        "name';'",
        '"; $1"',
        '""";"',
        "$$; $1 $a$ '$$",
        "$a1$; $$ $a$ $a1$",
        "$ü$;$ü$",
        "a$b$1",
        "/* ; $1 /* ' */ ; */ 1",
        "--; $1 '\n1",
        "+--; '\n1",
        "1/*/*;*/;*/",
    ],
)
def test_what_stands_in_a_literal_a_name_or_a_comment_means_nothing(literal: str) -> None:
    statement = Statement(f"SELECT {literal}, x")
    assert statement.fault == ""
    assert statement.text == f"SELECT {literal}, x"
    # And it ends where it ends.
    assert "several" in Statement(f"SELECT {literal}; SELECT 2").fault
    assert "$2" in Statement(f"SELECT {literal}, $2").fault


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO a SELECT 1",
        "WITH b AS (INSERT INTO a VALUES (1) RETURNING 1) MERGE INTO c USING b ON true",
        "SELECT 1 AS into, a.into, \"into\", 'into' -- into",
    ],
)
def test_into_is_a_fault_only_where_it_makes_a_table(text: str) -> None:
    assert Statement(text).fault == ""


@pytest.mark.parametrize("text", ["SELECT * INTO a FROM b", "SELECT 'x' INTO TEMP a", "(SELECT 1 Into a)"])
def test_a_query_that_makes_a_table_is_a_fault(text: str) -> None:
    assert Statement(text).fault.startswith("SELECT … INTO makes a table")


@given(st.text(alphabet="'\"$;-/*\\ \neEaA1()üINTO"))
def test_any_text_can_be_read(text: str) -> None:
    statement = Statement(text)
    assert statement.over("") is not None
    assert text == "" or statement.text in text


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "'" * 200_001,
        "SELECT " + "/*" * 100_000,
        "SELECT " + "$a$ " * 50_001,
        "SELECT " + "$a $b " * 50_000,
        "SELECT E'" + "\\" * 200_001,
        "SELECT E'a'" + "\n" * 200_000 + "b",
        "SELECT " + "E'a'\n" * 50_000,
        "-" * 200_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_long_and_hostile_text_is_read_to_its_end(text: str) -> None:
    # Tried in all ways, it would take until the test's time-out.
    assert Statement(text).over(DEFINED)


# --- what is quoted of it


def test_the_line_that_the_server_points_at_is_found_behind_the_definition() -> None:
    text = "\n-- a\n  INSERT INTO a\n  SELECT b, ü, c\n  FROM events\n"
    statement = Statement(text)
    assert statement.first_line == "INSERT INTO a"
    sent = statement.over(DEFINED)
    for word, line in {
        "INSERT": "INSERT INTO a",
        "b,": "SELECT b, ü, c",
        "c\n": "SELECT b, ü, c",
        "FROM": "FROM events",
    }.items():
        assert statement.line_at(sent.index(word), DEFINED) == line
    assert statement.line_at(sent.index("events AS"), DEFINED) == ""
    assert statement.line_at(len(sent), DEFINED) == ""


def test_of_a_long_line_what_is_around_the_place_is_quoted() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    statement = Statement(f"SELECT {words}")
    assert statement.first_line == "SELECT word0 word1 word2 word3 word4 word5 word6 word7 word8…"
    line = statement.line_at(statement.over(DEFINED).index("word50"), DEFINED)
    assert line.startswith("…")
    assert line.endswith("…")
    assert " word50 " in line
    assert len(line) <= 62
