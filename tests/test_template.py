"""Templates: what is a placeholder, what is the user's own text, and what is an error."""

import pytest

from nbadapt.errors import RequestError
from nbadapt.template import fill, placeholders

VALUES = {"x": "X", "Review Text": "fine", "n": 3, "größe": "58 cm", "empty": "", "tricky": "{{x}} {0} \\1 {x}"}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{x}}", "X"),
        ("{{ x }}", "X"),
        ("{{\tx }}", "X"),
        ("{{x}}{{x}}", "XX"),
        ("{{x}} {{n}}", "X 3"),
        ("{{Review Text}}", "fine"),
        ("{{größe}}", "58 cm"),
        ("[{{empty}}]", "[]"),
        ("{{{x}}}", "{X}"),
        ("{ {{x}} }", "{ X }"),
        ("{{x}}}", "X}"),
        ('{"a": {"b": "{{x}}"}}', '{"a": {"b": "X"}}'),
        ('{"a":{"b":{}}}', '{"a":{"b":{}}}'),
        ("f'{x!r:>{width}}' {} {0}", "f'{x!r:>{width}}' {} {0}"),
        ("100 % %s %(x)s $x ${x}", "100 % %s %(x)s $x ${x}"),
        ("closing }} alone", "closing }} alone"),
        ("{{tricky}}", "{{x}} {0} \\1 {x}"),
        ("two\n{{x}}\nlines\n", "two\nX\nlines\n"),
    ],
)
def test_fill(template, filled):
    assert fill(template, VALUES) == filled


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("none {x} {} here", ()),
        ("{{b}} {{ a }} {{b}}", ("b", "a")),
        ("{{{x}}}", ("x",)),
        ("{{a b}}", ("a b",)),
    ],
)
def test_placeholders_in_order_of_appearance(template, names):
    assert placeholders(template) == names


@pytest.mark.parametrize(
    ("template", "values", "words"),
    [
        (
            "{{sentense}}",
            {"sentence": "", "label": ""},
            ["{{sentense}}", "mean sentence?", "available: label, sentence"],
        ),
        ("{{zzz}}", {"sentence": "", "label": ""}, ["{{zzz}}", "values here: label, sentence"]),
        ("{{zzz}}", {}, ["{{zzz}}", "there are no values here"]),
        ("{{x}}", {"x": None}, ["{{x}}", "None", "give it a text"]),
        ("a\nb {{x} c", {"x": 1}, ["line 2", "'{{x} c'", "not closed", "{ {"]),
        ("{{x", {"x": 1}, ["line 1", "not closed"]),
        ("{{x\n}}", {"x": 1}, ["line 1", "not closed"]),
        ("{{a {{x}}", {"x": 1}, ["line 1", "'{{a'", "not closed"]),
        ("int a[] = {{1, 2}, {3}};", {}, ["line 1", "not closed", "{ {"]),
        ("{{x}}\n\n{{}}", {"x": 1}, ["line 3", "'{{}}'", "names nothing", "{{name}}"]),
        ("{{  }}", {"x": 1}, ["line 1", "names nothing"]),
    ],
)
def test_errors_are_one_line_that_names_place_and_fix(template, values, words):
    with pytest.raises(RequestError) as caught:
        fill(template, values)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_name_that_is_nowhere_does_not_flood_the_line():
    with pytest.raises(RequestError) as caught:
        fill("{{zzz}}", {f"column {i}": i for i in range(500)})
    assert len(str(caught.value)) < 400
