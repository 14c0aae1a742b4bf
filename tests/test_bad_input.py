"""Every mistake that a cell can hold: one line that names it and the fix, no traceback, nothing left behind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.error import UsageError
from shells import Shell
from tiny_models import folder, reviews, translations

from nbadapt import models, registry


@dataclass(frozen=True)
class Row:
    """One bad cell.

    Attributes:
        line: what follows ``%%finetune lora --model encoder`` or ``%%prompt zero-shot --model causal``; a line that
            begins with % is the whole line.
        told: parts of the error's line: the offending word, and the fix.
        body: the cell's body.
    """

    line: str
    told: tuple[str, ...]
    body: str = ""


DATA = " --data train_df"

FINETUNE = {
    # the method
    "no method": Row("%%finetune", ("no method given", "%%finetune METHOD --model")),
    "option before the method": Row("%%finetune --model encoder lora", ("no method given", "comes first")),
    "unknown method": Row("%%finetune lorra --data train_df", ("'lorra'", "did you mean lora or")),
    "underscore in the method": Row("%%prompt few_shot --model causal", ("'few_shot'", "few-shot")),
    "method of the other magic": Row(
        "%%finetune zero-shot --data train_df", ("'zero-shot'", "write %%prompt zero-shot")
    ),
    # the options
    "unknown option": Row("--dta train_df", ("'--dta'", "did you mean --data")),
    "option of the other magic": Row(DATA + " --labels a,b", ("--labels", "option of %%prompt", "leave it out")),
    "option without a value": Row("--data", ("--data needs a value", "--data TABLE")),
    "option without a value, then another": Row("--data --seed 3", ("--data needs a value",)),
    "option given twice": Row(DATA + " --data val.csv", ("--data is given twice", "keep one")),
    "switch with a value": Row(DATA + " --dry-run=no", ("--dry-run takes no value", "write it alone")),
    "stray word": Row("train_df", ("unexpected 'train_df'", "--data train_df")),
    "unclosed quote": Row("--data 'train_df", ("'train_df", "not closed")),
    "seed is no number": Row(DATA + " --seed lucky", ("--seed is 'lucky'", "a whole number from 0")),
    "seed is negative": Row(DATA + " --seed -1", ("the seed is -1", "from 0 to 4294967295")),
    "split is no number": Row(DATA + " --split half", ("--split is 'half'", "between 0 and 1")),
    "split too large": Row(DATA + " --split 1.5", ("1.5", "between 0 and 1")),
    "split of nothing": Row(DATA + " --split 0", ("--split is 0", "between 0 and 1")),
    "variable name for the run": Row(DATA + " --as 2nd-run", ("--as '2nd-run'", "letters, digits and _")),
    "keyword for the run": Row(DATA + " --as lambda", ("--as 'lambda'", "no variable name")),
    "table's name for the run": Row(DATA + " --as train_df", ("in the place of the table train_df", "another name")),
    "unknown device": Row(DATA + " --device gpu", ("'gpu'", "cpu, cuda")),
    "absent device": Row(DATA + " --device cuda:99", ("'cuda:99'", "not on this machine", "use cpu")),
    "unknown dtype": Row(DATA + " --dtype int3", ("'int3'", "bfloat16")),
    "float16 on a CPU": Row(DATA + " --device cpu --dtype float16", ("float16", "use bfloat16 or float32")),
    "unknown task": Row(DATA + " --task clasify", ("'clasify'", "classification")),
    "task that the columns do not fit": Row(
        DATA + " --task generation", ("train_df", "generation task needs", "say --")
    ),
    "task that the method does not do": Row("--data preferences", ("lora does classification", "preference")),
    "preferences without a difference": Row(
        "%%finetune reward --model causal --data no_difference",
        ("no_difference, row 1", "are the same answer", "(and 7 more)"),
    ),
    "preferences that differ behind the limit": Row(
        "%%finetune dpo --model causal --data late_difference",
        ("late_difference, the row with the prompt 'a', chosen 'b b b", "the same in the 8 tokens", "raise max_length"),
        "max_length: 8",
    ),
    "a table without preferences": Row(
        "%%finetune reward --model causal --data pairs", ("reward does preference", "--chosen and --rejected")
    ),
    "DPO on an encoder": Row("%%finetune dpo --model encoder --data preferences", ("(bert) is an encoder",)),
    "a smoothing that the loss does not read": Row(
        "%%finetune dpo --model causal --data preferences",
        ("label_smoothing is for the losses robust and exo_pair",),
        "label_smoothing: 0.1",
    ),
    # --set and the settings
    "--set without =": Row(DATA + " --set r", ("--set 'r'", "--set r=16")),
    "--set of nothing": Row(DATA + " --set =3", ("--set '=3'", "--set r=16")),
    "--set of an unknown setting": Row(
        DATA + " --set rank=8", ("'rank' of lora", "did you mean r?", "%nbadapt help lora")
    ),
    "setting given twice": Row(DATA + " --r 8", ("'r' is given twice", "keep one"), "r: 16"),
    "unknown setting": Row(DATA, ("'learning_rat'", "did you mean learning_rate"), "learning_rat: 1e-3"),
    "wrong type": Row(DATA, ("'r' of lora is 'large'", "a whole number"), "r: large"),
    "fraction of a rank": Row(DATA, ("'r' of lora is 2.5", "a whole number"), "r: 2.5"),
    "rank 0": Row(DATA, ("'r' of lora is 0", "at least 1"), "r: 0"),
    "rank larger than a layer": Row(DATA, ("r: a rank of 4000", "use at most"), "r: 4000"),
    "rate below its bound": Row(DATA, ("'learning_rate' of lora is -0.1", "above 0"), "learning_rate: -0.1"),
    "dropout of everything": Row(DATA, ("'dropout' of lora is 1,", "below 1"), "dropout: 1"),
    "unknown choice": Row(DATA, ("'init' of lora is 'zeros'", "kaiming, gaussian"), "init: zeros"),
    "no truth value": Row(DATA, ("'dora' of lora is 'perhaps'", "true or false"), "dora: perhaps"),
    "a list where one number belongs": Row(DATA, ("'epochs' of lora is [1, 2]", "a number"), "epochs: [1, 2]"),
    "several at once": Row(DATA, ("'r' of lora is 0", "'alfa'", "did you mean alpha"), "r: 0\nalfa: 3"),
    "layers that do not exist": Row(
        DATA, ("target_modules", "'q_proj'", "layers:", "query"), "target_modules: [q_proj]"
    ),
    # what this model cannot satisfy, method by method
    "qlora: rank larger than a layer": Row(
        "%%finetune qlora --model causal --data pairs", ("r: a rank of 4000", "use at most"), "r: 4000"
    ),
    "qlora: layers that do not exist": Row(
        "%%finetune qlora --model causal --data pairs", ("'qproj'", "did you mean q_proj"), "target_modules: [qproj]"
    ),
    "ia3: layers that do not exist": Row(
        "%%finetune ia3 --model causal --data pairs", ("'kproj'", "did you mean k_proj"), "target_modules: [kproj]"
    ),
    "bitfit: layers that do not exist": Row(
        "%%finetune bitfit --model encoder --data train_df",
        ("'qeury'", "did you mean query"),
        "target_modules: [qeury]",
    ),
    "bitfit: no biases": Row(
        "%%finetune bitfit --model causal --data pairs", ("bitfit", "llama, which has no biases: use ")
    ),
    "top-layers: more than there are": Row(
        "%%finetune top-layers --model encoder --data train_df", ("layers: 9", "2 blocks", "use at most 2"), "layers: 9"
    ),
    "llama-adapter: more layers than blocks": Row(
        "%%finetune llama-adapter --model causal --data pairs",
        ("adapter_layers: 9", "use at most 2"),
        "adapter_layers: 9",
    ),
    "llama-adapter: a table of labels": Row(
        "%%finetune llama-adapter --model causal --data train_df",
        ("generation, text", "train_df", "or use lora"),
    ),
    "adapter: more layers than blocks": Row(
        "%%finetune adapter --model encoder --data train_df",
        ("no block 2", "0 to 1"),
        "layers_to_transform: [0, 1, 2]",
    ),
    "adapter: wider than the model": Row(
        "%%finetune adapter --model encoder --data train_df", ("bottleneck: 99", "use at most 32"), "bottleneck: 99"
    ),
    "prefix-tuning: an architecture without": Row(
        "%%finetune prefix-tuning --model distil --data train_df",
        ("does not work with distilbert", "use prompt-tuning, p-tuning or lora"),
    ),
    "prefix-tuning: longer than the model": Row(
        "%%finetune prefix-tuning --model causal --data pairs",
        ("num_virtual_tokens: 600", "use at most 504"),
        "num_virtual_tokens: 600",
    ),
    "prompt-tuning: longer than the model": Row(
        "%%finetune prompt-tuning --model encoder --data train_df",
        ("num_virtual_tokens: 600", "use at most 504"),
        "num_virtual_tokens: 600",
    ),
    "p-tuning: longer than the model": Row(
        "%%finetune p-tuning --model encoder --data train_df",
        ("num_virtual_tokens: 600", "use at most 504"),
        "num_virtual_tokens: 600",
    ),
    "features: a setting of another classifier": Row(
        "%%finetune features --model encoder --data train_df",
        ("C belongs to logistic-regression and linear-svm, not to random-forest", "drop one"),
        "classifier: random-forest\nC: 2",
    ),
    "output-layers: an activation that follows nothing": Row(
        "%%finetune output-layers --model encoder --data train_df",
        ("activation relu follows hidden layers", "add hidden_sizes"),
        "activation: relu",
    ),
    "features: a table without labels": Row(
        "%%finetune features --model causal --data pairs",
        ("features does classification", "pairs", "or use top-layers"),
    ),
    "output-layers: a table without labels": Row(
        "%%finetune output-layers --model causal --data pairs", ("does classification", "pairs", "or use top-layers")
    ),
    "encoder and decoder that is to generate": Row(
        "%%finetune full --model both --data pairs", ("(t5)", "for classification only", "smollm2")
    ),
    "features: an encoder and decoder": Row(
        "%%finetune features --model both --data train_df", ("features does not work with t5", "use ")
    ),
    # the YAML
    "bad YAML": Row(DATA, ("line 3", "name: value"), "r: 8\nalpha: [1"),
    "YAML that is a list": Row(DATA, ("a list, not settings", "name: value"), "- r\n- alpha"),
    "YAML that is a sentence": Row(DATA, ("'r = 8', not settings", "name: value"), "r = 8"),
    "key given twice": Row(DATA, ("line 4: 'r' is given twice", "keep one"), "r: 8\nalpha: 3\nr: 9"),
    "tab in YAML": Row(DATA, ("line 3", "name: value"), "target_modules:\n\t- query"),
    "object in YAML": Row(DATA, ("line 2", "name: value"), "r: !!python/object/apply:os.getcwd []"),
    # the model
    "no model": Row("%%finetune lora --data train_df", ("no model given", "add --model", "minilm")),
    "unknown model": Row("%%finetune lora --model minlm --data train_df", ("'minlm'", "did you mean minilm")),
    "folder without a config": Row("%%finetune lora --model ./empty --data train_df", ("'./empty'", "config.json")),
    "file for a model": Row("%%finetune lora --model good.csv --data train_df", ("'good.csv'", "is a file", "folder")),
    "model without its tokenizer": Row(
        "%%finetune lora --model ./wordless --data train_df",
        ("'./wordless'", "no usable tokenizer", "tokenizer.save_pretrained("),
    ),
    "pickled weights": Row(
        "%%finetune lora --model ./pickled --data train_df", ("'./pickled'", "pytorch_model.bin", "save_pretrained")
    ),
    "adapter beside the weights": Row(
        "%%finetune lora --model ./adapted --data train_df",
        ("'./adapted'", "adapter_config.json", "take that file away"),
    ),
    "damaged config": Row("%%finetune lora --model ./damaged --data train_df", ("'./damaged'", "cannot be loaded")),
    "variable of another type": Row(
        "%%finetune lora --model train_df --data train_df", ("--model train_df", "DataFrame", "give a run")
    ),
    "encoder that is to generate": Row("--data pairs", ("encoder", "smollm2")),
    # the data
    "no data": Row("", ("no data", "add --data")),
    "misspelt variable": Row("--data trian_df", ("--data trian_df", "did you mean train_df")),
    "misspelt file": Row("--data god.csv", ("god.csv", "did you mean good.csv")),
    "missing file": Row("--data elsewhere/rows.jsonl", ("rows.jsonl", "check the path")),
    "home folder of nobody": Row("--data ~no-such-user/rows.csv", ("~no-such-user/rows.csv", "what follows the ~")),
    "file of an unknown kind": Row("--data notes.docx", ("notes.docx", ".docx", ".csv")),
    "empty file": Row("--data empty.csv", ("empty.csv", "empty")),
    "file with a header only": Row("--data header.csv", ("header.csv", "no rows")),
    "file that is not UTF-8": Row("--data latin1.csv", ("latin1.csv, line 3", "UTF-8")),
    "ragged file": Row("--data ragged.csv", ("ragged.csv, line 3", "3 cells", "double quotes")),
    "bad JSON in a line": Row("--data bad.jsonl", ("bad.jsonl, line 2", "one JSON object")),
    "no label column": Row(
        "--data no_label.csv --task classification", ("no_label.csv", "'label'", "stars", "--label")
    ),
    "column that does not exist": Row(DATA + " --label lable", ("train_df", "'lable'", "did you mean 'label'?")),
    "one class": Row("--data one_class", ("one_class", "'good'", "two labels")),
    "empty label": Row("--data hole", ("hole, row 2", "'label'", "fill it or drop the row")),
    "text that is a number": Row("--data numbers", ("numbers, row 1", "'text'", "convert the column")),
    "a number for data": Row("--data answer", ("answer", "not a table", "DataFrame")),
    "an empty list": Row("--data nothing", ("nothing", "empty", "at least one row")),
    "labels that training never saw": Row(DATA + " --eval other_labels", ("other_labels, row 1", "'neutral'")),
    "hub data without a hub": Row("--data some/where", ("some/where",)),
}

PROMPT = {
    "empty prompt": Row("", ("the prompt is empty", "below the %%prompt line")),
    "blank prompt": Row("", ("the prompt is empty",), "   \n\n"),
    "missing placeholder": Row("", ("{{sentense}}", "did you mean sentence?"), "{{sentense}}"),
    "placeholder that is no column": Row("--data train_df", ("{{txt}}", "text"), "{{txt}}"),
    "variable that is None": Row("", ("{{unset}}", "whose value is None", "give it a text"), "Say {{unset}}"),
    "unclosed braces": Row("", ("line 1 of the prompt", "{{sentence", "write {{name}}"), "Say {{sentence"),
    "braces around nothing": Row("", ("line 1 of the prompt", "{{}}", "write {{name}}"), "Say {{}}"),
    "one label": Row("--labels good", ("'good'", "give at least two"), "{{sentence}}"),
    "label given twice": Row("--labels good,bad,good", ("'good' twice", "keep one"), "{{sentence}}"),
    "empty label": Row("--labels good,", ("an empty label", "good,bad"), "{{sentence}}"),
    "option of finetuning": Row("--split 0.2", ("--split", "option of %%finetune", "leave it out"), "hi"),
    "encoder that is to generate": Row(
        "%%prompt zero-shot --model encoder", ("encoder", "causal language model"), "hi"
    ),
    "no label column": Row("--data train_df --label lable", ("'lable'", "did you mean 'label'"), "{{text}}"),
    "no examples": Row("%%prompt few-shot --model causal", ("--examples",), "{{sentence}}"),
    "empty examples": Row("%%prompt few-shot --model causal --examples nothing", ("nothing", "empty"), "{{sentence}}"),
    "no index": Row("%%prompt rag --model causal", ("--index NAME", "%nbadapt index PATH"), "hi"),
    "an unknown index": Row("%%prompt rag --model causal --index notes", ("'notes'", "there are no indexes"), "hi"),
    "too few shots": Row("%%prompt few-shot --model causal --examples pairs --shots -1", ("'shots'", "at least"), "hi"),
}

COMMANDS = {
    "unknown command": Row("%nbadapt method", ("'method'", "did you mean methods")),
    "show without a run": Row("%nbadapt show", ("needs a RUN", "%nbadapt show RUN")),
    "show of an unknown run": Row("%nbadapt show 2026", ("'2026'", "there are no runs")),
    "resume of an unknown run": Row("%nbadapt resume lora-abcd", ("'lora-abcd'", "there are no runs")),
    "a table for a run": Row("%nbadapt show train_df", ("train_df", "DataFrame", "%nbadapt runs")),
    "nothing to stop": Row("%nbadapt stop", ("no run is at work", "%nbadapt runs")),
    "help of an unknown method": Row("%nbadapt help lorra", ("'lorra'", "did you mean lora or")),
    "an index of nothing": Row("%nbadapt index --as notes", ("no paths", "%nbadapt index PATH... --as NAME")),
    "an index without a name": Row("%nbadapt index good.csv", ("no name", "%nbadapt index PATH... --as NAME")),
    "an unknown option of index": Row("%nbadapt index good.csv --as notes --modle x", ("'--modle'", "--model")),
    "a word too many": Row("%nbadapt runs all", ("unexpected 'all'", "%nbadapt runs")),
}


@pytest.fixture(scope="module")
def shell() -> Shell:
    made = Shell()
    rows = pd.DataFrame(reviews(24))
    variables: dict[str, Any] = {
        "encoder": str(folder("bert")),
        "causal": str(folder("llama")),
        "distil": str(folder("distilbert")),
        "both": str(folder("t5")),
        "train_df": rows,
        "pairs": translations(),
        "preferences": [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 8,
        "no_difference": [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 8,
        "late_difference": [
            {"prompt": "a", "chosen": "b " * (i + 1) + "c", "rejected": "b " * (i + 1) + "d"} for i in (0, 1, 20, 30)
        ],
        "one_class": [{"text": f"row {i}", "label": "good"} for i in range(8)],
        "hole": [{"text": "a", "label": "x"}, {"text": "b", "label": ""}, {"text": "c", "label": "y"}],
        "numbers": [{"text": i, "label": "xy"[i % 2]} for i in range(8)],
        "other_labels": [{"text": "so so", "label": "neutral"}],
        "nothing": [],
        "answer": 42,
        "sentence": "Guten Tag",
        "unset": None,
    }
    for name, value in variables.items():
        made[name] = value
    return made


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the cells name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    contents = {
        "good.csv": b"text,label\na,x\nb,y\n",
        "empty.csv": b"",
        "header.csv": b"text,label\n",
        "latin1.csv": "text,label\na,x\ncafé,y\n".encode("latin-1"),
        "ragged.csv": b"text,label\na,x\nb, really,y\n",
        "bad.jsonl": b'{"text": "a", "label": "x"}\n{"text": \n',
        "no_label.csv": b"text,stars\na,x\nb,y\n",
        "notes.docx": b"PK",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, left_out in {"wordless": ("tokenizer*", "vocab*"), "pickled": ("*.safetensors",), "adapted": ()}.items():
        shutil.copytree(folder("bert"), tmp_path / name, ignore=shutil.ignore_patterns(*left_out))
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "adapted" / "adapter_config.json").write_text("{}")


CASES = [
    *((row, "%%finetune lora --model encoder ", f"finetune: {name}") for name, row in FINETUNE.items()),
    *((row, "%%prompt zero-shot --model causal ", f"prompt: {name}") for name, row in PROMPT.items()),
    *((row, "", f"nbadapt: {name}") for name, row in COMMANDS.items()),
]


@pytest.mark.parametrize(("row", "start"), [pytest.param(row, start, id=name) for row, start, name in CASES])
def test_a_bad_input_is_one_line_with_the_fix(row: Row, start: str, shell: Shell, runs: Path):
    line = row.line if row.line.startswith("%") else start + row.line
    before = set(shell.ip.user_ns)
    models.free()
    done = shell.run(line if line.startswith("%nbadapt") else f"{line}\n{row.body}")

    assert type(done.error) is UsageError, done.err or done.out
    message = done.err.removeprefix("UsageError: ").removesuffix("\n")
    assert done.err == f"UsageError: {message}\n"
    assert "\n" not in message
    assert "Traceback" not in done.out + done.err
    for part in row.told:
        assert part in message
    assert not runs.exists()
    assert not models._bases  # found before any weight is loaded
    assert {name for name in set(shell.ip.user_ns) - before if not name.startswith("_")} == set()


@pytest.mark.parametrize("method", [m.name for m in registry.methods("finetune") if "classification" in m.tasks])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("one_class", ("one_class", "'good'", "two labels")),
        ("train_df --eval other_labels", ("other_labels, row 1", "'neutral'")),
    ],
)
def test_classes_that_cannot_be_learned_are_told_before_weights_load(method: str, data: str, words, shell: Shell):
    models.free()
    done = shell.run(f"%%finetune {method} --model encoder --data {data}\n")
    assert type(done.error) is UsageError, done.err or done.out
    assert done.err.count("\n") == 1
    assert all(word in done.err for word in words), done.err
    assert not models._bases


def test_4_bits_without_bitsandbytes_name_the_install_command(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    present = registry.installed
    monkeypatch.setattr(registry, "installed", lambda name: name != "bitsandbytes" and present(name))
    models.free()
    done = shell.run("%%finetune qlora --model encoder --data train_df\n")
    assert done.err == 'UsageError: qlora needs bitsandbytes: run  pip install "nbadapt[quantization]"\n'
    assert not models._bases


def test_the_table_is_as_wide_as_promised():
    assert len(CASES) >= 40
    for row, _, _ in CASES:
        assert row.told
