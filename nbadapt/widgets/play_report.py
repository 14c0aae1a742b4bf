"""The last prompt of a playground with its answers, as it stays in a saved notebook; all texts are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from nbadapt.widgets.play_columns import LEAST, Column, columns, legend
from nbadapt.widgets.report import ANSWER, CELL
from nbadapt.widgets.texts import clip

if TYPE_CHECKING:
    from nbadapt.playing.answers import Round

PROMPT_BYTES = 4_000
FRAME = "max-width:1200px;border:1px solid rgba(128,128,128,0.4);border-radius:6px;padding:10px 14px"
DIFFERENT = "background:rgba(230,159,0,0.25);text-decoration:underline;text-decoration-thickness:2px"
FOR, AGAINST = "0,114,178", "213,94,0"  # Okabe-Ito blue and vermilion
FAINT = 0.05  # of the heaviest word's weight: less than that is not marked
STATES = {"stopped": "stopped", "failed": "failed", "waiting": "not asked", "loading": "not asked"}


def bundle(asked: Round, chosen: str | None = None, kept: str = "") -> dict[str, str]:
    """HTML and plain text.

    Args:
        asked: the prompt and its answers.
        chosen: the text that was found better.
        kept: what was said of that.
    """
    found, key = columns(asked, chosen), legend(asked)
    prompt = clip(asked.prompt, PROMPT_BYTES)
    how = asked.settings.line if any(p.kind == "generate" for p in asked.players) else ""
    notes = [line for line in (key, kept) if line]
    below = "".join(f"<div>{_text(line)}</div>" for line in notes)
    head = f"<b>Playground</b>{' &nbsp; ' + _text(how) if how else ''}"
    html = (
        f'<div style="{FRAME}"><div>{head}</div><pre style="{ANSWER};border-left:3px solid rgba(128,128,128,0.6);'
        f'padding:2px 10px">{_text(prompt)}</pre>{_table(found)}{below}</div>'
    )
    title = f"Playground{': ' + how if how else ''}"
    plain = "\n".join([title, *_indented(prompt, "> "), "", *_blocks(found), *notes]).rstrip()
    return {"text/html": html, "text/plain": plain}


def _text(text: str) -> str:
    return escape(text, quote=False)


# ------------------------------------------------------------------------------------------------ HTML


def _table(found: Sequence[Column]) -> str:
    """Columns side by side."""
    width = f"width:{100 // max(1, len(found))}%"
    heads = "".join(f'<th style="{CELL};{width}">{_head(column)}</th>' for column in found)
    cells = "".join(f'<td style="{CELL};white-space:pre-wrap">{_body(column)}</td>' for column in found)
    lines = "".join(f'<td style="{CELL};opacity:0.8">{_text(_below(column))}</td>' for column in found)
    return (
        '<table style="margin:4px 0;border-collapse:collapse;table-layout:fixed;width:100%">'
        f"<tr>{heads}</tr><tr>{cells}</tr><tr>{lines}</tr></table>"
    )


def _head(column: Column) -> str:
    best = " ✓ better" if column["best"] else ""
    about = f'<span style="font-weight:normal;opacity:0.8">{_text(column["about"])}</span>'
    return f"{_text(column['name'] + best)}<br>{about}"


def _body(column: Column) -> str:
    if column["kind"] == "generate":
        return "".join(
            f'<ins style="{DIFFERENT}">{_text(text)}</ins>' if differs else _text(text)
            for text, differs in column["segments"]
        )
    bars = "".join(f"<div>{_bar(p)}{_text(name)} {p:.3f}</div>" for name, p in column["bars"])
    more = f"<div>and {column['more']:,} more classes</div>" if column["more"] else ""
    return bars + more + _weighed(column)


def _bar(p: float) -> str:
    track = "display:inline-block;width:80px;height:9px;margin-right:8px;border:1px solid rgba(128,128,128,0.7)"
    fill = f"display:block;height:100%;width:{100 * p:.0f}%;background:rgb({FOR})"
    return f'<span style="{track}"><span style="{fill}"></span></span>'


def _weighed(column: Column) -> str:
    """The text with its weights, and the heaviest words in figures."""
    if not column["words"]:
        return ""
    most = max((abs(weight) for _, weight in column["words"] if weight is not None), default=0.0)
    text = "".join(_weight(word, weight, most) for word, weight in column["words"])
    return f'<div style="margin-top:6px">{text}</div><div style="opacity:0.9">{_text(_weights(column))}</div>'


def _weight(word: str, weight: float | None, most: float) -> str:
    if weight is None or abs(weight) < max(LEAST, FAINT * most):
        return _text(word)
    colour, line = (FOR, "solid") if weight > 0 else (AGAINST, "dashed")
    style = f"background:rgba({colour},{0.1 + 0.35 * abs(weight) / most:.2f});border-bottom:2px {line} rgb({colour})"
    return f'<span style="{style}" title="{weight:+.3f}">{_text(word)}</span>'


# ------------------------------------------------------------------------------------------------ text


def _blocks(found: Sequence[Column]) -> list[str]:
    lines: list[str] = []
    for column in found:
        best = ", found better" if column["best"] else ""
        lines.append(f"{column['name']} ({column['about']}){best}")
        if column["kind"] == "generate":
            text = "".join(f"[{text}]" if differs else text for text, differs in column["segments"])
            lines += _indented(text, "  ") if text else []
        else:
            width = max((len(name) for name, _ in column["bars"]), default=0)
            lines += [f"  {name:<{width}}  {p:.3f}  {'█' * round(20 * p)}" for name, p in column["bars"]]
            lines += [f"  and {column['more']:,} more classes"] if column["more"] else []
            lines += [f"  {_weights(column)}"] if column["words"] else []
        lines += [f"  ({below})"] if (below := _below(column)) else []
        lines.append("")
    return lines


def _indented(text: str, before: str) -> list[str]:
    return [before + line for line in text.splitlines()]


def _weights(column: Column) -> str:
    """The heaviest words in figures."""
    if not column["top"]:
        return f"No word changes the probability of {column['about_class']} by as much as {LEAST:g}."
    heavy = ", ".join(f"{word} ({weight:+.3f})" for word, weight in column["top"])
    return f"Without the word the probability of {column['about_class']} falls by: {heavy}"


def _below(column: Column) -> str:
    return ", ".join(part for part in (STATES.get(column["state"], ""), column["line"], column["note"]) if part)
