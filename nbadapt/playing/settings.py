"""How the playground asks: declared as a method's settings are, so that the form's fields show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from nbadapt.errors import RequestError, did_you_mean
from nbadapt.forms.fields import FormField, config_fields, value_of
from nbadapt.method import Config

MOST_TOKENS = 1024
LABELS = {"top_p": "top-p", "max_new_tokens": "longest answer", "words": "which words matter"}
DRAWING = ("temperature", "top_p", "seed")  # what greedy makes no use of


class Settings(Config):
    """What a person can set before asking."""

    greedy: bool = Field(True, description="take the most probable token each time; off: draw tokens")
    temperature: float = Field(0.7, gt=0, le=2, description="of the drawing: lower keeps to likelier tokens")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens that share this probability")
    seed: int = Field(0, ge=0, description="decides the drawing; the same one for all models")
    max_new_tokens: int = Field(128, ge=1, le=MOST_TOKENS, description="the longest answer, in tokens")
    words: bool = Field(True, description="leave out each word in turn, to see which ones the class rests on")

    def sampling(self) -> dict[str, Any]:
        """The arguments of `nbadapt.method.Adapted.generate`."""
        temperature = 0.0 if self.greedy else self.temperature
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }

    @property
    def line(self) -> str:
        """In a few words, for what stays in a saved notebook."""
        most = f"at most {self.max_new_tokens:,} tokens"
        if self.greedy:
            return f"greedy, {most}"
        return f"temperature {self.temperature:g}, top-p {self.top_p:g}, seed {self.seed}, {most}"


def fields(kinds: Sequence[str]) -> list[FormField]:
    """The fields that players of these kinds make use of."""
    found = [f for f in config_fields(Settings) if ("classify" if f.name == "words" else "generate") in kinds]
    return [dataclasses.replace(field, label=LABELS.get(field.name, field.name)) for field in found]


def settings(given: Mapping[str, Any]) -> Settings:
    """The settings of a line or a call; who says how to draw wants no greedy answers.

    Raises:
        RequestError: a value out of its bounds.
    """
    chosen = dict(given)
    unknown = next((name for name in chosen if name not in Settings.model_fields), None)
    if unknown is not None:
        raise RequestError(
            f"unknown setting {unknown!r}: {did_you_mean(unknown, Settings.model_fields, kind='settings')}"
        )
    if any(name in chosen for name in DRAWING):
        chosen.setdefault("greedy", chosen.get("temperature") == 0)
    if chosen.get("temperature") == 0:  # as everywhere else
        del chosen["temperature"]
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        name, message = next(iter(_messages(error).items()))
        raise RequestError(f"{name} is {chosen.get(name)!r:.40}: {message}") from None


def read(raw: Mapping[str, str]) -> tuple[Settings | None, dict[str, str]]:
    """The settings of fields as they were typed; or what is wrong, by field."""
    given: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in config_fields(Settings):
        if field.name in raw:
            try:
                given[field.name] = value_of(field, raw[field.name])
            except RequestError as error:
                errors[field.name] = str(error)
    try:
        found = Settings.model_validate(given)
    except ValidationError as error:
        return None, {**_messages(error), **errors}
    return (None if errors else found), errors


def _messages(error: ValidationError) -> dict[str, str]:
    return {str(detail["loc"][0]): detail["msg"] for detail in error.errors(include_url=False) if detail["loc"]}
