"""From a conversation to token ids, through the model's own chat template.

Control tokens come from the template alone. Whatever people, tools and the model itself wrote (contents, names, tool
declarations, arguments) is text, also where it spells a control token, and is encoded as one string with the plain
text around it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, meta
from jinja2.ext import LoopControlExtension

from k2lite.chat_messages import plain_messages
from k2lite.events import Message
from k2lite.families import family_of
from k2lite.template_sandbox import render_template
from k2lite.tokenizer import Tokenizer
from k2lite.tool_declaration import declare_in_typescript, sort_keys
from k2lite.vocabulary.control_text import map_strings, pick_breaker
from k2lite.vocabulary.vocabulary import THINK_BEGIN
from quant.errors import RequestError, UnsupportedError

# Some templates write any arguments as JSON, which would quote text that is JSON already a second time.
_WRITES_ARGUMENTS_AS_JSON = re.compile(r"arguments[^%}|]*\|\s*tojson")
_TAKES_ARGUMENTS_AS_TEXT = re.compile(r"arguments[^%}]* is string")
_TOO_DEEP = "the messages or tools are nested too deeply: write them flatter"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt ready for the model. `starts_thinking`: the prompt has opened the reasoning, the answer closes it."""

    ids: list[int]
    starts_thinking: bool
    text: str


class ChatFormat:
    """A chat template with the tokenizer it belongs to. `template` None: the model has none and cannot chat."""

    def __init__(self, template: str | None, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> RenderedPrompt:
        """The prompt for the next answer. `thinking` None leaves the choice to the template.

        Raises RequestError for what this model's template cannot express, UnsupportedError for a template that
        k2lite cannot run.
        """
        plain = plain_messages(messages, parse_arguments=_wants_objects(self._source))
        self._check(plain, tools, thinking)
        variables: dict[str, Any] = {"messages": plain, "add_generation_prompt": add_generation_prompt}
        if thinking is not None:
            variables["thinking"] = thinking
        return self.render_variables(variables | self._tool_variables(tools))

    def render_variables(self, variables: Mapping[str, Any]) -> RenderedPrompt:
        """The prompt for the template's variables as they are. Every string in them is taken for plain text."""
        control_text = self._tokenizer.control_text
        try:
            breaker = pick_breaker(variables, self._source)
            disarmed = map_strings(variables, lambda text: control_text.break_up(text, breaker))
        except RecursionError as error:
            raise RequestError(_TOO_DEEP) from error
        marked = render_template(self._source, self._own_tokens() | disarmed, control_text, breaker)
        generates = bool(variables.get("add_generation_prompt"))
        return RenderedPrompt(
            ids=self._tokenizer.encode_marked(marked, breaker),
            starts_thinking=generates and marked.rstrip().endswith(THINK_BEGIN),
            text=marked.replace(breaker, ""),
        )

    @property
    def _source(self) -> str:
        if self._template is None:
            raise RequestError("this model has no chat template, it continues text only: give it a raw prompt")
        return self._template

    @cached_property
    def _variables(self) -> frozenset[str]:
        """Names of the variables that the template reads."""
        environment = Environment(extensions=[LoopControlExtension])
        try:
            return frozenset(meta.find_undeclared_variables(environment.parse(self._source)))
        except (TemplateError, RecursionError) as error:
            raise UnsupportedError(f"the model's chat template is not valid: {error}") from error

    def _own_tokens(self) -> dict[str, str]:
        """Texts of the tokens that some templates write through a variable."""
        ids = {"bos_token": self._tokenizer.bos_id, "eos_token": self._tokenizer.eos_id}
        return {name: self._tokenizer.token_text(token) for name, token in ids.items() if token is not None}

    def _tool_variables(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not tools:
            return {"tools": None}
        try:
            ordered = sort_keys(tools) if family_of(self._source).sorts_tools else list(tools)
            declared: dict[str, Any] = {"tools": ordered}
            if "tools_ts_str" in self._variables:
                declared["tools_ts_str"] = declare_in_typescript(tools)
        except RecursionError as error:
            raise RequestError(_TOO_DEEP) from error
        return declared

    def _check(self, messages: Sequence[Mapping[str, Any]], tools: object, thinking: bool | None) -> None:
        """Refuse what the template would pass over in silence."""
        if not messages:
            raise RequestError("the conversation is empty: it needs at least one message")
        if tools and "tools" not in self._variables:
            raise RequestError("this model's chat template has no place for tools: ask without them")
        uses_tools = any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
        if uses_tools and "tool_calls" not in self._source:
            raise RequestError("this model's chat template has no place for tool calls: leave them out of the messages")
        if thinking is not None and "thinking" not in self._variables:
            always = THINK_BEGIN in self._source
            if thinking != always:
                does = "always thinks" if always else "does not think"
                raise RequestError(f"this model {does}: thinking={thinking} cannot take effect")


def _wants_objects(source: str) -> bool:
    return bool(_WRITES_ARGUMENTS_AS_JSON.search(source)) and not _TAKES_ARGUMENTS_AS_TEXT.search(source)
