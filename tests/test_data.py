"""Every kind of source gives the same examples; every mistake is one line with its place and its fix."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest

from nbadapt import data
from nbadapt.data import Examples, read, read_for_prompt
from nbadapt.errors import DataError, DependencyError

ROWS = [
    {"text": "good, really", "label": "pos"},
    {"text": 'he said "no"\nand left', "label": "neg"},
    {"text": "größer 👍", "label": "pos"},
]
EXPECTED = Examples("classification", tuple(ROWS), ("neg", "pos"), "table")
CLASSES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


def as_lists(rows=ROWS):
    return {column: [row[column] for row in rows] for column in rows[0]}


def as_class_numbers(folder):
    numbers = [{"text": row["text"], "label": ["neg", "pos"].index(row["label"])} for row in ROWS]
    return datasets.Dataset.from_list(numbers, features=CLASSES)


def write(path, text, **how):
    path.write_text(text, **{"encoding": "utf-8", "newline": "", **how})
    return path


def categorical(folder):
    return pd.DataFrame(as_lists()).astype({"label": "category"})


IN_MEMORY = {
    "pandas": lambda folder: pd.DataFrame(ROWS),
    "pandas with an index": lambda folder: pd.DataFrame(ROWS, index=[7, 7, 9]),
    "pandas categorical": categorical,
    "pandas object": lambda folder: pd.DataFrame(ROWS, dtype=object),
    "polars": lambda folder: pl.DataFrame(ROWS),
    "polars categorical": lambda folder: pl.DataFrame(ROWS).with_columns(pl.col("label").cast(pl.Categorical)),
    "Dataset": lambda folder: datasets.Dataset.from_list(ROWS),
    "Dataset with class numbers": as_class_numbers,
    "Dataset formatted": lambda folder: datasets.Dataset.from_list(ROWS).with_format("numpy"),
    "Dataset of a DatasetDict": lambda folder: datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))["train"],
    "list of dicts": lambda folder: ROWS,
    "tuple of dicts": lambda folder: tuple(ROWS),
    "dict of lists": lambda folder: as_lists(),
    "dict of arrays": lambda folder: {k: np.array(v) for k, v in as_lists().items()},
    "dict of series": lambda folder: {k: pl.Series(v) for k, v in as_lists().items()},
}


def to_csv(folder):
    pd.DataFrame(ROWS).to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


def to_parquet(folder):
    pl.DataFrame(ROWS).write_parquet(folder / "a.parquet")
    return folder / "a.parquet"


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


CSV = 'text,label\n"good, really",pos\n"he said ""no""\nand left",neg\ngrößer 👍,pos\n'
FILES = {
    "CSV": to_csv,
    "CSV with a byte order mark": lambda f: write(f / "a.csv", CSV, encoding="utf-8-sig"),
    "CSV with a blank line": lambda f: write(f / "a.csv", CSV + "\n\n"),
    "CSV with spaces around the header": lambda f: write(f / "a.csv", CSV.replace("text,label", "text, label ")),
    "CSV with semicolons": lambda f: write(
        f / "a.csv", CSV.replace(",pos", ";pos").replace(",neg", ";neg").replace("text,", "text;")
    ),
    "CSV upper case ending": lambda f: write(f / "A.CSV", CSV),
    "CSV as a string": lambda f: str(to_csv(f)),
    "TSV": lambda f: write(
        f / "a.tsv", CSV.replace(",pos", "\tpos").replace(",neg", "\tneg").replace("text,", "text\t")
    ),
    "JSON list": lambda f: write(f / "a.json", json.dumps(ROWS, indent=1)),
    "JSON lists": lambda f: write(f / "a.json", json.dumps(as_lists())),
    "JSONL": lambda f: write(f / "a.jsonl", lines()),
    "JSONL with blank lines": lambda f: write(f / "a.jsonl", lines().replace("\n", "\r\n\r\n")),
    "Parquet": to_parquet,
}


@pytest.mark.parametrize("make", IN_MEMORY.values(), ids=IN_MEMORY)
def test_every_table_in_memory_gives_the_same_examples(make, tmp_path):
    assert read(make(tmp_path), name="table") == EXPECTED


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_every_file_gives_the_same_examples(make, tmp_path):
    path = make(tmp_path)
    assert read(path, name="table") == dataclasses.replace(EXPECTED, source=str(path))


@pytest.mark.parametrize("make", [*IN_MEMORY.values(), *FILES.values()], ids=[*IN_MEMORY, *FILES])
def test_every_source_gives_the_same_rows_for_a_prompt(make, tmp_path):
    found = read_for_prompt(make(tmp_path), name="table")
    assert (found.task, found.rows, found.labels) == ("classification", tuple(ROWS), ("neg", "pos"))


def test_a_file_goes_before_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    write(Path("org/name.csv"), CSV)
    assert read("org/name.csv", name="x").rows == EXPECTED.rows


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", CSV)
    assert read("~/a.csv", name="x").rows == EXPECTED.rows


def test_a_document_of_a_megabyte_fits_into_a_csv_cell(tmp_path):
    long = "word " * 200_000
    assert read(write(tmp_path / "a.csv", f"text\n{long}\n"), name="x").rows == ({"text": long},)


def test_csv_cells_stay_text(tmp_path):
    found = read(write(tmp_path / "a.csv", "text,label\nNA,007\nnull,1.50\n1,True\n"), name="x")
    assert [tuple(row.values()) for row in found.rows] == [("NA", "007"), ("null", "1.50"), ("1", "True")]


# ------------------------------------------------------------------------------------------------ tasks

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ({"text": "t"}, "text", {"text": "t"}),
        ({"text": "t", "stars": 3}, "text", {"text": "t"}),
        ({"prompt": "p", "completion": " c "}, "generation", {"prompt": "p", "completion": " c "}),
        ({"prompt": "p", "completion": 24}, "generation", {"prompt": "p", "completion": "24"}),
        ({"prompt": "p", "completion": 24.0}, "generation", {"prompt": "p", "completion": "24"}),
        ({"instruction": "i", "output": "o"}, "generation", {"prompt": "i", "completion": "o"}),
        ({"instruction": "i", "input": "x", "output": "o"}, "generation", {"prompt": "i\n\nx", "completion": "o"}),
        ({"instruction": "i", "input": "", "output": "o"}, "generation", {"prompt": "i", "completion": "o"}),
        ({"instruction": "i", "input": None, "output": "o"}, "generation", {"prompt": "i", "completion": "o"}),
        ({"messages": MESSAGES}, "generation", {"prompt": MESSAGES[:2], "completion": "Hello!"}),
        ({"messages": MESSAGES, "id": 7}, "generation", {"prompt": MESSAGES[:2], "completion": "Hello!"}),
        (
            {"messages": [{"name": None, **m} for m in MESSAGES]},
            "generation",
            {"prompt": MESSAGES[:2], "completion": "Hello!"},
        ),
        (
            {"prompt": MESSAGES[:2], "completion": MESSAGES[2:]},
            "generation",
            {"prompt": MESSAGES[:2], "completion": "Hello!"},
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            "preference",
            {"prompt": "p", "chosen": "a", "rejected": "b"},
        ),
        (
            {"prompt": MESSAGES[:2], "chosen": MESSAGES[2:], "rejected": "Go away", "rater": "me"},
            "preference",
            {"prompt": MESSAGES[:2], "chosen": "Hello!", "rejected": "Go away"},
        ),
    ],
)
def test_the_columns_tell_the_task(row, task, expected):
    assert read([row], name="table") == Examples(task, (expected,), (), "table")


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, datasets.Dataset.from_list, "parquet", "jsonl"])
def test_conversations_from_every_source(kind, tmp_path):
    rows = [{"messages": MESSAGES}, {"messages": MESSAGES[1:]}]
    if kind == "parquet":
        source = tmp_path / "a.parquet"
        pd.DataFrame(rows).to_parquet(source)
    elif kind == "jsonl":
        source = write(tmp_path / "a.jsonl", lines(rows))
    else:
        source = kind(rows)
    assert [row["prompt"] for row in read(source, name="x").rows] == [MESSAGES[:2], MESSAGES[1:2]]


def test_conversations_that_pandas_read_from_parquet(tmp_path):
    pd.DataFrame([{"messages": MESSAGES}]).to_parquet(tmp_path / "a.parquet")
    assert read(pd.read_parquet(tmp_path / "a.parquet"), name="x").rows[0]["prompt"] == MESSAGES[:2]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0], ["1", "0"]),
        ([1.0, 0.0], ["1", "0"]),
        ([True, False], ["True", "False"]),
        ([np.int64(3), np.float32(4)], ["3", "4"]),
        ([np.True_, np.False_], ["True", "False"]),
        ([" a", "b\n"], ["a", "b"]),
    ],
)
@pytest.mark.parametrize("kind", [lambda lists: lists, pd.DataFrame], ids=["dict", "pandas"])
def test_labels_become_text(labels, expected, kind):
    found = read(kind({"text": ["x", "y"], "label": labels}), name="x")
    assert [row["label"] for row in found.rows] == expected
    assert found.labels == tuple(sorted(expected))


def test_columns_are_renamed_and_go_before_columns_of_that_name():
    rows = [{"review": "good", "stars": 5, "text": "unused"}, {"review": "bad", "stars": 1, "text": "unused"}]
    found = read(rows, name="x", columns={"text": "review", "label": "stars"})
    assert found.rows == ({"text": "good", "label": "5"}, {"text": "bad", "label": "1"})


def test_a_renamed_column_decides_between_tasks():
    rows = [{"text": "t", "label": "a", "prompt": "p", "answer": "c"}]
    assert read(rows, name="x", columns={"completion": "answer"}).task == "generation"
    assert read(rows, name="x").task == "classification"


def test_an_explicit_task_goes_before_the_columns():
    assert read(ROWS, name="x", task="text").rows == tuple({"text": row["text"]} for row in ROWS)
    both = [{"messages": MESSAGES, "prompt": "p", "chosen": "a", "rejected": "b"}]
    assert read(both, name="x", task="preference").task == "preference"
    assert read(both, name="x", task="generation").rows[0]["completion"] == "Hello!"


def test_examples_can_be_read_again():
    for rows in (ROWS, [{"messages": MESSAGES}], [{"prompt": "p", "chosen": "a", "rejected": "b"}]):
        once = read(rows, name="x")
        assert read(list(once.rows), name="x") == once


# ------------------------------------------------------------------------------------------------ errors

PLACE = "(counted from 1)"
NAN = math.nan
ASSISTANT = {"role": "assistant", "content": "a"}
USER = {"role": "user", "content": "u"}


def talk(*turns):
    return [{"messages": MESSAGES}, {"messages": list(turns)}]


def duplicated():
    return pd.DataFrame([["a", "b"]], columns=["text", "text"])


BAD_TABLES = {
    "not a table": (3, {}, ["table is an int", "pandas or polars DataFrame"]),
    "none": (None, {}, ["table is a NoneType", "list of dicts"]),
    "a series": (pd.Series(["a"]), {}, ["table is a Series", "DataFrame"]),
    "a generator": ((row for row in ROWS), {}, ["table is a generator", "list of dicts"]),
    "a list of texts": (["a", "b"], {}, [f"row 1 {PLACE}", "str ('a')", '{"text": ...']),
    "a mixed list": ([ROWS[0], 5], {}, [f"row 2 {PLACE}", "an int (5)", '{"text": ...']),
    "DatasetDict": (
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS)),
        {},
        ["DatasetDict", "table['train']", "train, test"],
    ),
    "lazy": (pl.DataFrame(ROWS).lazy(), {}, ["LazyFrame", "table.collect()"]),
    "streamed": (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), {}, ["streamed", "table.take(1000)"]),
    "no rows": (pd.DataFrame({"text": [], "label": []}), {}, ["table is empty", "2 columns and no rows", "give"]),
    "nothing": ([], {}, ["table is empty", "give at least one row"]),
    "an empty dict": ({}, {}, ["table is empty", "give at least one row"]),
    "twice the same name": (duplicated(), {}, ["two columns named 'text'", "rename or drop"]),
    "names equal as text": (pd.DataFrame([["a", "b"]], columns=[1, "1"]), {}, ["two columns named '1'"]),
    "uneven lists": ({"text": ["a"], "label": ["x", "y"]}, {}, ["text: 1, label: 2", "same number"]),
    "a dict of texts": ({"text": "a"}, {}, ["column 'text'", "a str", "give a list"]),
    "no known column": ([{"review": "a", "stars": 1}], {}, ["review, stars", "--text COLUMN", "text, label"]),
    "one column of a pair": (
        [{"prompt": "a", "answer": "b"}],
        {},
        ["no column 'completion'", "--completion COLUMN", "completion): its columns are prompt, answer"],
    ),
    "a typing mistake": ([{"prompt": "a", "compltion": "b"}], {}, ["'completion'", "did you mean 'compltion'?"]),
    "a capital": ([{"TEXT": "a"}], {"task": "text"}, ["no column 'text'", "did you mean 'TEXT'?", "--text COLUMN"]),
    "labels in the plural": ([{"text": "a", "labels": "b"}], {}, ["'labels'", "--label labels", "--task text"]),
    "a misspelt label": ([{"text": "a", "lable": "b"}], {}, ["'lable'", "--label lable", "--task text"]),
    "the task lacks one": (
        ROWS,
        {"task": "preference"},
        ["no column 'prompt'", "the preference task needs prompt, chosen, rejected", "text, label"],
    ),
    "an unknown task": (ROWS, {"task": "regression"}, ["'regression'", "classification, generation"]),
    "an unknown part": (ROWS, {"columns": {"txt": "text"}}, ["'txt'", "messages, prompt"]),
    "an absent column": (ROWS, {"columns": {"text": "txt"}}, ["no column 'txt'", "--text", "did you mean 'text'?"]),
    "parts of two tasks": (
        ROWS,
        {"columns": {"text": "text", "chosen": "label"}},
        ["--text, --chosen", "do not go together", "text, label: classification"],
    ),
    "a preference without a difference": (
        [
            {"prompt": "p", "chosen": "a", "rejected": "b"},
            {"prompt": "p", "chosen": "a", "rejected": "a "},
            {"prompt": "q", "chosen": "c", "rejected": "c"},
        ],
        {},
        ["table, row 2 (counted from 1)", "'chosen' and 'rejected' are the same answer", "drop the row (and 1 more)"],
    ),
    "a preference without an answer": (
        [{"prompt": "p", "chosen": "a", "rejected": None}],
        {},
        ["row 1", "'rejected'", "the cell is empty"],
    ),
    "two tasks": (
        [{"text": "a", "label": "b", "prompt": "c", "completion": "d"}],
        {},
        ["classification (text, label) or generation (prompt, completion)", "--task"],
    ),
}


@pytest.mark.parametrize(("source", "how", "words"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_one_line_with_the_fix(source, how, words):
    with pytest.raises(DataError) as caught:
        read(source, name="table", **how)
    assert_line(caught.value, words)


def assert_line(error, words):
    message = str(error)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


def with_text(value):
    return [ROWS[0], {"text": value, "label": "pos"}]


def with_label(value):
    return [ROWS[0], {"text": "a", "label": value}]


BAD_CELLS = {
    "empty text": (with_text(""), 2, "text", ["empty", "fill it or drop the row"]),
    "white text": (with_text(" \n\t"), 2, "text", ["empty", "fill it or drop the row"]),
    "no text": (with_text(None), 2, "text", ["empty", "drop the row"]),
    "NaN text": (pd.DataFrame(with_text(NAN)), 2, "text", ["empty", "drop the row"]),
    "NA text": (with_text(pd.NA), 2, "text", ["empty", "drop the row"]),
    "NaT text": (with_text(pd.NaT), 2, "text", ["empty", "drop the row"]),
    "missing key": ([ROWS[0], {"label": "pos"}], 2, "text", ["empty", "drop the row"]),
    "polars null": (pl.DataFrame(with_text(None)), 2, "text", ["empty", "drop the row"]),
    "a number as text": (with_text(5), 2, "text", ["an int (5)", "convert the column to text"]),
    "a date as text": (with_text(pd.Timestamp("2024-05-01")), 2, "text", ["a Timestamp", "convert"]),
    "a list as text": (with_text(["a", "b"]), 2, "text", ["a list (['a', 'b'])", "convert"]),
    "bytes as text": (with_text(b"abc"), 2, "text", ["a bytes (b'abc')", "convert"]),
    "half a character": (with_text("a\ud83d"), 2, "text", ["character 2", "Unicode", "clean"]),
    "empty label": (with_label(""), 2, "label", ["empty", "drop the row"]),
    "NaN label": (pd.DataFrame(with_label(NAN)), 2, "label", ["empty", "drop the row"]),
    "unlabelled class": (
        datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": -1}], features=CLASSES),
        2,
        "label",
        ["empty", "drop the row"],
    ),
    "a measure as label": (with_label(0.37), 2, "label", ["0.37 is a measure", "whole number"]),
    "infinity as label": (with_label(math.inf), 2, "label", ["inf is a measure", "whole number"]),
    "a dict as label": (with_label({"a": 1}), 2, "label", ["a dict", "convert"]),
    "several bad rows": ([*with_text(None), *with_text("")], 2, "text", ["(and 1 more)"]),
    "first row": ([{"text": ""}], 1, "text", ["empty"]),
    "empty completion": ([{"prompt": "a", "completion": " "}], 1, "completion", ["empty", "drop the row"]),
    "NaN completion": (pd.DataFrame({"prompt": ["a", "b"], "completion": ["c", None]}), 2, "completion", ["empty"]),
    "empty instruction": ([{"instruction": "", "output": "o"}], 1, "instruction", ["empty", "drop the row"]),
    "a number as input": ([{"instruction": "i", "input": 3, "output": "o"}], 1, "input", ["an int (3)", "convert"]),
    "empty rejected": ([{"prompt": "a", "chosen": "b", "rejected": None}], 1, "rejected", ["empty"]),
    "no messages": (talk(), 2, "messages", ["conversation is empty", "drop the row"]),
    "null messages": ([{"messages": None}], 1, "messages", ["conversation is empty", "drop the row"]),
    "messages as text": ([{"messages": "[]"}], 1, "messages", ["list of messages", "JSONL or Parquet"]),
    "messages as number": ([{"messages": 5}], 1, "messages", ["an int (5)", "list of messages"]),
    "a message as text": (talk("hi", ASSISTANT), 2, "messages", ["message 1", '{"role": ..., "content": ...}']),
    "no content": (talk(USER, {"role": "assistant"}), 2, "messages", ["message 2", '"content"']),
    "empty content": (talk(USER, {**ASSISTANT, "content": ""}), 2, "messages", ["message 2 (assistant)", "fill it"]),
    "content is a number": (talk(USER, {**ASSISTANT, "content": 4}), 2, "messages", ["message 2 (assistant)"]),
    "unknown role": (talk({**USER, "role": "human"}, ASSISTANT), 2, "messages", ["'human'", "system, user, assistant"]),
    "late system": (talk(USER, {**USER, "role": "system"}, ASSISTANT), 2, "messages", ["system", "start"]),
    "user last": (talk(USER, ASSISTANT, USER), 2, "messages", ["last message is the user's", "assistant's answer"]),
    "only an answer": (talk(ASSISTANT), 2, "messages", ["no user message", "add the question"]),
    "answered prompt": ([{"prompt": [USER, ASSISTANT], "completion": "a"}], 1, "prompt", ["end it with the user's"]),
    "two answers": ([{"prompt": "p", "completion": [ASSISTANT, ASSISTANT]}], 1, "completion", ["more than one"]),
}


@pytest.mark.parametrize(("source", "row", "column", "words"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_cell_is_one_line_with_row_column_and_fix(source, row, column, words):
    with pytest.raises(DataError) as caught:
        read(source, name="train_df")
    assert_line(caught.value, [f"train_df, row {row} {PLACE}, column {column!r}: ", *words])


def test_the_users_own_column_name_is_in_the_error():
    with pytest.raises(DataError, match=r"row 2 .*column 'Review': the cell is empty"):
        read({"Review": ["a", ""]}, name="x", columns={"text": "Review"})


BAD_FILES = {
    "ragged": (
        "a.csv",
        'text,label\n"a\nb",x\nc,d,y\n',
        ["line 4", "3 cells, but the header has 2", "comma", "double quotes"],
    ),
    "ragged with tabs": ("a.tsv", "text\tlabel\na\n", ["line 2", "1 cell, but the header has 2", "tab"]),
    "open quote": ("a.csv", 'text,label\n"a,x\nb,y\n', ["line 2", "check the quotes"]),
    "header twice": ("a.csv", "text,text\na,b\n", ["two columns named 'text'", "rename or drop"]),
    "no header": ("a.csv", "lovely film,pos\ndull film,neg\n", ["lovely film, pos", "--text COLUMN"]),
    "header only": ("a.csv", "text,label\n", ["is empty", "no rows"]),
    "empty csv": ("a.csv", "", ["is empty", "0 columns"]),
    "empty jsonl": ("a.jsonl", "\n", ["is empty"]),
    "empty cell": ("a.csv", "text,label\na,x\n,y\n", [f"row 2 {PLACE}, column 'text'", "drop the row"]),
    "bad line": ("a.jsonl", '{"text": "a"}\n\n{"text": \n', ["line 3, column", "no valid JSON", "one JSON object"]),
    "a list on a line": ("a.jsonl", '{"text": "a"}\n["b"]\n', ["line 2", "a list", '{"text": ...']),
    "a key twice": ("a.jsonl", '{"text": "a", "text": "b"}\n', ["line 1", "'text' stands twice", "keep one"]),
    "bad json": ("a.json", '[{"text": "a"},\n {"text" "b"}]', ["line 2, column 10", "no valid JSON", "mend"]),
    "jsonl in json": ("a.json", '{"text": "a"}\n{"text": "b"}\n', ["line 2", ".jsonl"]),
    "a key twice in json": ("a.json", '[{"text": "a", "text": "b"}]', ["'text' stands twice", "keep one"]),
    "a number": ("a.json", "5", ["holds an int", "list of objects"]),
    "a json of texts": ("a.json", '["a"]', [f"row 1 {PLACE}", "not a dict"]),
    "not parquet": ("a.parquet", "text", ["no readable Parquet", "write it again"]),
    "spreadsheet": ("a.xlsx", "PK", ["cannot read .xlsx", ".csv, .tsv, .json, .jsonl, .parquet"]),
    "no ending": ("reviews", "text\na\n", ["cannot read a file without an ending", ".csv"]),
}


@pytest.mark.parametrize(("file", "content", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_with_place_and_fix(file, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path(file), content)
    with pytest.raises(DataError) as caught:
        read(Path(file), name="data")
    assert_line(caught.value, [file, *words])


def test_an_error_that_says_nothing_is_named_by_its_type(tmp_path, monkeypatch):
    def fail(_path):
        raise OSError

    monkeypatch.setattr("pyarrow.parquet.read_table", fail)
    write(tmp_path / "a.parquet", "text")
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file \(OSError\): write it again"):
        read(tmp_path / "a.parquet", name="data")


def test_another_encoding_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.csv"), "text,label\nfein,x\ngrün,y\n", encoding="cp1252")
    with pytest.raises(DataError) as caught:
        read("a.csv", name="data")
    assert_line(caught.value, ["a.csv, line 3", "0xfc is not UTF-8", "save the file as UTF-8", "encoding='cp1252'"])


def test_a_missing_file_is_named_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("reviews_train.csv"), CSV)
    with pytest.raises(DataError) as caught:
        read("review_train.csv", name="data")
    assert_line(caught.value, ["no file review_train.csv", "did you mean reviews_train.csv?"])
    with pytest.raises(DataError) as caught:
        read(Path("elsewhere") / "zzz", name="data")
    assert_line(caught.value, ["no file elsewhere/zzz", "check the path"])


def test_a_folder_is_named_with_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(DataError, match=r"^folder is a folder: it holds no \.csv"):
        read("folder", name="data")
    write(Path("folder/a.csv"), CSV)
    with pytest.raises(DataError, match=r"^folder is a folder: name one of its files: a\.csv$"):
        read("folder", name="data")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path):
    path = write(tmp_path / "a.csv", CSV)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read(path, name="data")


@pytest.mark.parametrize("name", ["train_dff", "a b/c", "https://example.org/a", "", "org/name/a/b"])
def test_a_word_that_is_neither_file_nor_hub_name(name):
    with pytest.raises(DataError) as caught:
        read(name, name="data")
    assert_line(caught.value, [repr(name), "no file here and no hub name (org/name)", "DataFrame"])


# ------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub address where nobody answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return constants


@pytest.mark.parametrize("name", ["some-org/some-name", "some-org/some-name:test", "some-org/some-name/main:train[:5]"])
def test_offline_is_said_in_one_line_and_at_once(name, offline):
    with pytest.raises(DataError) as caught:
        read(name, name="data")
    assert_line(caught.value, [repr(name), "hub is out of reach", "go online", "CSV, JSONL or Parquet"])
    assert offline.HF_HUB_OFFLINE is False


@pytest.fixture
def local_hub(tmp_path, monkeypatch, offline):
    """A folder org/name, which `load_dataset` reads just as a repository of that name."""
    from nbadapt import hub

    folder = tmp_path / "hub" / "org" / "name"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", lines())
    monkeypatch.chdir(tmp_path / "hub")
    return hub


def test_a_hub_name_with_a_split(local_hub):
    assert local_hub.load("org/name:test").to_list() == ROWS
    assert local_hub.load("org/name:train[:2]").to_list() == ROWS[:2]


def test_a_hub_name_without_a_split_names_the_splits(local_hub):
    from nbadapt import sources

    found = local_hub.load("org/name")
    with pytest.raises(DataError) as caught:
        sources._from_hub(found, "org/name")
    assert_line(caught.value, ["org/name has the splits train, test", "org/name:train"])
    only = datasets.DatasetDict(train=found["train"])
    assert sources._from_hub(only, "org/name").column("label") == ["pos", "neg", "pos"]


def test_an_unknown_split_is_one_line(local_hub):
    with pytest.raises(DataError) as caught:
        local_hub.load("org/name:dev")
    assert_line(caught.value, ["'org/name:dev' cannot be loaded", "dev", "train"])


def test_a_malformed_hub_name(local_hub):
    with pytest.raises(DataError, match=r"no hub name: write org/name, org/name:split or org/name/config:split"):
        local_hub.load("name only")


@pytest.mark.parametrize(
    ("library", "source", "words"),
    [
        ("datasets", "some-org/some-name", ["'some-org/some-name'", 'pip install "nbadapt[hub]"']),
        ("pyarrow", "a.parquet", ["a.parquet", 'pip install "nbadapt[parquet]"']),
    ],
)
def test_a_missing_library_comes_with_its_install_command(library, source, words, tmp_path, monkeypatch):
    to_parquet(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DependencyError) as caught:
        read(source, name="data")
    assert_line(caught.value, words)


def test_nothing_heavy_is_imported_for_plain_data(tmp_path):
    write(tmp_path / "a.csv", CSV)
    code = (
        "import sys; from nbadapt import data, template;"
        "data.read('a.csv', name='x'); data.read([{'text': 'a'}], name='x');"
        "print(sorted({'pandas', 'polars', 'datasets', 'pyarrow', 'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ for a prompt


def test_all_columns_are_kept_for_a_prompt():
    rows = [{"id": 1, "when": pd.Timestamp("2024-05-01"), "score": NAN, "tags": ("a", 2), "question": "q"}]
    found = read_for_prompt(rows, name="x")
    expected = {"id": 1, "when": "2024-05-01 00:00:00", "score": None, "tags": ["a", 2], "question": "q"}
    assert (found.task, found.rows) == ("text", (expected,))


def test_renamed_columns_stand_under_both_names():
    found = read_for_prompt([{"review": "good"}], name="x", columns={"text": "review"})
    assert found.rows == ({"review": "good", "text": "good"},)


@pytest.mark.parametrize(
    ("column", "answers", "task"),
    [
        ("label", ["a", "b"], "classification"),
        ("label", [1, 0, 1.0], "classification"),
        ("label", [f"class {i}" for i in range(21)], "generation"),
        ("label", [f"class {i}" for i in range(21)] * 3, "classification"),
        ("answer", [f"class {i}" for i in range(21)] * 3, "generation"),
        ("label", ["x" * 51, "y"], "generation"),
        ("answer", ["a", "b"], "generation"),
        ("answer", ["a", "b", "a", "b", "a"], "classification"),
        ("completion", ["a", "b", "a", "b"], "generation"),
        ("output", ["two\nlines"] * 5, "generation"),
        ("answer", list(range(30)), "generation"),
    ],
)
def test_the_target_decides_the_task_of_a_prompt(column, answers, task):
    found = read_for_prompt({"q": ["?"] * len(answers), column: answers}, name="x")
    key = "label" if task == "classification" else "completion"
    assert found.task == task
    assert [row[key] for row in found.rows] == [str(int(a)) if isinstance(a, float) else str(a) for a in answers]
    assert found.labels == (tuple(sorted({row[key] for row in found.rows})) if key == "label" else ())


def test_the_named_target_goes_first():
    rows = [{"q": "1", "label": "unused", "topic": t} for t in ("a", "b", "a", "b", "a")]
    assert read_for_prompt(rows, name="x", label="topic").labels == ("a", "b")
    assert read_for_prompt(rows, name="x", columns={"label": "topic"}).labels == ("a", "b")
    assert read_for_prompt(rows, name="x", columns={"completion": "topic"}).rows[1]["label"] == "b"


@pytest.mark.parametrize("how", [{"label": "stars"}, {"columns": {"label": "stars"}}])
def test_a_column_that_the_user_calls_the_label_has_classes(how):
    rows = [{"text": f"film {i}", "stars": stars} for i, stars in enumerate([5, 1, 4, 2, 3, 5, 1, 4])]
    assert read_for_prompt(rows, name="x").task == "text"
    assert read_for_prompt(rows, name="x", **how).labels == ("1", "2", "3", "4", "5")
    intents = [{"text": f"{i}", "stars": f"intent {i % 77}"} for i in range(300)]
    assert len(read_for_prompt(intents, name="x", **how).labels) == 77
    free = [{"text": f"{i}", "stars": f"answer {i}"} for i in range(30)]
    assert read_for_prompt(free, name="x", **how).task == "generation"


@pytest.mark.parametrize(
    ("source", "how", "words"),
    [
        (ROWS, {"label": "lable"}, ["no column 'lable'", "--label", "did you mean 'label'?"]),
        (ROWS, {"columns": {"text": "txt"}}, ["no column 'txt'", "--text", "did you mean 'text'?"]),
        (with_label(None), {}, [f"x, row 2 {PLACE}, column 'label'", "drop the row"]),
        ([], {}, ["x is empty"]),
        (7, {}, ["x is an int", "DataFrame"]),
    ],
)
def test_errors_of_prompt_data_are_one_line(source, how, words):
    with pytest.raises(DataError) as caught:
        read_for_prompt(source, name="x", **how)
    assert_line(caught.value, words)


def test_cells_that_a_prompt_needs_must_be_filled():
    found = read_for_prompt([{"q": "a", "hint": None}, {"q": None, "hint": "b"}], name="x")
    data.check_filled(found, [])
    with pytest.raises(DataError) as caught:
        data.check_filled(found, ["q"])
    assert_line(caught.value, [f"x, row 2 {PLACE}, column 'q'", "empty", "drop the row"])


# ------------------------------------------------------------------------------------------------ checks and split


def many(counts, source="train"):
    """Rows of each label; every text is its own."""
    rows = [{"text": f"{label} {i}", "label": label} for label, count in counts.items() for i in range(count)]
    return Examples("classification", tuple(rows), tuple(sorted(counts)), source)


def test_one_class_cannot_be_learnt():
    one = many({"a": 5})
    for check in (
        lambda: data.check_training(one),
        lambda: data.check_labels(one, one),
        lambda: data.split(one, 0.2, 0),
    ):
        with pytest.raises(DataError) as caught:
            check()
        assert_line(caught.value, ["train", "column 'label'", "'a'", "two labels or more"])


def test_an_evaluation_label_must_be_in_training():
    evaluation = many({"a": 2, "c": 1}, "val")
    with pytest.raises(DataError) as caught:
        data.check_labels(evaluation, many({"a": 3, "b": 3}))
    assert_line(caught.value, [f"val, row 3 {PLACE}, column 'label'", "'c'", "train (a, b)", "add training rows"])
    data.check_labels(many({"a": 2}, "val"), many({"a": 3, "b": 3}))


SIZES = [{"a": 5, "b": 5}, {"a": 100, "b": 10, "c": 1}, {"a": 1, "b": 1, "c": 2}, {"x": 37, "y": 41, "z": 22}]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_split_is_complete_disjoint_ordered_seeded_and_stratified(sizes, share, seed):
    examples = many(sizes)
    train, held = data.split(examples, share, seed)
    again = data.split(examples, share, seed)
    assert (train, held) == again
    assert train.labels == held.labels == examples.labels
    order = {row["text"]: i for i, row in enumerate(examples.rows)}
    positions = [[order[row["text"]] for row in part.rows] for part in (train, held)]
    assert all(part == sorted(part) for part in positions)
    assert sorted(positions[0] + positions[1]) == list(range(len(examples)))
    assert len(train) >= 1
    assert len(held) == min(max(1, round(len(examples) * share)), len(examples) - len(sizes))
    counts = Counter(row["label"] for row in held.rows)
    for label, size in sizes.items():
        assert counts[label] <= size - 1  # every class is trained on
        exact = len(held) * size / len(examples)
        capped = any(len(held) * other / len(examples) > other - 1 for other in sizes.values())
        assert capped or abs(counts[label] - exact) < 1


def test_another_seed_holds_out_other_rows():
    examples = many({"a": 50, "b": 50})
    held = {tuple(row["text"] for row in data.split(examples, 0.2, seed)[1].rows) for seed in range(5)}
    assert len(held) == 5


@pytest.mark.parametrize("seed", range(5))
def test_preferences_about_one_prompt_stay_on_one_side(seed):
    rows = [
        {"prompt": f"question {i}", "chosen": f"good {i} {j}", "rejected": f"bad {i} {j}"}
        for i in range(12)
        for j in range(1 + i % 3)
    ]
    train, evaluation = data.split(read(rows, name="pairs"), 0.25, seed)
    asked, held = ({row["prompt"] for row in part.rows} for part in (train, evaluation))
    assert not asked & held
    assert len(train) + len(evaluation) == len(rows)
    assert 6 <= len(evaluation) <= 8  # a quarter, and at most the rest of a prompt


def test_preferences_about_a_single_prompt_are_split_by_rows():
    rows = [{"prompt": "question", "chosen": f"good {j}", "rejected": f"bad {j}"} for j in range(8)]
    train, evaluation = data.split(read(rows, name="pairs"), 0.25, 0)
    assert (len(train), len(evaluation)) == (6, 2)


def test_a_split_of_rows_without_labels():
    examples = read([{"text": str(i)} for i in range(20)], name="x")
    train, held = data.split(examples, 0.25, 3)
    assert (len(train), len(held)) == (15, 5)
    assert {row["text"] for row in train.rows} | {row["text"] for row in held.rows} == {str(i) for i in range(20)}


@pytest.mark.parametrize(
    ("examples", "share", "words"),
    [
        (read([{"text": "a"}], name="train"), 0.1, ["train", "1 row is too few", "--eval"]),
        (many({"a": 1, "b": 1}), 0.5, ["train", "every label has only one row", "--eval"]),
        (many({"a": 5, "b": 5}), 0.0, ["0", "between 0 and 1", "0.1"]),
        (many({"a": 5, "b": 5}), 1.0, ["1", "between 0 and 1", "0.1"]),
    ],
)
def test_a_split_that_cannot_be_made(examples, share, words):
    with pytest.raises(DataError) as caught:
        data.split(examples, share, 0)
    assert_line(caught.value, words)


# ------------------------------------------------------------------------------------------------ storing

STORED = {
    "classification": EXPECTED,
    "held-out rows that lack a label": dataclasses.replace(EXPECTED, rows=EXPECTED.rows[:1]),
    "conversation": read([{"messages": MESSAGES}], name="chat"),
    "preference": Examples("preference", ({"prompt": "p", "chosen": "a", "rejected": "b"},), (), "x"),
    "prompt rows": read_for_prompt(
        [{"a b": "x\u2028y\r\n\ud83d", "n": 1, "f": 0.1, "none": None, "list": [1, {"k": None}]}], name="table {{1}}"
    ),
}


@pytest.mark.parametrize("examples", STORED.values(), ids=STORED)
def test_examples_survive_the_disk(examples, tmp_path):
    path = tmp_path / "rows.jsonl"
    data.write_jsonl(examples, path)
    found = data.read_jsonl(path)
    assert found == examples
    assert data.fingerprint(found) == data.fingerprint(examples)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    data.write_jsonl(EXPECTED, path)
    broken = dataclasses.replace(EXPECTED, rows=(*ROWS, {"text": object()}))
    with pytest.raises(TypeError):
        data.write_jsonl(broken, path)
    assert data.read_jsonl(path) == EXPECTED
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: text.rindex("{")], ["2 of its 3 rows"]),
        (lambda text: text[:-10], ["no complete file"]),
        (lambda text: "", ["no complete file"]),
        (lambda text: text.partition("\n")[2], ["no complete file"]),
        (lambda text: "[1]\n" + text, ["no complete file"]),
    ],
)
def test_a_damaged_file_is_refused(damage, words, tmp_path):
    path = tmp_path / "rows.jsonl"
    data.write_jsonl(EXPECTED, path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        data.read_jsonl(path)
    assert_line(caught.value, [str(path), *words, "start the run again"])


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        data.read_jsonl(tmp_path / "rows.jsonl")


def test_the_fingerprint_is_of_the_content():
    whole = data.fingerprint(EXPECTED)
    assert len(whole) == 64
    assert data.fingerprint(dataclasses.replace(EXPECTED, source="other")) == whole
    turned = tuple(dict(reversed(row.items())) for row in ROWS)
    assert data.fingerprint(dataclasses.replace(EXPECTED, rows=turned)) == whole
    changes = [
        {"task": "text"},
        {"labels": ("neg",)},
        {"rows": EXPECTED.rows[::-1]},
        {"rows": EXPECTED.rows[:2]},
        {"rows": ({**ROWS[0], "text": "good,really"}, *ROWS[1:])},
    ]
    assert len({whole, *(data.fingerprint(dataclasses.replace(EXPECTED, **change)) for change in changes)}) == 6


# ------------------------------------------------------------------------------------------------ real tables


@pytest.mark.parametrize(
    ("file", "task", "rows"),
    [("movie_reviews_train.csv", "classification", 8530), ("gsm8k_train.jsonl", "generation", 2000)],
)
def test_real_files(file, task, rows, shared_data):
    examples = read(shared_data / file, name="x")
    assert (examples.task, len(examples)) == (task, rows)
    if file.endswith(".csv"):
        frame = pd.read_csv(shared_data / file, keep_default_na=False)
        assert read(frame, name="x").rows == examples.rows
        assert examples.labels == ("negative", "positive")
