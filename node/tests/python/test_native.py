"""The node's own inference routes, and the ground rules of its HTTP."""

import json
import socket

import httpx
import pytest
from conftest import MODEL, Node

QUESTION = "What is gravity?"


def events_of(text: str) -> list[tuple[str, dict]]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(x.split(": ", 1) for x in block.splitlines() if x and x[0] != ":")
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def test_generate_answers_with_every_field(node: Node):
    answer = node.http.post("/v1/llm/generate", json={"prompt": QUESTION, "temperature": 0})
    body = answer.json()
    assert "ravity" in body["text"]
    assert body["model"] == MODEL and body["node"] == node.peer_id
    assert body["tokens_used"] == body["prompt_tokens"] + body["completion_tokens"]
    assert 0 < body["completion_tokens"] <= 256
    assert body["latency_ms"] > 0 and body["cost_tokens"] > 0
    assert body["finish_reason"] in ("stop", "length")
    assert "explain" not in body and "message" not in body
    assert float(answer.headers["x-aither-cost"]) == body["cost_tokens"]
    assert len(answer.headers["x-request-id"]) == 26


def test_chat_answers_with_a_message(node: Node):
    messages = [{"role": "user", "content": QUESTION}]
    body = node.http.post("/v1/llm/chat", json={"messages": messages, "temperature": 0}).json()
    assert body["message"] == {"role": "assistant", "content": body["text"]}
    assert "ravity" in body["text"]


def test_a_stream_is_deltas_and_then_the_whole_answer(node: Node):
    request = {"prompt": QUESTION, "temperature": 0, "max_tokens": 12}
    whole = node.http.post("/v1/llm/generate", json=request).json()
    answer = node.http.post("/v1/llm/generate", json=request | {"stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    events = events_of(answer.text)
    assert [name for name, _ in events] == ["delta"] * (len(events) - 1) + ["done"]
    assert "".join(data["text"] for _, data in events[:-1]) == whole["text"]
    done = events[-1][1]
    assert done.keys() == whole.keys() and done["text"] == whole["text"]


def test_an_alias_and_no_model_both_reach_the_default(node: Node):
    for model in (None, "", "llama3.1:8b", MODEL):
        request = {"prompt": "Hi", "max_tokens": 1, "model": model}
        assert node.http.post("/v1/llm/generate", json=request).json()["model"] == MODEL


def test_the_answer_says_why_when_asked(node: Node):
    headers = {"X-Aither-Explain": "1", "X-Aither-Route": "local", "X-Aither-Max-Cost": "1.5"}
    request = {"prompt": "Hi", "max_tokens": 1}
    body = node.http.post("/v1/llm/generate", json=request, headers=headers).json()
    assert body["explain"]["route"] == "local" and body["explain"]["reason"]


def test_the_federation_route_is_not_available(node: Node):
    headers = {"X-Aither-Route": "federation"}
    answer = node.http.post("/v1/llm/generate", json={"prompt": "Hi"}, headers=headers)
    assert answer.status_code == 501
    assert answer.json()["code"] == "not_available"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 10**12),
        ("max_tokens", "many"),
        ("temperature", 1e30),
        ("temperature", "NaN"),
        ("top_p", 2),
        ("top_k", -1),
        ("stop", [1]),
        ("seed", 0.5),
        ("prompt", None),
    ],
)
def test_a_bad_field_is_a_problem_that_names_it(node: Node, field: str, value):
    answer = node.http.post("/v1/llm/generate", json={"prompt": "Hi"} | {field: value})
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "validation_failed"
    assert problem["errors"][0]["field"].startswith(field)
    assert problem["request_id"] == answer.headers["x-request-id"]
    node.assert_serves()


def test_a_prompt_longer_than_the_context_is_refused(node: Node):
    answer = node.http.post("/v1/llm/generate", json={"prompt": "word " * 20_000})
    assert answer.status_code == 400
    assert answer.json()["code"] == "prompt_too_long"
    node.assert_serves()


def test_a_body_beyond_the_limit_is_413(node: Node):
    answer = node.http.post("/v1/llm/generate", json={"prompt": "a" * (5 << 20)})
    assert answer.status_code == 413
    assert answer.json()["code"] == "payload_too_large"
    node.assert_serves()


def test_a_web_page_cannot_use_the_node_without_a_key(node: Node):
    request = {"prompt": "Hi", "max_tokens": 1}
    for headers in ({"Origin": node.url}, {"Host": "rebound.example"}):
        answer = node.http.post("/v1/llm/generate", json=request, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthorized"
        with_key = headers | {"Authorization": f"Bearer {node.key}"}
        assert node.http.post("/v1/llm/generate", json=request, headers=with_key).is_success


def test_health_readiness_and_documents_are_open(node: Node):
    wrong = {"Authorization": "Bearer wrong"}
    health = node.http.get("/health", headers=wrong).json()
    assert health["status"] == "healthy" and health["peer_id"] == node.peer_id
    assert node.http.get("/ready", headers=wrong).json() == {"status": "ready"}
    assert node.http.get("/openapi.json", headers=wrong).json()["openapi"].startswith("3.")
    assert "<html" in node.http.get("/docs", headers=wrong).text
    assert node.http.get("/", headers=wrong).headers["location"] == "/docs"
    assert node.http.get("/metrics", headers=wrong).status_code == 401


def test_metrics_count_what_was_done(node: Node):
    before = node.metric("aither_inference_completion_tokens_total")
    node.http.post("/v1/llm/generate", json={"prompt": "Hi", "max_tokens": 5, "temperature": 0})
    assert before < node.metric("aither_inference_completion_tokens_total") <= before + 5


def test_half_a_request_does_not_hurt(node: Node):
    address = httpx.URL(node.url)
    half = b"POST /v1/llm/generate HTTP/1.1\r\n"
    for bytes_sent in (b"", half, b"\x16\x03\x01\x00", b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(bytes_sent)
    node.assert_serves()
