"""The provider "openai": any endpoint that speaks OpenAI's chat completions, asked through its client library.

::

    POST {base_url}/chat/completions
    {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}  ──>  choices[0].message.content, usage

Many services and local servers speak this: vLLM, llama.cpp, Ollama, ``transformers serve``. What some refuse (a
seed, a temperature, the older name of max_completion_tokens) is left out or renamed at the first question.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbadapt import endpoints
from nbadapt.errors import did_you_mean
from nbadapt.method import ModelRef
from nbadapt.provider import Answer, Connection, FaultError, Provider, Question, Tell

if TYPE_CHECKING:
    import openai

NO_KEY = "none"  # the client wants one; servers that need none take no notice of it
MOST_TOLD = 200  # characters of what a server says
SHORTEST_KEY = 8  # below, it is a word that local servers are started with, and no secret
LOOK = 5.0  # seconds for the list of models, after an error
OPTIONAL = ("seed", "top_p", "temperature")  # an endpoint that refuses one of these is asked without it


class OpenAIEndpoint(Provider):
    """Any endpoint that speaks OpenAI's chat completions."""

    name = "openai"
    summary = "any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama, transformers serve"
    base_url = "https://api.openai.com/v1"
    base_url_env = "OPENAI_BASE_URL"
    key_env = "OPENAI_API_KEY"
    requires = ("openai",)

    def connect(self, model: ModelRef, key: str | None, tell: Tell) -> Connection:
        """A client of its own for one round of questions."""
        return _Chat(model, key, tell)

    @classmethod
    def trial_reply(cls, body: bytes, text: str) -> tuple[str, bytes]:
        """A chat completion."""
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(body), "completion_tokens": len(text), "total_tokens": len(body) + len(text)}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": usage,
        }
        return "application/json", json.dumps(completion).encode()


class _Chat(Connection):
    """One client, and what it has found out about the endpoint."""

    def __init__(self, model: ModelRef, key: str | None, tell: Tell) -> None:
        import openai

        self._model, self._key, self._tell = model, key, tell
        here = endpoints.is_loopback(model.base_url)
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=model.base_url,
            max_retries=0,
            timeout=None,  # who asks decides how often and how long
            # A proxy of the environment knows nothing of this machine's own servers.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if here else None,
        )
        self._limit = "max_tokens"
        self._left_out: set[str] = set()
        self._answered = False
        if key and not here and model.base_url.startswith("http:"):
            tell(f"the key goes to {model.base_url} without encryption: use https if the endpoint has it")

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def ask(self, question: Question) -> Answer:
        """One chat completion.

        Raises:
            FaultError: none came.
        """
        import openai

        while True:
            try:
                completion: Any = await self._client.chat.completions.create(**self._body(question))
            except openai.APIStatusError as error:
                if not self._answered and self._adapt(error):
                    continue
                raise await self._fault(error) from None
            except openai.APIConnectionError as error:
                reason = self._said(error.__cause__ or error)
                raise FaultError(
                    f"nobody answers there ({reason}): start the server, or correct --base-url",
                    again=True,
                    reached=False,
                ) from None
            except openai.OpenAIError as error:
                raise FaultError(f"no chat completion came back: {self._said(error)}") from None
            except ValueError as error:  # no JSON
                raise FaultError(f"no chat completion came back ({self._said(error)}): {_NO_API}") from None
            answer = _read(completion)
            self._answered = True
            return answer

    def _body(self, question: Question) -> dict[str, Any]:
        sampling = {"temperature": question.temperature, "top_p": question.top_p, "seed": question.seed}
        return {
            "model": self._model.path,
            "messages": list(question.messages),
            self._limit: question.max_tokens,
            **{name: value for name, value in sampling.items() if name not in self._left_out},
        }

    def _adapt(self, error: openai.APIStatusError) -> bool:
        """Whether another form of the first question may do, after what the endpoint says about it."""
        if error.status_code not in {400, 422}:
            return False
        said = f"{error.param or ''} {error.message} {error.body}"
        if self._limit == "max_tokens" and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"
            return True
        refused = [name for name in OPTIONAL if name not in self._left_out and re.search(rf"\b{name}\b", said)]
        if not refused:
            return False
        self._left_out.update(refused)
        self._tell(f"the endpoint takes no {' and no '.join(refused)}: its own default is used")
        return True

    async def _fault(self, error: openai.APIStatusError) -> FaultError:
        """What a status means, in one line that names the fix."""
        status, said = error.status_code, self._said(error)
        wait = _retry_after(error.response.headers)
        match status:
            case 401 | 403 if self._key is None:
                variable = self._model.key_env
                return FaultError(f"it wants a key ({status}): put it into the environment variable {variable}")
            case 401 | 403:
                return FaultError(f"it refuses the key in the environment variable {self._model.key_env} ({status})")
            case 404 if "model" in said.lower():
                return FaultError(f"it knows no such model (404: {said}){await self._known_models()}")
            case 404 | 405:
                return FaultError(f"there are no chat completions ({status}): {_NO_API}")
            case 429 if error.code == "insufficient_quota":
                return FaultError(f"the account's quota is used up (429: {said}): top it up, or take another key")
            case 402:
                return FaultError(f"the account has no credit (402: {said}): top it up, or take another key")
            case 429:
                return FaultError(f"too many requests (429: {said}): lower parallel", again=True, wait=wait)
            case 408 | 409:
                return FaultError(f"the server was busy ({status}: {said})", again=True, wait=wait)
            case _ if status >= 500:
                return FaultError(f"the server fails ({status}: {said}): look at its log", again=True, wait=wait)
        models = await self._known_models() if "model" in said.lower() else ""
        return FaultError(f"the question is refused ({status}: {said}){models}", own=True)

    async def _known_models(self) -> str:
        """The end of a line about a wrong name: the models that the endpoint lists, where it does."""
        try:
            async with asyncio.timeout(LOOK):
                listed = await self._client.models.list()
            names = [str(model.id) for model in listed.data]
        except Exception:  # noqa: BLE001 - a hint, and no more
            return ""
        if not names or self._model.path in names:
            return ""
        return f"; {did_you_mean(self._model.path, names, kind='models there')}"

    def _said(self, error: BaseException) -> str:
        """What an error says: one short line, without the key."""
        body = getattr(error, "body", None)
        told = body if isinstance(body, Mapping) else {}
        text = str(told.get("message") or told.get("detail") or told.get("error") or error)
        line = " ".join(text.split()) or type(error).__name__
        if self._key is not None and len(self._key) >= SHORTEST_KEY:
            line = line.replace(self._key, "***")
        return line if len(line) <= MOST_TOLD else line[: MOST_TOLD - 3] + "..."


_NO_API = "--base-url must be what comes before /chat/completions, and often ends in /v1"


def _read(completion: Any) -> Answer:
    """Raises FaultError where it is no chat completion, as behind a page that answers everything."""
    choices = getattr(completion, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if message is None:
        raise FaultError(f"what came back is no chat completion: {_NO_API}")
    usage = getattr(completion, "usage", None)
    return Answer(
        str(message.content or getattr(message, "refusal", None) or ""),
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
        cut=getattr(first, "finish_reason", None) == "length",
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait (RFC 9110, 10.2.3: seconds or a date); None where it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        given = headers.get(name, "")
        if re.fullmatch(r"\d{1,12}(\.\d+)?", given.strip()):
            return float(given) / unit
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
