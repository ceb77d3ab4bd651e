"""Prompts as typed: weights, escapes, files of many."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ediffi.io.prompt_files import literal
from ediffi.pipeline.prompt import Prompt, Weighted, parse, read_prompts


@pytest.mark.parametrize(
    ("typed", "text", "weights"),
    [
        ("a red circle", "a red circle", []),
        ("a (red:1.3) circle", "a red circle", [("red", 1.3)]),
        (
            "(a red circle:2), (pink background:0.5)",
            "a red circle, pink background",
            [("a red circle", 2), ("pink background", 0.5)],
        ),
        ("a circle (in the middle)", "a circle (in the middle)", []),
        ("see (note: below)", "see (note: below)", []),
        (r"a \(red:1.3\) circle", "a (red:1.3) circle", []),
        (r"a (red \(dark\):1.5) one", "a red (dark) one", [("red (dark)", 1.5)]),
        ("دائرة (حمراء:1.2)", "دائرة حمراء", [("حمراء", 1.2)]),
        ("(🔴:3)", "🔴", [("🔴", 3)]),
        ("(a:0) b", "a b", [("a", 0)]),
        ("((red:1.2) circle:1.5)", "red circle", [("red", 1.8), ("circle", 1.5)]),
        ("(a (b (c:1.1):1.1):1.1) d", "a b c d", [("a", 1.1), ("b", 1.21), ("c", 1.331)]),
        ("(a (dark) red:2) one", "a (dark) red one", [("a (dark) red", 2)]),
        ("(a red circle", "(a red circle", []),
        ("a red:1.5) circle", "a red:1.5) circle", []),
        ("a :) (:1.2) (b:2", "a :) (:1.2) (b:2", []),
        ("((red:2):0.5) circle", "red circle", []),
        (r"(a\\:2) \\", "a\\ \\", [("a\\", 2)]),
    ],
)
def test_weights_come_out_of_the_text(typed: str, text: str, weights: list) -> None:
    prompt = parse(typed)
    assert prompt.text == text
    assert [(prompt.text[w.start : w.end], w.weight) for w in prompt.weights] == weights


@given(st.text(st.characters(blacklist_characters="()\\:", blacklist_categories=("Cs",)), min_size=1, max_size=40))
def test_text_without_marks_is_left_alone(text: str) -> None:
    if text.strip():
        assert parse(text) == Prompt(text)


@given(st.text("ab ()\\:1", min_size=1, max_size=30))
def test_a_literal_text_is_read_as_it_stands(text: str) -> None:
    if text.strip():
        assert parse(literal(text)) == Prompt(text)


@pytest.mark.parametrize("caption", ["a clock (3:45)", "a blue square (10:10)", r"a \(red\) sign", "a dog (brown)"])
def test_captions_of_a_file_are_literal(tmp_path: Path, caption: str) -> None:
    (tmp_path / "captions.jsonl").write_text(json.dumps({"key": "7", "caption": caption}))
    (prompt,) = read_prompts(tmp_path / "captions.jsonl")
    assert parse(prompt) == Prompt(caption)
    assert (prompt == caption) == (caption == "a dog (brown)")  # what has no marks is not escaped


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "prompt is empty"),
        (" \n", "prompt is empty"),
        ("a" * 5001, "5001 characters; at most 5000"),
        ("(red:11) circle", "weight of a word must be from 0 to 10, got '11'"),
        ("(red:-1) circle", "got '-1'"),
        ("(red:nan) circle", "got 'nan'"),
        ("a clock (3:45)", r"got '45'; write \\\( and \\\) for parentheses that are text"),
        ("((a:5):5)", "nested weights multiply to 25"),
        ("a \ud800", "lone surrogate"),
        ("( :1.5)", "prompt is empty"),
    ],
)
def test_bad_prompts_are_named(typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(typed)


def test_many_prompts_from_a_file(tmp_path: Path) -> None:
    text, lines = tmp_path / "many.txt", tmp_path / "many.jsonl"
    text.write_text("a red circle\n\n  a blue square  \n")
    lines.write_text('{"prompt": "a red circle"}\n{"prompt": "a blue square", "id": 3}\n')
    assert read_prompts(text) == read_prompts(lines) == ["a red circle", "a blue square"]


LISTS = {
    "lines": "a red circle\n\n  a blue, (big:1.2) square  ",
    "json": '["a red circle", {"prompt": "a blue, (big:1.2) square", "id": 3}]',
    "json lines": '{"prompt": "a red circle"}\n\n{"id": 1, "prompt": "a blue, (big:1.2) square"}\n',
    "comma": 'id,Prompt\n1,a red circle\n2,"a blue, (big:1.2) square"\n',
    "semicolon": '"prompt";"id"\na red circle;1\na blue, (big:1.2) square;2\n\n',
    "tab": "prompt\tid\na red circle\t1\na blue, (big:1.2) square\t2",
    "one column": 'prompt\na red circle\n"a blue, (big:1.2) square"',
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_content_says_what_a_list_of_prompts_is(kind: str, encoding: str, tmp_path: Path) -> None:
    for newline in ("\n", "\r\n", "\r"):
        (tmp_path / "prompts.txt").write_bytes(LISTS[kind].replace("\n", newline).encode(encoding))
        assert read_prompts(tmp_path / "prompts.txt") == ["a red circle", "a blue, (big:1.2) square"]


def test_a_line_that_looks_like_json_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[red] circle\n{a} square")
    assert read_prompts(tmp_path / "a.txt") == ["[red] circle", "{a} square"]


@pytest.mark.parametrize(("name", "wrap"), [("a.txt", "{}"), ("a.jsonl", '{{"prompt": "{}"}}')])
def test_a_byte_order_mark_and_line_ends_are_no_part_of_a_prompt(tmp_path: Path, name: str, wrap: str) -> None:
    lines = "\r\n".join(wrap.format(text) for text in ("a red circle", "a\u2028b"))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read_prompts(tmp_path / name) == ["a red circle", "a\u2028b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no prompts"),
        ("a.txt", b"\xff\xfa", "not UTF-8"),
        ("a.txt", b"\xff\xfe", "no prompts"),
        ("a.csv", b"id,text\n1,a", 'must have a column "prompt", or "caption", in its first line; it has id, text'),
        ("a.csv", b"id,prompt\n1,a,b", "row 2 has 3 fields, and its first line 2"),
        ("a.csv", b'prompt,id\n"a,1', "not a table of prompts"),
        ("a.csv", b"prompt,id\n,1", "row 2: the prompt is empty"),
        ("a.json", b'["a", {"prompt": null}]', "prompt 2: the prompt must be a text, got null"),
        ("a.json", b'["a", "b"', "broken JSON"),
        ("a.txt", b"fine\n(red:99) circle", "line 2: the weight of a word"),
        ("a.jsonl", b'{"prompt": "fine"}\n{broken', "line 2: "),
        ("a.jsonl", b'{"text": "no prompt"}', 'line 1: a row must be an object with the field "prompt"'),
        ("a.jsonl", b'[["list"]]', "prompt 1: a row must be an object"),
        ("a.jsonl", b'{"prompt": 5}', "line 1: the prompt must be a text, got 5"),
        ("a.jsonl", b'{"prompt": "a\\ud800"}', "line 1: .*surrogate"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_weighted_is_a_range_of_the_text() -> None:
    assert parse("a (red:1.3) circle").weights == (Weighted(2, 5, 1.3),)
