"""Places in the engine: a client that hangs up frees its own, a full queue says so."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import ollama
import openai
import pytest
from conftest import MODEL, Node, required, wait_until

# Both tokens that could end the text are banned, so it runs to the context's end.
ENDLESS = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "logit_bias": {"0": -100, "2": -100},
    "seed": 1,
}
GENERATED = "aither_inference_completion_tokens_total"
CANCELLED = "aither_inference_cancelled_total"


def assert_freed(node: Node, cancelled_before: float) -> None:
    """The slot is free and the engine does not go on generating."""
    wait_until("the slot is free", lambda: node.running() == 0)
    assert node.metric(CANCELLED) == cancelled_before + 1
    generated = node.metric(GENERATED)
    node.assert_serves()
    assert node.metric(GENERATED) <= generated + 2


def test_hanging_up_on_a_stream_frees_the_slot(node: Node):
    before = node.metric(CANCELLED)
    stream = node.openai.chat.completions.create(**ENDLESS, stream=True)
    for _, _chunk in zip(range(5), stream):
        pass
    assert node.running() == 1
    stream.close()
    assert_freed(node, before)


def test_hanging_up_on_a_whole_answer_frees_the_slot(node: Node):
    before = node.metric(CANCELLED)
    with pytest.raises(httpx.ReadTimeout):
        node.http.post("/v1/chat/completions", json=ENDLESS, timeout=2)
    assert_freed(node, before)


def test_hanging_up_on_ollamas_stream_frees_the_slot(node: Node):
    before = node.metric(CANCELLED)
    # Greedy and without a template, counting goes on for long.
    prompt = ", ".join(str(number) for number in range(1, 60)) + ","
    body = {"model": MODEL, "prompt": prompt, "raw": True, "options": {"temperature": 0}}
    with node.http.stream("POST", "/api/generate", json=body) as answer:
        next(answer.iter_lines())
    assert_freed(node, before)


def test_a_full_queue_is_503_with_a_time_to_return(start_node):
    node = start_node("[inference]\nrunning_max = 1\nqueue_len_max = 1\n")
    queued = "aither_inference_queued_requests"
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        running = node.openai.chat.completions.create(**ENDLESS, stream=True)
        stack.callback(running.close)
        next(running)
        short = {"prompt": "a", "max_tokens": 1}
        waiting = pool.submit(node.http.post, "/v1/llm/generate", json=short)
        wait_until("one request waits", lambda: node.metric(queued) == 1)
        with pytest.raises(openai.InternalServerError) as caught:
            node.openai.chat.completions.create(**ENDLESS)
        assert caught.value.status_code == 503
        assert caught.value.code == "overloaded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        with pytest.raises(ollama.ResponseError) as refused:
            node.ollama.chat(model=MODEL, messages=ENDLESS["messages"])
        assert refused.value.status_code == 503
        answer = node.http.post("/v1/llm/generate", json={"prompt": "a"})
        assert answer.status_code == 503 and answer.json()["code"] == "overloaded"
        running.close()
        assert waiting.result().status_code == 200
    node.assert_serves()


def test_a_request_that_waits_too_long_is_504(start_node):
    config = '[inference]\nrunning_max = 1\n[http]\nrequest_timeout = "5s"\n'
    node = start_node(config)
    stream = node.openai.chat.completions.create(**ENDLESS, stream=True)
    next(stream)
    answer = node.http.post("/v1/llm/generate", json={"prompt": "a", "max_tokens": 1})
    assert answer.status_code == 504, answer.text
    assert answer.json()["code"] == "timed_out"
    stream.close()
    wait_until("the slot is free", lambda: node.running() == 0)
    # An answer that is wanted whole has that time for all of it; a streamed one goes on.
    with pytest.raises(openai.InternalServerError) as caught:
        node.openai.chat.completions.create(**ENDLESS)
    assert caught.value.status_code == 504
    assert "stream" in caught.value.message
    wait_until("the slot is free", lambda: node.running() == 0)
    node.assert_serves()


def test_a_model_file_that_vanishes_is_an_error_not_a_crash(start_node, tmp_path: pathlib.Path):
    model = tmp_path / "model.gguf"
    shutil.copyfile(required("AITHER_TEST_MODEL"), model)
    node = start_node("[models]\npreload = false\n", str(model))
    model.unlink()
    answer = node.http.post("/v1/llm/generate", json={"prompt": "a", "max_tokens": 1})
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "not_configured"
    assert int(answer.headers["retry-after"]) >= 1
    assert str(tmp_path) not in answer.text
    assert "pull or import it again" in answer.json()["detail"]
    # The next request gets the same answer, and the others are served.
    assert node.http.post("/v1/llm/generate", json={"prompt": "a"}).status_code == 503
    assert node.http.get("/health").json()["status"] == "healthy"
    assert node.http.get("/api/tags").json()["models"][0]["name"] == MODEL
    # With the file back in its place it is served again.
    shutil.copyfile(required("AITHER_TEST_MODEL"), model)
    node.assert_serves()


def test_stopping_lets_a_stream_finish(start_node):
    node = start_node()
    stream = node.openai.chat.completions.create(**ENDLESS, stream=True, max_tokens=40)
    next(stream)
    node.process.terminate()
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert node.process.wait(timeout=30) == 0


def test_stopping_ends_an_endless_stream_with_the_reason(start_node):
    """In each dialect the last thing a client gets is an error, not a broken connection."""
    node = start_node()
    # Greedy and without a template, counting goes on for longer than a node takes to stop.
    prompt = ", ".join(str(number) for number in range(1, 60)) + ","
    native = {"prompt": prompt, "max_tokens": 7000, "temperature": 0, "stream": True}
    raw = {"model": MODEL, "prompt": prompt, "raw": True, "options": {"temperature": 0}}
    with contextlib.ExitStack() as stack:

        def lines_of(path: str, body: dict) -> Iterator[str]:
            answer = stack.enter_context(node.http.stream("POST", path, json=body))
            assert answer.status_code == 200
            lines = (line for line in answer.iter_lines() if line and not line.startswith(":"))
            next(lines)
            return lines

        streams = [
            lines_of("/v1/llm/generate", native),
            lines_of("/v1/chat/completions", ENDLESS | {"stream": True}),
            lines_of("/api/generate", raw),
        ]
        node.process.terminate()
        native_lines, openai_lines, ollama_lines = map(list, streams)
    assert native_lines[-2] == "event: error"
    assert json.loads(native_lines[-1].removeprefix("data: "))["code"] == "not_ready"
    error = json.loads(openai_lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "not_ready" and "stopping" in error["message"]
    assert "stopping" in json.loads(ollama_lines[-1])["error"]
    assert node.process.wait(timeout=30) == 0
