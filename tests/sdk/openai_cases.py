"""What the OpenAI client gets."""

from both import MODEL, case, openai_client, post, raises

USER = [{"role": "user", "content": "What does a prefix cache hold?"}]
LONG = [{"role": "user", "content": "the same words again and again, " * 60}]
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]


def chat(url, **more):
    more.setdefault("messages", USER)
    more.setdefault("max_tokens", 12)
    return openai_client(url).chat.completions.create(model=MODEL, **more)


def complete(url, **more):
    more.setdefault("prompt", "Once upon a time")
    more.setdefault("max_tokens", 12)
    return openai_client(url).completions.create(model=MODEL, **more)


def by_index(chunks, text):
    """Streamed choices put together: their order among each other is left to chance."""
    said, ends, usage = {}, {}, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] = said.get(choice.index, "") + (text(choice) or "")
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    return {
        "said": [said[index] for index in sorted(said)],
        "ends": [ends[index] for index in sorted(ends)],
        "usage": usage.to_dict() if usage else None,
    }


def chat_text(choice):
    return choice.delta.content


def completion_text(choice):
    return choice.text


# === chat ===


@case
def models(url):
    return openai_client(url).models.list().data


@case
def chat_in_one_piece(url):
    return chat(url)


@case
def chat_of_a_long_prompt(url):
    return chat(url, messages=LONG)


@case
def chat_of_many_turns(url):
    messages = [
        {"role": "system", "content": "Be short."},
        *LONG,
        {"role": "assistant", "content": "Well then."},
        {"role": "user", "content": [{"type": "text", "text": "Go on, please."}]},
    ]
    return chat(url, messages=messages)


@case
def chat_stream(url):
    return list(chat(url, stream=True))


@case
def chat_stream_of_a_long_prompt(url):
    return list(chat(url, messages=LONG, stream=True))


@case
def chat_stream_with_usage(url):
    options = {"include_usage": True}
    return list(chat(url, stream=True, stream_options=options))


@case
def chat_with_two_samples(url):
    return chat(url, n=2)


@case
def chat_of_a_long_prompt_with_two_samples(url):
    return chat(url, messages=LONG, n=2)


@case
def chat_stream_with_two_samples(url):
    options = {"include_usage": True}
    chunks = chat(url, messages=LONG, n=2, stream=True, stream_options=options)
    return by_index(chunks, chat_text)


@case
def chat_with_a_seed(url):
    return chat(url, messages=LONG, seed=2**53 + 1, temperature=0.5)


@case
def chat_with_logprobs(url):
    return chat(url, messages=LONG, logprobs=True, top_logprobs=3)


@case
def chat_stream_with_logprobs(url):
    return list(chat(url, logprobs=True, top_logprobs=2, stream=True))


@case
def chat_with_stop_strings(url):
    return chat(url, messages=LONG, max_tokens=400, stop=[" cache", " engine"])


@case
def chat_with_prompt_logprobs(url):
    return chat(url, messages=LONG, extra_body={"prompt_logprobs": 1})


@case
def chat_with_max_completion_tokens(url):
    return openai_client(url).chat.completions.create(
        model=MODEL, messages=LONG, max_completion_tokens=9
    )


@case
def chat_as_json(url):
    return chat(url, response_format={"type": "json_object"})


# === tools ===


@case
def tool_chosen_by_the_model(url):
    return chat(url, tools=TOOLS)


@case
def tool_required(url):
    return chat(url, messages=LONG, tools=TOOLS, tool_choice="required")


@case
def tool_named(url):
    choice = {"type": "function", "function": {"name": "weather"}}
    return chat(url, messages=LONG, tools=TOOLS, tool_choice=choice)


@case
def tool_stream(url):
    return list(chat(url, messages=LONG, tools=TOOLS, tool_choice="required", stream=True))


@case
def tool_result(url):
    called = chat(url, tools=TOOLS).choices[0].message
    answer = {
        "role": "tool",
        "tool_call_id": called.tool_calls[0].id,
        "content": "It rains.",
    }
    return chat(url, messages=[*USER, called.to_dict(), answer], tools=TOOLS)


# === completions ===


@case
def completion(url):
    return complete(url)


@case
def completion_stream(url):
    return list(complete(url, stream=True))


@case
def completion_of_tokens(url):
    return complete(url, prompt=list(range(100, 300)))


@case
def completion_of_a_list(url):
    return complete(url, prompt=["one " * 200, "two " * 200, "three"])


@case
def completion_of_token_lists(url):
    return complete(url, prompt=[list(range(200)), list(range(500, 700))])


@case
def completion_of_a_list_with_two_samples(url):
    return complete(url, prompt=["one " * 200, "two " * 200], n=2, seed=5)


@case
def completion_stream_of_a_list(url):
    options = {"include_usage": True}
    prompts = ["one " * 200, "two " * 200]
    chunks = complete(url, prompt=prompts, n=2, stream=True, stream_options=options)
    return by_index(chunks, completion_text)


@case
def completion_with_echo_and_logprobs(url):
    return complete(url, prompt="one two " * 100, echo=True, logprobs=2)


@case
def completion_with_logprobs(url):
    return complete(url, prompt="one two " * 100, logprobs=2)


@case
def completion_that_only_echoes(url):
    return complete(url, echo=True, max_tokens=0)


# === responses ===


def respond(url, **more):
    more.setdefault("input", "the same words again and again, " * 60)
    more.setdefault("max_output_tokens", 12)
    return openai_client(url).responses.create(model=MODEL, **more)


@case
def response(url):
    return respond(url, instructions="Be short.")


@case
def response_to_items(url):
    return respond(url, input=[{"role": "user", "content": "What is a block?"}])


@case
def response_stream(url):
    return list(respond(url, stream=True))


@case
def response_with_a_tool(url):
    return respond(url, tools=[{"type": "function", **WEATHER}], tool_choice="required")


@case
def response_stream_with_a_tool(url):
    tools = [{"type": "function", **WEATHER}]
    return list(respond(url, tools=tools, tool_choice="required", stream=True))


# === the others ===


@case
def embedding_as_base64(url):
    return openai_client(url).embeddings.create(model=MODEL, input="a text")


@case
def embeddings_as_numbers(url):
    return openai_client(url).embeddings.create(
        model=MODEL, input=["a text", "another"], encoding_format="float"
    )


@case
def other_apis(url):
    prompt = {"model": MODEL, "token_ids": list(range(200)), "sampling_params": {"max_tokens": 4}}
    pairs = {"model": MODEL, "text_1": "a", "text_2": ["b", "c"]}
    ranking = {"model": MODEL, "query": "a", "documents": ["b", "c"]}
    text = {"model": MODEL, "input": "a text"}
    return [
        post(url, "/inference/v1/generate", prompt),
        post(url, "/score", pairs),
        post(url, "/v1/rerank", ranking),
        post(url, "/pooling", text),
        post(url, "/classify", text),
        post(url, "/tokenize", {"model": MODEL, "prompt": "a text"}),
        post(url, "/v1/chat/completions/render", {"model": MODEL, "messages": USER}),
    ]


# === what engines take and JSON parsers do not ===


@case
def lenient_values(url):
    path, messages = "/v1/chat/completions", '"messages":[{"role":"user","content":"hi"}]'
    fields = [
        '"max_tokens":16.0',
        '"max_tokens":"16"',
        '"max_tokens":2,"max_tokens":3',
        '"max_tokens":4,"stream":0',
        '"max_tokens":4,"stream":"False","user":"\\ud800"',
        '"max_tokens":4,"logit_bias":null,"unknown":[NaN,Infinity]',
        '"max_tokens":4,"model":null',
        '"max_tokens":16.5',
        '"max_tokens":4,"temperature":NaN',
        '"max_tokens":4,"stream":"maybe"',
    ]
    answers = [post(url, path, f"{{{messages},{field}}}") for field in fields]
    return answers + [post(url, path, body) for body in ("[]", "null", '"x"', "{", "")]


# === errors ===


@case
@raises("NotFoundError")
def unknown_model(url):
    return openai_client(url).chat.completions.create(model="nobody", messages=USER)


@case
@raises("NotFoundError")
def unknown_model_for_a_completion(url):
    return openai_client(url).completions.create(model="nobody", prompt="a")


@case
@raises("BadRequestError")
def no_tokens(url):
    return chat(url, max_tokens=0)


@case
@raises("BadRequestError")
def temperature_too_high(url):
    return chat(url, messages=LONG, temperature=9)


@case
@raises("BadRequestError")
def many_faults(url):
    return chat(url, n="many", extra_body={"stop": [1, 2]})


@case
@raises("BadRequestError")
def greedy_samples(url):
    return chat(url, messages=LONG, n=2, temperature=0)


@case
@raises("BadRequestError")
def tool_that_is_not_there(url):
    choice = {"type": "function", "function": {"name": "nothing"}}
    return chat(url, tools=TOOLS, tool_choice=choice)


@case
@raises("BadRequestError")
def error_of_a_stream(url):
    return list(chat(url, messages=LONG, stream=True, top_p=0))


@case
@raises("BadRequestError")
def prompt_too_long(url):
    return complete(url, prompt="word " * 20000)


@case
@raises("BadRequestError")
def empty_prompt(url):
    return complete(url, prompt="")


@case
@raises("BadRequestError")
def response_without_the_tools_it_requires(url):
    return respond(url, tool_choice="required")


@case
@raises("BadRequestError")
def embedding_of_nothing(url):
    return openai_client(url).embeddings.create(model=MODEL, input=[])
