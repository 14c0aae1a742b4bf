"""How long a form takes to answer a moved slider: every slider of every method, through the form's own messages.

usage: python benchmarks/form_speed.py [--moves 3] [METHOD ...]

A real session of a form is told what its page would tell it, and timed is the way from the message that a slider was
moved to the message with the figures. A slider is moved at once after its last answer, as under a finger, and the last
time after a rest, when the form works out the exact memory, which has to be broken off first. A page adds a pause of
30 ms and the way of two messages through the server. Opening a form and its first estimate, which imports libraries and
looks the model up, are not counted. Writes benchmarks/results/form_speed.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from IPython.core.interactiveshell import InteractiveShell
from report import Took, environment, middle, save, table, timed

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from watching import Wire, make_wire

import nbadapt
from nbadapt import datasets, registry
from nbadapt.forms.fields import FormField, described
from nbadapt.forms.form import Form
from nbadapt.forms.session import REFINE_SECONDS, Session
from nbadapt.method import Method

BUDGET_MS = 200
MODELS = ("minilm", "smollm2")
PROMPT = {"--examples": "few", "--label": "label", "prompt-text": "{{text}}\nWhat is this about?"}
OWN = {"ppo": {"reward": "score"}, "rag": {"index": "shop"}}  # what a method needs beside model and data


class Moves(NamedTuple):
    """The answers to the sliders of one form."""

    method: str
    model: str
    sliders: int
    at_once: dict[str, list[Took]]  # setting -> answers under the finger
    rested: dict[str, Took]  # the same, of one move while the exact memory is worked out

    @property
    def slowest(self) -> tuple[Took, str]:
        """The answer that took the processor longest, and the setting that was moved."""
        everything = [(took, name) for name, times in self.at_once.items() for took in times]
        return max([*everything, *((took, name) for name, took in self.rested.items())], key=lambda x: x[0].processor)

    @property
    def late(self) -> bool:
        """Whether an answer took too long."""
        return 1000 * self.slowest[0].processor > BUDGET_MS


class Page:
    """A session of a form, and who says what its page would."""

    def __init__(self, wire: Wire, method: type[Method], model: str, namespace: dict[str, Any]) -> None:
        self._wire, self._seq = wire, 0
        shell = InteractiveShell.instance()
        shell.user_ns.update(namespace)
        form = Form(method.verb, method.name, shell.user_ns)
        self.sliders = [field for field in form.settings if described(field)["stops"] and not field.choices]
        self.session = Session(form, shell, {})
        self.session._places.show = self.session._places.draw = lambda *_: None  # type: ignore[method-assign]
        self.session.show()
        self._say({"type": "hello"})
        known = {field.name for field in form.fields} | {"prompt-text"}
        data = "pairs" if method.tasks == {"preference"} else "rows" if "classification" in method.tasks else "letters"
        given = {"--model": model, "--data": data, **(PROMPT if method.verb == "prompt" else {})}
        given |= OWN.get(method.name, {})
        self.first = self.move({name: value for name, value in given.items() if name in known})[1]

    def _say(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        self._seq += 1
        content = {**message, "view": "page", "seq": self._seq}
        data = {"method": "custom", "content": content}
        self.session.widget.comm.handle_msg({"content": {"data": data}, "buffers": []})
        return [told for told, _ in self._wire.take() if told.get("seq") == self._seq]

    def move(self, values: dict[str, str]) -> tuple[Took, dict[str, Any]]:
        """How long it takes until the figures are told, and the message that tells them."""
        self._wire.take()
        took, told = timed(lambda: self._say({"type": "set", "values": values}))
        return took, told[-1]

    def settle(self) -> None:
        """Wait until the exact memory is known."""
        thread = self.session._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Let the form go."""
        self.session.close()


def spread(field: FormField, count: int) -> list[str]:
    """So many stops of a slider, from all of its length, none of them the default."""
    stops = [stop for stop in described(field)["stops"] if stop != field.default]
    count = min(count, len(stops))
    return [stops[(2 * i + 1) * len(stops) // (2 * count)] for i in range(count)]


def measure(wire: Wire, method: type[Method], model: str, namespace: dict[str, Any], moves: int) -> Moves | str:
    """Every slider of a method; why there is nothing to measure, where the method cannot be used so."""
    page = Page(wire, method, model, namespace)
    try:
        late = [remark for remark in page.first["remarks"] if "gave no estimate" in remark]  # on a busy machine
        if late or not page.first["figures"]:
            return str(page.first["reason"] or late[0])
        page.settle()
        at_once: dict[str, list[Took]] = {}
        rested: dict[str, Took] = {}
        for field in page.sliders:
            *usual, last = spread(field, moves)
            at_once[field.name] = [page.move({field.name: stop})[0] for stop in usual]
            time.sleep(REFINE_SECONDS + 0.3)  # now the exact memory of the last one is worked out
            rested[field.name] = page.move({field.name: last})[0]
            page.move({field.name: field.default})
        return Moves(method.name, model, len(page.sliders), at_once, rested)
    finally:
        page.close()


def tables() -> dict[str, Any]:
    """What a notebook has: rows with labels, letters with answers, pairs with a better one."""
    messages = datasets.load("bicycle_shop")
    few = messages.groupby("label").sample(4, random_state=0)
    rows = messages.drop(few.index)
    letters = rows.rename(columns={"text": "prompt", "label": "completion"})[["prompt", "completion"]]
    pairs = letters.rename(columns={"completion": "chosen"}).assign(rejected="no")
    return {"rows": rows, "few": few, "letters": letters, "pairs": pairs, "score": score}


def score(prompts: list[str], completions: list[str]) -> list[float]:
    """A reward; nothing is trained."""
    return [len(text) / len(prompt) for prompt, text in zip(prompts, completions, strict=True)]


def line(moves: Moves) -> list[str]:
    """A row of the table."""
    took, name = moves.slowest
    usual = middle([one for times in moves.at_once.values() for one in times])
    rested = middle(list(moves.rested.values()))
    figures = [f"{1000 * t.elapsed:.0f} ({1000 * t.processor:.0f})" for t in (usual, rested, took)]
    figures[-1] = f"**{figures[-1]}**" if moves.late else figures[-1]
    return [f"`{moves.method}`", moves.model, str(moves.sliders), *figures, name]


def report(found: list[Moves], unfit: list[str]) -> str:
    """The results as Markdown."""
    late = [f"{one.method} {one.model} ({one.slowest[1]})" for one in found if one.late]
    verdict = f"Above {BUDGET_MS} ms: {', '.join(late)}." if late else f"Every answer took less than {BUDGET_MS} ms."
    heads = ("method", "model", "sliders", "median", "after a rest", "slowest", "of")
    return "\n\n".join(
        [
            "# From a moved slider to its answer",
            "Milliseconds from the message of the page to the one with the figures, for every slider of every method; "
            "in brackets those of the processor, beside which other work on the machine does not count. How: "
            "[form_speed.py](../form_speed.py).",
            table(heads, map(line, found)),
            f"**{verdict}** That is by the processor. After a rest: while the form works out the exact memory of the "
            "move before, which is broken off.",
            f"Not with this model: {'; '.join(unfit)}." if unfit else "",
            environment("benchmarks/form_speed.py", ("torch", "transformers", "peft")),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=3, help="of each slider")
    parser.add_argument("methods", nargs="*", help="all where none is named")
    arguments = parser.parse_args()
    namespace = tables()
    found, unfit = [], []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("NBADAPT_RUNS", folder)
        shop = Path(folder, "shop.md")
        shop.write_text("We are open on Sundays from ten to four.\n", encoding="utf-8")
        nbadapt.index(shop, name="shop", model="minilm")
        wire = make_wire(patch)
        for method in [*registry.methods("finetune"), *registry.methods("prompt")]:
            for model in MODELS if not arguments.methods or method.name in arguments.methods else ():
                one = measure(wire, method, model, namespace, arguments.moves)
                if isinstance(one, str):
                    unfit.append(f"`{method.name}` {model}")
                    print(method.name, model, one, file=sys.stderr)
                else:
                    found.append(one)
                    print(" ".join(line(one)), file=sys.stderr)
    save("form_speed", report(found, unfit))


if __name__ == "__main__":
    main()
