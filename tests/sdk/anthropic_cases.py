"""What the Anthropic client gets."""

from both import MODEL, anthropic_client, case, raises

USER = [{"role": "user", "content": "the same words again and again, " * 60}]
TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    }
]


def message(url, **more):
    more.setdefault("messages", USER)
    more.setdefault("max_tokens", 12)
    return anthropic_client(url).messages.create(model=MODEL, **more)


@case
def message_in_one_piece(url):
    return message(url)


@case
def message_with_a_system_text(url):
    return message(url, system="Be short.")


@case
def message_with_system_blocks(url):
    return message(url, system=[{"type": "text", "text": "Be short."}])


@case
def message_stream(url):
    return list(message(url, stream=True))


@case
def message_stream_by_the_helper(url):
    with anthropic_client(url).messages.stream(
        model=MODEL, messages=USER, max_tokens=12
    ) as stream:
        return ["".join(stream.text_stream), stream.get_final_message()]


@case
def message_with_a_stop_string(url):
    return message(url, max_tokens=400, stop_sequences=[" cache", " engine"])


@case
def message_that_uses_a_tool(url):
    return message(url, tools=TOOLS)


@case
def message_that_must_use_a_tool(url):
    return message(url, tools=TOOLS, tool_choice={"type": "any"})


@case
def message_stream_that_uses_a_tool(url):
    choice = {"type": "tool", "name": "weather"}
    return list(message(url, tools=TOOLS, tool_choice=choice, stream=True))


@case
def message_with_a_tool_result(url):
    called = message(url, tools=TOOLS)
    result = {
        "type": "tool_result",
        "tool_use_id": called.content[0].id,
        "content": "It rains.",
    }
    messages = [
        *USER,
        {"role": "assistant", "content": [called.content[0].to_dict()]},
        {"role": "user", "content": [result]},
    ]
    return message(url, messages=messages, tools=TOOLS)


@case
def tokens_counted(url):
    return anthropic_client(url).messages.count_tokens(model=MODEL, messages=USER)


@case
@raises("NotFoundError")
def message_of_an_unknown_model(url):
    return anthropic_client(url).messages.create(
        model="nobody", messages=USER, max_tokens=5
    )


@case
@raises("BadRequestError")
def message_with_a_bad_temperature(url):
    # The client knows no temperature any more; engines do.
    return message(url, extra_body={"temperature": 9})


@case
@raises("BadRequestError")
def message_with_many_faults(url):
    return message(url, max_tokens=0, messages=[{"role": "nobody", "content": 5}])


@case
@raises("BadRequestError")
def message_stream_with_an_error(url):
    return list(message(url, extra_body={"top_p": 0}, stream=True))
