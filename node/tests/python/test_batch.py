"""Many clients at once: nobody's text depends on who else is there, and what is seen is shared.

AITHER_SOAK_SECONDS and AITHER_SOAK_CLIENTS make the last test as long and as large as one likes.
"""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MODEL, Node, wait_until

QUESTIONS = [
    "What is gravity?",
    "Name three rivers.",
    "Write a line of Python.",
    "Why is the sky blue? Answer in one sentence.",
    "Count from one to ten, then from ten to one.",
    "Tell me a very short story about a fox.",
]


def body(question: int, **more) -> dict:
    """Half of the questions sampled with a seed of their own, half greedy."""
    return {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " * (1 + question % 3)},
            {"role": "user", "content": QUESTIONS[question]},
        ],
        "temperature": 0.8 * (question % 2),
        "seed": question,
        "max_tokens": 16 + 4 * question,
    } | more


def ask(node: Node, question: int) -> str:
    answer = node.http.post("/v1/chat/completions", json=body(question))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def read_stream(node: Node, question: int, pieces_max: int) -> str:
    """Reads at most so many pieces, then hangs up."""
    text, pieces = "", 0
    request = body(question, stream=True)
    with node.http.stream("POST", "/v1/chat/completions", json=request) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
            pieces += 1
            if pieces >= pieces_max:
                break
    return text


@pytest.fixture(scope="module")
def alone(node: Node) -> "list[str]":
    """What each question is answered with when nobody else asks."""
    return [ask(node, question) for question in range(len(QUESTIONS))]


def test_a_client_says_how_urgent_it_is(node: Node) -> None:
    """Priorities and deadlines come in headers, in every dialect."""
    waits = 'aither_inference_wait_seconds_count{class="high"}'
    before = node.metric(waits)
    headers = {"X-Aither-Priority": "2", "X-Aither-Deadline": "60"}
    answer = node.http.post("/v1/chat/completions", json=body(0), headers=headers)
    assert answer.status_code == 200, answer.text
    request = {"model": MODEL, "prompt": "Hi", "stream": False}
    answer = node.http.post("/api/generate", json=request, headers=headers)
    assert answer.status_code == 200, answer.text
    assert node.metric(waits) == before + 2
    for headers in ({"X-Aither-Priority": "9"}, {"X-Aither-Deadline": "soon"}):
        answer = node.http.post("/v1/chat/completions", json=body(0), headers=headers)
        assert answer.status_code in (400, 422), answer.text


def test_a_deadline_that_cannot_be_kept_is_refused_or_ends_the_request(node: Node) -> None:
    """What a node cannot do in time it says before it begins, or breaks off."""
    ask(node, 0)
    headers = {"X-Aither-Deadline": "0.001"}
    answer = node.http.post("/v1/chat/completions", json=body(0), headers=headers)
    assert answer.status_code in (503, 504), answer.text
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    wait_until("nothing is left of it", lambda: node.running() == 0)


def test_a_text_is_the_same_alone_and_among_32(node: Node, alone: "list[str]"):
    asked = [index % len(QUESTIONS) for index in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda question: ask(node, question), asked))
    assert answers == [alone[question] for question in asked]


def test_a_prompt_that_was_seen_needs_no_evaluation(node: Node):
    unseen = f"{random.random()} " + "A fact about rivers, again and again. " * 30
    cached = []
    for end in ("First?", "Second?"):
        request = {"model": MODEL, "prompt": unseen + end, "max_tokens": 2}
        usage = node.http.post("/v1/completions", json=request).json()["usage"]
        assert usage["prompt_tokens"] > 200
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] < 20
    assert cached[1] > 190
    assert node.metric("aither_inference_cached_prompt_tokens_total") >= cached[1]


def test_a_chat_that_goes_on_evaluates_what_is_new(node: Node):
    messages = [{"role": "user", "content": "Tell me about the sea in three sentences."}]
    request = {"model": MODEL, "messages": messages, "max_tokens": 60, "seed": 3}
    first = node.http.post("/v1/chat/completions", json=request).json()
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And its colour?"}]
    usage = node.http.post("/v1/chat/completions", json=request).json()["usage"]
    seen = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    # Tokenized again, the answer may have other tokens at its end.
    assert usage["prompt_tokens_details"]["cached_tokens"] > seen - 10


def test_clients_that_hang_up_leave_nothing_behind(node: Node, alone: "list[str]"):
    seconds = float(os.environ.get("AITHER_SOAK_SECONDS", "6"))
    clients = int(os.environ.get("AITHER_SOAK_CLIENTS", "16"))
    until = time.monotonic() + seconds

    def client(number: int) -> int:
        chance = random.Random(number)
        whole = 0
        while time.monotonic() < until:
            question = chance.randrange(len(QUESTIONS))
            if number % 2:
                text = read_stream(node, question, chance.randrange(1, 30))
                assert alone[question].startswith(text)
            else:
                assert read_stream(node, question, 10_000) == alone[question]
                whole += 1
        return whole

    with ThreadPoolExecutor(clients) as pool:
        whole = list(pool.map(client, range(clients)))
    assert all(count > 0 for count in whole[::2]), "nobody starves"
    wait_until("all places are free", lambda: node.running() == 0)
    assert node.metric("aither_inference_queued_requests") == 0
    label = f'{{model="{MODEL}"}}'
    pages, idle = (
        node.metric(f"aither_inference_cache_{kind}pages{label}") for kind in ("", "idle_")
    )
    assert pages == idle, "every page that is left is only kept for others"
    node.assert_serves()
