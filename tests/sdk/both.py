"""Runs a case against two base URLs and says whether a client sees the same.

DIRECT is an engine (an inference-sim), ROUTED the same engines behind gateway, EPP and
sidecar. A case is a function of a base URL that returns what its client got. What no two
answers share is taken out: ids, times, and how much of a prompt was cached.
"""

import json
import os
import re
import urllib.error
import urllib.request

import anthropic
import openai

# The model that both ways serve.
MODEL = os.environ.get("MODEL") or "m"
# A request takes milliseconds; one that hangs must not hold up the rest.
TIMEOUT_SECONDS = 30.0

# Fields that differ between any two answers to the same request.
VOLATILE = {
    "id",
    "call_id",
    "item_id",
    "request_id",
    "_request_id",
    "created",
    "created_at",
    "completed_at",
    "system_fingerprint",
    "kv_transfer_params",
    "cached_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "prompt_tokens_details",
    "input_tokens_details",
}
# Ids within texts, such as "resp_0123..." or "chatcmpl-0123...".
ID = re.compile(r"\b([a-z]+(?:-tool)?)[-_][0-9a-f]{32}\b")

_cases = []


def case(function):
    """Marks a function of a base URL as a case."""
    _cases.append(function)
    return function


def openai_client(base_url):
    return openai.OpenAI(
        base_url=f"{base_url}/v1",
        api_key="none",
        max_retries=0,
        timeout=TIMEOUT_SECONDS,
    )


def anthropic_client(base_url):
    return anthropic.Anthropic(
        base_url=base_url,
        api_key="none",
        max_retries=0,
        timeout=TIMEOUT_SECONDS,
    )


def post(base_url, path, body):
    """Status and JSON of an API that the clients do not know."""
    content = body if isinstance(body, str) else json.dumps(body)
    request = urllib.request.Request(
        base_url + path,
        data=content.encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def plain(value):
    """A client's object as JSON values, without what differs between any two answers."""
    if hasattr(value, "to_dict"):
        value = value.to_dict(mode="json")
    if isinstance(value, dict):
        value = {key: plain(inner) for key, inner in value.items() if key not in VOLATILE}
        # With Anthropic, what was cached is not counted as input.
        if "output_tokens" in value and "total_tokens" not in value:
            value.pop("input_tokens", None)
        return value
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, str):
        return ID.sub(r"\1", value)
    return value


def outcome(function, base_url):
    """What a client got: the answer, or the class and message of what it raised."""
    try:
        return "answered", plain(function(base_url))
    # Also what a client's own code trips over: an answer that lacks what it should have.
    except Exception as error:
        kind = type(error)
        return "raised", [f"{kind.__module__}.{kind.__qualname__}", plain(str(error))]


def _shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + "..."


def run(direct, routed):
    """Prints one line a case and a sum; true when every case was the same on both ways."""
    passed = failed = 0
    for function in _cases:
        expected = getattr(function, "raises", None)
        one = outcome(function, direct)
        other = outcome(function, routed)
        problems = []
        if one != other:
            problems.append(f"\n  direct: {one[0]} {_shown(one[1])}")
            problems.append(f"\n  routed: {other[0]} {_shown(other[1])}")
        # A case that fails alike on both ways proves nothing.
        if (one[0] == "raised") != bool(expected):
            problems.append(f"\n  direct: {one[0]} {_shown(one[1])}: not what was asked for")
        elif expected and one[1][0].rsplit(".", 1)[-1] != expected:
            problems.append(f"\n  direct: raised {one[1][0]} and not {expected}")
        if problems:
            failed += 1
            print(f"FAIL {function.__name__}{''.join(problems)}", flush=True)
        else:
            passed += 1
            print(f"ok   {function.__name__}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed == 0


def raises(name):
    """The class that the client raises."""

    def mark(function):
        function.raises = name
        return function

    return mark
