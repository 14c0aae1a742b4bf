"""A line and a body -> Request; settings -> Config, or one line that says what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import Field, field_validator, model_validator

from nbadapt import body, registry
from nbadapt.errors import RequestError
from nbadapt.method import Adapted, Config, Estimate, Method, Outcome, Task
from nbadapt.options import COLUMNS, OPTIONS, TASKS, Source, options
from nbadapt.request import MAX_SEED, Request, parse, words
from nbadapt.settings import describe, from_text, validate

TABLE = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]


def finetune(line: str, text: str = "", **variables: Any) -> Request:
    return parse("finetune", line, text, {"df": TABLE, **variables})


# ------------------------------------------------------------------ the line


def test_a_whole_cell():
    asked = finetune(
        "lora --model minilm --data df --eval val.csv --as tuned --seed 7 --split 0.2 --text review "
        "--label stars --dtype float32 --device cpu --dry-run --background --trust-remote-code --task classification",
        "r: 16\nlearning_rate: 2e-4\ntarget_modules: [query, value]  # attention\n",
    )
    assert asked == Request(
        verb="finetune",
        method="lora",
        model="minilm",
        data=TABLE,
        evaluation="val.csv",
        sources={"data": "df", "evaluation": "val.csv", "model": "minilm"},
        task="classification",
        columns={"text": "review", "label": "stars"},
        settings={"r": 16, "learning_rate": 2e-4, "target_modules": ["query", "value"]},
        seed=7,
        split=0.2,
        name="tuned",
        dry_run=True,
        background=True,
        device="cpu",
        dtype="float32",
        trust_remote_code=True,
    )


def test_an_empty_body_means_the_defaults():
    for text in ("", "\n", "# nothing yet\n"):
        assert finetune("lora --model minilm --data df", text).settings == {}


def test_settings_may_stand_on_the_line_in_three_ways():
    line = "lora --model minilm --data df --set r=4 --learning-rate 1e-3 --target_modules=[query,value] --dora true"
    expected = {"r": 4, "learning_rate": 1e-3, "target_modules": ["query", "value"], "dora": True}
    assert finetune(line).settings == expected


def test_quotes_keep_spaces_and_a_backslash_is_a_backslash():
    assert words(r"""lora --data "my file.csv" --text 'the text' --eval C:\data\x.csv""") == [
        "lora", "--data", "my file.csv", "--text", "the text", "--eval", r"C:\data\x.csv"
    ]  # fmt: skip
    assert finetune("lora --model minilm --data 'my file.csv'").data == "my file.csv"
    assert words("lora --data=a#b") == ["lora", "--data=a#b"]


def test_a_file_or_a_hub_name_stays_text_and_a_variable_gives_its_value(tmp_path: Path):
    assert finetune("lora --model minilm --data org/name:train").data == "org/name:train"
    assert finetune("lora --model minilm --data path", path="a.csv").data == "a.csv"
    assert finetune("lora --model path --data df", path=tmp_path).model == str(tmp_path)


def test_a_file_whose_name_could_be_a_variable_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").touch()
    assert finetune("lora --model minilm --data rows").data == "rows"


def test_a_variable_that_happens_to_have_a_models_name_does_not_hide_the_model():
    assert finetune("lora --model minilm --data df", minilm=3).model == "minilm"


def test_the_prompt_is_kept_verbatim_and_its_variables_are_collected():
    text = '  {"a": 1} {{ sentence }}\n{{other}} {single}\n'
    namespace = {"sentence": "Hallo", "other": 3, "unused": 4}
    asked = parse("prompt", "zero-shot --model smollm2", text, namespace)
    assert asked.prompt == text
    assert asked.variables == {"sentence": "Hallo", "other": 3}


def test_placeholders_may_be_columns_where_there_are_rows():
    asked = parse("prompt", "zero-shot --model smollm2 --data df", "{{text}} {{mood}}", {"df": TABLE, "mood": "glad"})
    assert asked.variables == {"mood": "glad"}


def test_labels_are_split_at_commas():
    asked = parse("prompt", "zero-shot --model smollm2 --labels 'very good, bad'", "x", {})
    assert asked.labels == ("very good", "bad")


MISTAKES = {
    "": "no method given",
    "--model minilm": "no method given",
    "lora": "no model given: add --model",
    "lora --model minilm": "no data for lora to train on: add --data",
    "lora minilm": "unexpected 'minilm'",
    "lora --model": "--model needs a value: write  --model NAME",
    "lora --model --data df": "--model needs a value",
    "lora --modle minilm --data df": "unknown option '--modle' of lora: did you mean --model",
    "lora --dry-run=yes": "--dry-run takes no value",
    "lora --seed 1 --seed 2": "--seed is given twice",
    "lora --seed x": "--seed is 'x': give a whole number",
    "lora --seed 1.5": "--seed is '1.5'",
    "lora --split half": "--split is 'half': give a share",
    "lora --set r": "--set 'r' has no value: write it as  --set r=16",
    "lora --set =3": "--set '=3' has no value",
    "lora --set r=1 --r 2": "the setting 'r' is given twice",
    "lora --labels a,b": "--labels is an option of %%prompt, not of %%finetune",
    "lora --data 'x": "the quote in 'x is not closed",
    "lora --model minilm --data nothing_here": "--data nothing_here: no notebook variable and no file",
    "lora --model minilm --data dff": "did you mean df?",
    "lora --model minilm --data df --eval dff": "--eval dff",
    "lora --model df --data df": "--model df: that variable is of type list",
    "lora --model minilm --data df --seed -1": "the seed is -1",
    f"lora --model minilm --data df --seed {MAX_SEED + 1}": "the seed is",
    "lora --model minilm --data df --as 2nd": "--as '2nd' is no variable name",
    "lora --model minilm --data df --as class": "--as 'class' is no variable name",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_in_the_line_is_one_line_with_the_fix(line: str):
    with pytest.raises(RequestError) as raised:
        finetune(line)
    assert MISTAKES[line] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_setting_on_the_line_and_in_the_body_is_a_mistake():
    with pytest.raises(RequestError, match="'r' is given twice, on the line and in the body"):
        finetune("lora --model minilm --data df --r 8", "r: 16")


@pytest.mark.parametrize("labels", ["a,", "a,,b", "a,a", "a"])
def test_labels_that_are_no_choice(labels: str):
    with pytest.raises(RequestError, match="--labels"):
        parse("prompt", f"zero-shot --model smollm2 --labels {labels}", "x", {})


def test_a_placeholder_without_a_variable_names_the_nearest():
    with pytest.raises(RequestError, match=r"\{\{sentense\}\} names no notebook variable \(did you mean sentence"):
        parse("prompt", "zero-shot --model smollm2", "{{sentense}}", {"sentence": "x", "print": print})


def test_functions_and_history_are_no_values_for_a_prompt():
    with pytest.raises(RequestError, match="names no notebook variable"):
        parse("prompt", "zero-shot --model smollm2", "{{exit}}", {"exit": exit, "Out": {}})


# ------------------------------------------------------------------ the options' table


def test_every_option_is_complete():
    fields = {*Request.__dataclass_fields__, "help"}
    for option in OPTIONS:
        assert option.flag.startswith("--")
        assert option.help
        assert option.field in fields
        assert option.values in get_args(Source)
    assert {option.values for option in OPTIONS} == set(get_args(Source)), "a source that nothing takes from"
    assert [option.flag for option in OPTIONS] == list(dict.fromkeys(option.flag for option in OPTIONS))
    assert {f"--{column}" for column in COLUMNS} <= options("prompt").keys()
    assert get_args(Task) == TASKS


# ------------------------------------------------------------------ YAML


def test_scalars_are_what_people_mean():
    text = "a: 2e-4\nb: no\nc: 12:30\nd: 010\ne: 1e5\nf: 2024-01-01\ng: TRUE\nh: ~\ni: -.5\nj: 0x1F\nk: '3'\nl: .inf"
    assert body.parse(text) == {
        "a": 2e-4, "b": "no", "c": "12:30", "d": 10, "e": 1e5, "f": "2024-01-01",
        "g": True, "h": None, "i": -0.5, "j": 31, "k": "3", "l": float("inf"),
    }  # fmt: skip


YAML_MISTAKES = {
    "r: 1\nr: 2": "line 3: 'r' is given twice",
    "\n\nr: [1": "line 4",
    "a:\n\tb: 1": "line 3",
    "- r\n- s": "the body holds a list",
    "r 16": "the body holds 'r 16', not settings",
    "r=16": "write  name: value",
    "1: 2": "the body's 1 is no setting",
    "a: {b: 1, b: 2}": "line 2: 'b' is given twice",
    "a: !!python/object/apply:os.getcwd []": "could not determine a constructor",
    "a: *nothing": "undefined alias",
    "\x00": "special characters are not allowed",
}


@pytest.mark.parametrize("text", YAML_MISTAKES)
def test_bad_yaml_names_the_line_of_the_cell(text: str):
    with pytest.raises(RequestError) as raised:
        body.parse(text)
    assert YAML_MISTAKES[text] in str(raised.value)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------ settings


class Everything(Method):
    """A method with a setting of every kind."""

    name, verb, summary, reference = "everything", "finetune", "x", "https://example.org"
    tasks = frozenset({"text"})

    class Config(Config):
        whole: int = Field(8, ge=1, le=64, description="a size")
        real: float | None = Field(None, gt=0, lt=1)
        flag: bool = False
        choice: Literal["one", "two"] = "one"
        word: str = Field("all", min_length=1, examples=["all"])
        odd_word: str = "yes: no"
        names: str | list[str] = "auto"
        even: int = 2
        low: float = 0.0
        high: float = 1.0

        @field_validator("even")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("must be even")
            return value

        @model_validator(mode="after")
        def _ordered(self) -> Config:
            if self.low > self.high:
                raise ValueError("low must not be above high")
            return self

    def estimate(self, job: Any) -> Estimate: ...
    def run(self, job: Any, emit: Any) -> Outcome: ...
    def load(self, outcome: Any, job: Any) -> Adapted: ...


class Placed(Everything):
    """A method with a path among its settings."""

    class Config(Config):
        place: Path = Path("here")


SETTING_MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"whole": 0}, ["'whole' of everything is 0", "a whole number, at least 1 and at most 64"]),
    ({"whole": "many"}, ["'whole' of everything is 'many'", "a whole number"]),
    ({"whole": 1.5}, ["is 1.5", "a whole number"]),
    ({"real": 1}, ["is 1,", "a number, above 0 and below 1, or none"]),
    ({"flag": "perhaps"}, ["is 'perhaps'", "true or false"]),
    ({"choice": "three"}, ["is 'three'", "one of one, two"]),
    ({"word": ""}, ["is ''", "text of length 1 or more"]),
    ({"names": 5}, ["is 5", "text, or a list, each item text"]),
    ({"names": ["a", 5]}, ["is ['a', 5]"]),
    ({"even": 3}, ["is 3: must be even"]),
    ({"low": 2}, ["do not fit together: low must not be above high"]),
    ({"whoel": 3}, ["unknown setting 'whoel' of everything: did you mean whole"]),
    ({"zzz": 3}, ["unknown setting 'zzz' of everything: settings: choice, even"]),
    ({"whole": 0, "flag": 7, "choice": "x", "zzz": 1, "word": 3}, ["'whole'", "'flag'", "'choice'", "and 2 more"]),
]


@pytest.mark.parametrize(("given", "told"), SETTING_MISTAKES)
def test_a_wrong_setting_says_what_was_given_and_what_is_allowed(given: dict[str, Any], told: list[str]):
    with pytest.raises(RequestError) as raised:
        validate(Everything, given)
    for part in told:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_right_settings_and_defaults():
    config = validate(Everything, {"whole": "16", "real": "2e-4", "names": ["a"]})
    assert (config.whole, config.real, config.names, config.word) == (16, 2e-4, ["a"], "all")
    assert validate(Everything, {"real": "none"}).real is None


def test_text_on_the_line_stays_text_where_the_setting_is_text():
    assert from_text(Everything, "word", "5") == "5"
    assert from_text(Everything, "whole", "5") == 5
    assert from_text(Everything, "names", "[a, b]") == ["a", "b"]


def test_a_line_break_can_be_written_on_the_line_as_help_prints_it():
    told = {setting.name: setting for setting in describe(registry.load("few-shot"))}
    line = f"few-shot --model smollm2 --separator {told['separator'].default}"
    assert parse("prompt", line, "x", {}).settings == {"separator": "\n\n"}
    line = r'few-shot --model smollm2 --separator "\n---\t\\n\d\n"'
    assert parse("prompt", line, "x", {}).settings == {"separator": "\n---\t\\n\\d\n"}
    assert from_text(Placed, "place", r"C:\new\table.csv") == r"C:\new\table.csv"


def test_settings_describe_themselves():
    told = {setting.name: setting for setting in describe(Everything)}
    assert told["whole"].allowed == "a whole number, at least 1 and at most 64"
    assert (told["whole"].default, told["whole"].description) == ("8", "a size")
    assert told["choice"].words == ("one", "two")
    assert told["flag"].words == ("true", "false")
    assert told["word"].words == ("all",)
    assert told["real"].default == "none"
    for setting in describe(Everything):  # a default can be pasted into a cell as it is shown
        pasted = body.parse(f"{setting.name}: {setting.default}")
        assert validate(Everything, pasted) == Everything.Config()
