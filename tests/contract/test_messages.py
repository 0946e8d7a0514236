"""What is accepted here is valid by the table of Mistral's fields, whatever the messages."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.fields import problems

from mistill.api.chat import ChatParameters, RequestTemplate
from mistill.errors import InputError
from mistill.llms.messages import check_messages, encode_messages
from mistill.llms.parameters import check_parameters

words = st.text(max_size=8)
urls = st.just("https://example.com/x")
NOISE = st.one_of(st.none(), st.booleans(), st.integers(), words, st.lists(words, max_size=2))


def fixed(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


text = fixed(type=st.just("text"), text=words)
image = fixed(
    type=st.just("image_url"),
    image_url=urls
    | st.fixed_dictionaries({"url": urls}, optional={"detail": st.sampled_from(["low", "auto", "high"])}),
)
reference = fixed(type=st.just("reference"), reference_ids=st.lists(st.integers() | words, max_size=2))
thinking = st.fixed_dictionaries(
    {"type": st.just("thinking"), "thinking": st.lists(text | reference, max_size=2)},
    optional={"closed": st.booleans(), "signature": st.none() | words},
)
chunk = st.one_of(
    text,
    image,
    reference,
    thinking,
    st.fixed_dictionaries(
        {"type": st.just("document_url"), "document_url": urls}, optional={"document_name": words}
    ),
    fixed(type=st.just("file"), file_id=st.uuids().map(str)),
    fixed(type=st.just("input_audio"), input_audio=words),
)
content = words | st.lists(chunk, max_size=3)
call = st.fixed_dictionaries(
    {
        "function": fixed(
            name=words, arguments=words | st.dictionaries(words, st.integers() | words, max_size=2)
        )
    },
    optional={"id": words, "type": st.just("function"), "index": st.integers(0, 3)},
)
message = st.one_of(
    fixed(role=st.just("system"), content=words | st.lists(text | thinking, max_size=2)),
    fixed(role=st.just("user"), content=content),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            "content": st.none() | content,
            "tool_calls": st.none() | st.lists(call, max_size=2),
            "prefix": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "content": content},
        optional={"tool_call_id": st.none() | words, "name": st.none() | words},
    ),
)


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A message with one key of noise in it."""
    made = dict(draw(message))
    made[draw(st.sampled_from(["role", "content", "tool_calls", "prefix", "name", "more"]))] = draw(NOISE)
    return made


tool = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["function", "web_search", "code_interpreter", "document_library", "connector", "oven"]
        )
    },
    optional={
        "function": st.fixed_dictionaries(
            {"name": words, "parameters": st.just({"type": "object"})},
            optional={"description": words, "strict": st.booleans()},
        ),
        "library_ids": st.lists(words, max_size=2),
        "connector_id": words,
        "tool_configuration": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("include", "exclude", "requires_confirmation", "more"), NOISE)
        ),
    },
)
tools = st.lists(tool, max_size=2) | st.sampled_from(
    [
        [{"type": "document_library", "library_ids": ["7"], "tool_configuration": {"include": []}}],
        [{"type": "connector", "connector_id": "7"}, {"type": "image_generation"}],
    ]
)
user = fixed(role=st.just("user"), content=content)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(-1, 3) | st.integers(-1, 3) | NOISE,
        "top_p": st.floats(-1, 2) | NOISE,
        "max_new_tokens": st.integers(-2, 5) | NOISE,
        "stop": words | st.lists(words, max_size=2) | NOISE,
        "random_seed": st.integers(-2, 5) | NOISE,
        "presence_penalty": st.floats(-3, 3) | NOISE,
        "frequency_penalty": st.floats(-3, 3) | st.just(float("nan")) | NOISE,
        "tools": tools | NOISE,
        "tool_choice": st.sampled_from(["auto", "any", "required"]) | NOISE,
        "parallel_tool_calls": NOISE,
        "reasoning_effort": st.sampled_from(["none", "low", "xhigh", "huge"]) | NOISE,
        "prompt_mode": st.just("reasoning") | NOISE,
        "safe_prompt": NOISE,
        "metadata": st.dictionaries(words, NOISE, max_size=2) | NOISE,
        "prompt_cache_key": NOISE,
        "service_tier": st.sampled_from(["auto", "standard_only", "gold"]) | NOISE,
        "response_format": st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "xml"])})
        | NOISE,
        "prediction": st.fixed_dictionaries({"type": st.just("content"), "content": words}) | NOISE,
    },
)


@given(messages=st.lists(message | spoilt(), max_size=4), last=user)
@settings(max_examples=400)
def test_accepted_messages_are_valid(messages: list[Any], last: Any) -> None:
    try:
        checked = check_messages([*messages, last])
    except InputError:
        return
    body = msgspec.json.decode(RequestTemplate("m", ChatParameters()).encode(encode_messages(checked)))
    assert problems("ChatCompletionRequest", body) == []
    assert len(body["messages"]) == len(messages) + 1


@given(parameters)
@settings(max_examples=400)
def test_accepted_parameters_are_valid(given_parameters: dict[str, Any]) -> None:
    try:
        checked = check_parameters(given_parameters)
    except InputError:
        return
    template = RequestTemplate("m", checked)
    body = msgspec.json.decode(template.encode(encode_messages(check_messages("x"))))
    assert problems("ChatCompletionRequest", body) == []
