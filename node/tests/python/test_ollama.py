"""The `ollama` client against the node, without a key as local tools use it."""

import json

import ollama
import pytest
from conftest import MODEL, Node, wait_until

QUESTION = [{"role": "user", "content": "What is gravity?"}]
GREEDY = {"temperature": 0, "num_predict": 24}


def test_chat_answers_with_text_and_timings(node: Node):
    answer = node.ollama.chat(model=MODEL, messages=QUESTION, options=GREEDY)
    assert "ravity" in answer.message.content
    assert answer.message.role == "assistant"
    assert answer.model == MODEL
    assert answer.done and answer.done_reason in ("stop", "length")
    assert answer.prompt_eval_count > 5 and 0 < answer.eval_count <= 24
    assert answer.eval_duration > 0 and answer.prompt_eval_duration > 0
    parts = answer.eval_duration + answer.prompt_eval_duration + answer.load_duration
    assert answer.total_duration >= parts * 0.9


def test_chat_streams_lines_that_join_to_the_same_text(node: Node):
    whole = node.ollama.chat(model=MODEL, messages=QUESTION, options=GREEDY)
    parts = list(node.ollama.chat(model=MODEL, messages=QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count
    assert parts[-1].done_reason == whole.done_reason


def test_streaming_is_the_default_on_the_wire(node: Node):
    answer = node.http.post(
        "/api/generate", json={"model": MODEL, "prompt": "Hi", "options": {"num_predict": 3}}
    )
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["done"] is True and lines[0]["done"] is False
    assert all(isinstance(line["created_at"], str) for line in lines)


def test_generate_templates_a_prompt_unless_it_is_raw(node: Node):
    question = QUESTION[0]["content"]
    answer = node.ollama.generate(model=MODEL, prompt=question, options=GREEDY)
    assert "ravity" in answer.response
    raw = node.ollama.generate(model=MODEL, prompt=question, raw=True, options=GREEDY)
    assert raw.prompt_eval_count < answer.prompt_eval_count
    system = node.ollama.generate(
        model=MODEL, prompt=question, system="Answer in one word.", options=GREEDY
    )
    assert system.prompt_eval_count != answer.prompt_eval_count


def test_options_bound_stop_and_repeat(node: Node):
    def answer(**options):
        return node.ollama.chat(model=MODEL, messages=QUESTION, options=GREEDY | options)

    assert answer(num_predict=2).done_reason == "length"
    assert answer(num_predict=2).eval_count == 2
    whole = answer().message.content
    stopped = answer(stop=[whole[6:9]])
    assert stopped.message.content == whole[: whole.index(whole[6:9])]
    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1.0}
    assert answer(seed=5, **hot).message.content == answer(seed=5, **hot).message.content
    assert len({answer(seed=seed, **hot).message.content for seed in (5, 6, 7)}) > 1
    assert answer(num_ctx=2048, num_thread=2, repeat_penalty=1.1, repeat_last_n=-1).done


def test_logprobs_are_reported(node: Node):
    answer = node.ollama.chat(
        model=MODEL, messages=QUESTION, options=GREEDY, logprobs=True, top_logprobs=2
    )
    assert answer.logprobs and len(answer.logprobs[0].top_logprobs) == 2
    assert all(entry.logprob <= 0 for entry in answer.logprobs)


def test_an_empty_request_loads_and_unloads(node: Node):
    loaded = node.ollama.generate(model=MODEL, keep_alive="10m")
    assert loaded.done and loaded.done_reason == "load" and loaded.response == ""
    (process,) = node.ollama.ps().models
    assert process.model == MODEL and process.size > 0 and process.context_length > 0
    unloaded = node.ollama.chat(model=MODEL, messages=[], keep_alive=0)
    assert unloaded.done_reason == "unload"
    wait_until("the model is unloaded", lambda: not node.ollama.ps().models)
    node.assert_serves()


def test_models_are_listed_and_shown(node: Node):
    (model,) = node.ollama.list().models
    assert model.model == MODEL
    assert model.size > 50_000_000
    assert model.details.family == "llama" and model.details.quantization_level == "Q4_1"
    assert model.details.parameter_size == "134.52M"
    assert model.modified_at is not None
    shown = node.ollama.show(MODEL)
    assert "im_start" in shown.template
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] > 0
    assert shown.capabilities == ["completion"]
    assert node.http.get("/api/version").json()["version"]


def test_a_checksum_is_known_soon(node: Node):
    wait_until("the checksum is computed", lambda: bool(node.ollama.list().models[0].digest))
    assert len(node.ollama.list().models[0].digest) == 64


def test_an_unknown_model_is_404(node: Node):
    for call in (
        lambda: node.ollama.chat(model="nobody", messages=QUESTION),
        lambda: list(node.ollama.chat(model="nobody", messages=QUESTION, stream=True)),
        lambda: node.ollama.generate(model="nobody", prompt="a"),
        lambda: node.ollama.show("nobody"),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 404
        assert "nobody" in caught.value.error and MODEL in caught.value.error
    node.assert_serves()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "options.temperature"),
        ({"top_p": 1.5}, "options.top_p"),
        ({"top_k": -1}, "options.top_k"),
        ({"num_predict": -5}, "options.num_predict"),
        ({"num_predict": 10**15}, "options.num_predict"),
        ({"num_ctx": 0}, "options.num_ctx"),
        ({"repeat_penalty": -1.0}, "options.repeat_penalty"),
        ({"min_p": 2}, "options.min_p"),
        ({"stop": [""]}, "options.stop"),
    ],
)
def test_a_bad_option_is_refused_by_name(node: Node, options: dict, words: str):
    with pytest.raises(ollama.ResponseError) as caught:
        node.ollama.chat(model=MODEL, messages=QUESTION, options=options)
    assert caught.value.status_code == 400
    assert words in caught.value.error
    node.assert_serves()


def test_what_is_not_here_yet_is_refused_by_name(node: Node):
    client = node.ollama
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    for call, words in (
        (lambda: client.chat(model=MODEL, messages=QUESTION, tools=[tool]), "tools"),
        (lambda: client.chat(model=MODEL, messages=QUESTION, format="json"), "format"),
        (lambda: client.generate(model=MODEL, prompt="a", suffix="b"), "suffix"),
        (lambda: client.generate(model=MODEL, prompt="a", images=["AAAA"]), "images"),
        (lambda: client.chat(model=MODEL, messages=QUESTION, think=True), "think"),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 400
        assert words in caught.value.error


def test_a_prompt_longer_than_the_context_is_refused(node: Node):
    with pytest.raises(ollama.ResponseError) as caught:
        node.ollama.generate(model=MODEL, prompt="word " * 20_000)
    assert caught.value.status_code == 400
    assert "context" in caught.value.error


def test_a_model_that_writes_text_makes_no_embeddings(node: Node):
    with pytest.raises(ollama.ResponseError) as caught:
        node.ollama.embed(model=MODEL, input="a")
    assert caught.value.status_code == 400
    assert "makes no embeddings" in caught.value.error


def test_changing_the_node_needs_the_admin_key(node: Node):
    for call in (lambda: node.ollama.pull("smollm2:135m"), lambda: node.ollama.delete(MODEL)):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 401
    operator = ollama.Client(host=node.url, headers={"Authorization": f"Bearer {node.key}"})
    with pytest.raises(ollama.ResponseError) as caught:
        operator.delete("nobody")
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as caught:
        operator.pull("no such source")
    assert caught.value.error


def test_a_wrong_key_is_401(node: Node):
    stranger = ollama.Client(host=node.url, headers={"Authorization": "Bearer wrong"})
    with pytest.raises(ollama.ResponseError) as caught:
        stranger.list()
    assert caught.value.status_code == 401
