"""Chat templates of synthetic models: the wire format of their family, and nothing more."""

_KIMI = """\
{#- Kimi's wire format. Tools come first, as JSON. -#}
{%- macro text_of(message) -%}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- elif message.content -%}
        {%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|im_system|>tool_declare<|im_middle|>' -}}{{- tools | tojson -}}{{- '<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role in ('user', 'assistant') -%}
        {{- '<|im_' + message.role + '|>' -}}
    {%- else -%}
        {{- '<|im_system|>' -}}
    {%- endif -%}
    {{- (message.name or message.role) + '<|im_middle|>' -}}
    {%- if message.role == 'tool' -%}
        {{- '## Return of ' + message.tool_call_id + '\\n' -}}
    {%- endif -%}
@THOUGHT@
    {{- text_of(message) -}}
    {%- if message.tool_calls -%}
        {{- '<|tool_calls_section_begin|>' -}}
        {%- for call in message.tool_calls -%}
            {{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' -}}
            {%- if call.function.arguments is string -%}
                {{- call.function.arguments -}}
            {%- else -%}
                {{- call.function.arguments | tojson -}}
            {%- endif -%}
            {{- '<|tool_call_end|>' -}}
        {%- endfor -%}
        {{- '<|tool_calls_section_end|>' -}}
    {%- endif -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_assistant|>assistant<|im_middle|>' -}}
{%- endif -%}
"""
_THOUGHT = """\
    {%- if message.role == 'assistant' -%}
        {{- '<think>' -}}{{- message.reasoning_content or '' -}}{{- '</think>' -}}
    {%- endif -%}"""
_DEEPSEEK = """\
{{- '@BOS@' -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '@USER@' + message.content -}}
    {%- elif message.role == 'assistant' -%}
        {{- '@ASSISTANT@' + message.content + '@EOS@' -}}
    {%- else -%}
        {{- message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '@ASSISTANT@' -}}
{%- endif -%}
"""


def kimi_template(thinks: bool) -> str:
    """For Kimi's tokens; `thinks`: with the reasoning of earlier answers."""
    return _KIMI.replace("@THOUGHT@\n", _THOUGHT + "\n" if thinks else "")


def deepseek_template(bos: str, eos: str, user: str, assistant: str) -> str:
    """For DeepSeek's tokens."""
    marks = {"@BOS@": bos, "@EOS@": eos, "@USER@": user, "@ASSISTANT@": assistant}
    text = _DEEPSEEK
    for mark, token in marks.items():
        text = text.replace(mark, token)
    return text
