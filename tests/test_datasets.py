"""The shipped data sets: what their descriptions say is true."""

import itertools
import re
import subprocess
import sys

import pytest

from nbadapt import data, datasets
from nbadapt.errors import DataError


@pytest.fixture(scope="module")
def messages():
    return datasets.load("bicycle_shop")


def test_names_have_a_table_and_a_description():
    assert datasets.names() == ["bicycle_shop"]
    for name in datasets.names():
        assert list(datasets.load(name).columns) == ["text", "label"]
        assert datasets.describe(name).startswith(f"# {name}\n")


@pytest.mark.parametrize("function", [datasets.load, datasets.describe])
def test_an_unknown_name_is_named_with_the_nearest(function):
    with pytest.raises(DataError, match=r"^no data set 'bicycle' comes with nbadapt: did you mean bicycle_shop\?$"):
        function("bicycle")


def test_the_description_has_the_true_counts(messages):
    described = datasets.describe("bicycle_shop")
    counts = {label: int(n) for label, n in re.findall(r"^\| `(\w+)` \| (\d+) \|", described, re.MULTILINE)}
    assert counts == messages["label"].value_counts().to_dict()
    words = messages["text"].str.split().str.len()
    assert described.startswith(f"# bicycle_shop\n\n{len(messages)} short messages")
    assert f"{words.min()} to {words.max()} words (median {words.median():.0f})" in described


def test_no_two_messages_are_nearly_the_same(messages):
    words = [set(re.findall(r"\w+", text.lower())) for text in messages["text"]]
    shared = [len(a & b) / len(a | b) for a, b in itertools.combinations(words, 2)]
    assert max(shared) < 0.5


def test_no_addresses_or_numbers_of_people(messages):
    assert not messages["text"].str.contains(r"@|www\.|https?:|\d{6,}|\+\d").any()


def test_the_task_is_told_from_the_columns(messages):
    examples = data.read(messages, name="messages")
    assert (examples.task, len(examples)) == ("classification", 400)
    assert examples.labels == ("order", "other", "rental", "repair", "return")


def test_words_alone_separate_the_classes_in_part(messages):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(model, messages["text"], messages["label"], cv=folds).mean()
    assert 0.5 < accuracy < 0.95
    assert accuracy == pytest.approx(0.61, abs=0.03)  # the figure in the description


def test_pandas_is_imported_only_when_a_table_is_loaded():
    code = "import sys; from nbadapt import datasets; datasets.names(); print('pandas' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
