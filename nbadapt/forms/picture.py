"""A form as it stays in a saved notebook: its cell, and what that would cost or what is missing."""

from __future__ import annotations

from html import escape

from nbadapt.forms import figures as shown
from nbadapt.forms.form import State
from nbadapt.widgets.report import ANSWER, CELL, FRAME
from nbadapt.widgets.texts import sent


def static(state: State, line: str) -> dict[str, str]:
    """A form as HTML and as text, below a line that says why it is none to fill in."""
    facts = shown.rows(state.figures) if state.figures is not None else []
    facts += [("missing" if name else "note", text) for name, text in state.errors.items()]
    text = state.cell or "(a value is not allowed)"
    cells = "".join(f'<tr><td style="{CELL}">{_text(k)}</td><td style="{CELL}">{_text(v)}</td></tr>' for k, v in facts)
    html = (
        f'<div style="{FRAME}"><div>{_text(line)}</div><pre style="{ANSWER};font-family:monospace">{_text(text)}</pre>'
        f'<table style="margin:4px 0;border-collapse:collapse">{cells}</table></div>'
    )
    width = max((len(k) for k, _ in facts), default=0)
    plain = "\n".join([line, "", text, "", *(f"  {k:<{width}}  {v}" for k, v in facts)]).rstrip()
    return {"text/html": sent(html), "text/plain": sent(plain)}


def _text(text: str) -> str:
    return escape(text, quote=False)
