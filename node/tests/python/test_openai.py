"""The `openai` client against the node: answers, streams, and its own exception classes."""

import json
import math

import openai
import pytest
from conftest import MODEL, Node

QUESTION = [{"role": "user", "content": "What is gravity?"}]


def greedy(node: Node, **more):
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24} | more
    return node.openai.chat.completions.create(**options)


def test_chat_answers_with_text_and_usage(node: Node):
    answer = greedy(node)
    choice = answer.choices[0]
    assert "ravity" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    usage = answer.usage
    assert usage.prompt_tokens > 5
    assert 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert set(usage.timings) == {"queue_ms", "load_ms", "prefill_ms", "decode_ms"}
    assert usage.timings["decode_ms"] > 0


def test_a_stream_gives_the_same_text_and_reports_usage_when_asked(node: Node):
    whole = greedy(node)
    chunks = list(greedy(node, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(chunks[-1].usage, count) == getattr(whole.usage, count)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 5


def test_a_stream_does_not_report_usage_unasked(node: Node):
    assert all(chunk.usage is None and chunk.choices for chunk in greedy(node, stream=True))


def test_max_tokens_ends_an_answer(node: Node):
    for field in ("max_tokens", "max_completion_tokens"):
        answer = greedy(node, **{"max_tokens": None, field: 3})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3


def test_a_stop_string_ends_an_answer_before_itself(node: Node):
    whole = greedy(node).choices[0].message.content
    stop = whole[6:9]
    for given in (stop, ["never in it", stop]):
        answer = greedy(node, stop=given).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.message.content == whole[: whole.index(stop)]
    chunks = greedy(node, stop=stop, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole[: whole.index(stop)]


def test_the_same_seed_gives_the_same_text(node: Node):
    def sample(seed: int) -> str:
        return greedy(node, temperature=1.5, seed=seed).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in (7, 8, 9)}) > 1


def test_n_makes_independent_choices(node: Node):
    answer = greedy(node, n=3, temperature=1.5, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    streamed = ["", "", ""]
    ends = []
    for chunk in greedy(node, n=3, temperature=1.5, seed=1, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert streamed == [choice.message.content for choice in answer.choices]
    assert sorted(ends) == [0, 1, 2]


def test_logprobs_belong_to_the_text(node: Node):
    choice = greedy(node, logprobs=True, top_logprobs=3, max_tokens=8).choices[0]
    entries = choice.logprobs.content
    assert 1 <= len(entries) <= 8
    joined = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert joined.startswith(choice.message.content)
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0
        # Greedy: the chosen one is the likeliest.
        assert math.isclose(entry.logprob, entry.top_logprobs[0].logprob, abs_tol=1e-4)
    chunks = list(greedy(node, logprobs=True, top_logprobs=3, max_tokens=8, stream=True))
    streamed = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def test_logit_bias_bans_a_model_token(node: Node):
    entries = greedy(node, max_tokens=1, logprobs=True).choices[0].logprobs.content
    prompt = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0}
    free = node.openai.completions.create(**prompt, max_tokens=1).choices[0].text
    banned = {str(id): -100 for id in range(1000, 1500)}
    biased = node.openai.completions.create(**prompt, max_tokens=1, logit_bias=banned)
    assert free and biased.choices[0].text and entries


def test_content_parts_of_text_are_joined(node: Node):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " gravity?"}]
    answer = greedy(node, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == greedy(node).choices[0].message.content


def test_completions_continue_strings_arrays_and_ids(node: Node):
    create = node.openai.completions.create
    options = {"model": MODEL, "max_tokens": 5, "temperature": 0}
    one = create(prompt="The capital of France is", **options)
    assert "Paris" in one.choices[0].text
    assert one.object == "text_completion"
    two = create(prompt=["The capital of France is", "One, two, three,"], n=2, **options)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == two.choices[1].text == one.choices[0].text
    assert two.choices[2].text != one.choices[0].text
    ids = create(prompt=[504, 3575, 282], **options)
    assert ids.usage.prompt_tokens == 3
    echo = create(prompt="The capital of France is", echo=True, **options)
    assert echo.choices[0].text == "The capital of France is" + one.choices[0].text


def test_completions_stream(node: Node):
    options = {"model": MODEL, "max_tokens": 5, "temperature": 0, "prompt": ["A B C", "1 2 3"]}
    whole = node.openai.completions.create(**options)
    texts = ["", ""]
    for chunk in node.openai.completions.create(**options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_completions_have_the_older_logprobs(node: Node):
    answer = node.openai.completions.create(
        model=MODEL, prompt="A B C D", max_tokens=4, temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset[0] == 0
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.tokens)
    assert all(1 <= len(top) <= 2 for top in logprobs.top_logprobs)


def test_models_are_listed_with_what_they_are(node: Node):
    models = {model.id: model for model in node.openai.models.list()}
    model = models[MODEL]
    assert model.family == "llama"
    assert model.quantization == "Q4_1"
    assert 134e6 < model.parameters < 135e6
    assert model.context_length >= 2048
    assert 0 < model.cost_per_1k == model.cost_per_1k_prompt < 0.1
    assert model.local and model.nodes == [node.peer_id]
    assert isinstance(model.loaded, bool)
    assert node.openai.models.retrieve(MODEL).id == MODEL


def test_an_alias_answers_with_the_model_that_ran(node: Node):
    assert greedy(node, model="llama3.1:8b", max_tokens=1).model == MODEL
    models = {model.id: model for model in node.openai.models.list()}
    assert models["llama3.1:8b"].alias_of == MODEL
    assert node.openai.models.retrieve("mistral:7b").alias_of == MODEL


def test_an_unknown_model_is_not_found(node: Node):
    with pytest.raises(openai.NotFoundError) as caught:
        greedy(node, model="nobody")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "nobody" in str(caught.value) and MODEL in str(caught.value)
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError):
        node.openai.models.retrieve("nobody")
    node.assert_serves()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 10**30),
        ("max_tokens", 10**15),
        ("temperature", -0.5),
        ("temperature", 2.5),
        ("temperature", "hot"),
        ("top_p", 0),
        ("n", 0),
        ("n", 1000),
        ("top_logprobs", 5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"word": 1}),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("stream", "yes"),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_a_bad_field_is_a_bad_request_that_names_it(node: Node, field: str, value):
    with pytest.raises(openai.BadRequestError) as caught:
        greedy(node, **{field: value})
    assert caught.value.param == field
    assert field in str(caught.value)
    assert caught.value.type == "invalid_request_error"
    node.assert_serves()


def test_an_image_is_refused_by_name(node: Node):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="image_url"):
        greedy(node, messages=[{"role": "user", "content": [image]}])


def test_a_prompt_longer_than_the_context_is_refused(node: Node):
    long = [{"role": "user", "content": "word " * 20_000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            greedy(node, messages=long, stream=stream)
        assert caught.value.code == "context_length_exceeded"
    node.assert_serves()


def test_a_wrong_key_is_an_authentication_error(node: Node):
    client = node.openai.with_options(api_key="wrong")
    for call in (client.models.list, lambda: greedy_with(client)):
        with pytest.raises(openai.AuthenticationError) as caught:
            call()
        assert caught.value.code == "invalid_api_key"


def greedy_with(client: openai.OpenAI):
    return client.chat.completions.create(model=MODEL, messages=QUESTION)


def test_a_model_that_writes_text_makes_no_embeddings(node: Node):
    with pytest.raises(openai.BadRequestError) as caught:
        node.openai.embeddings.create(model=MODEL, input="a")
    assert "makes no embeddings" in caught.value.message


def test_bad_bodies_are_refused_in_openais_shape(node: Node):
    rows = [
        (b'{"model":', 400),
        (b"", 400),
        (b'{"model":"\xff"}', 400),
        (b"[]", 400),
        (b'{"model":"m","messages":[],"temperature":NaN}', 400),
        (b'{"model":"m","messages":[],"temperature":1e999}', 400),
    ]
    for body, status in rows:
        answer = node.http.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == status, body
        error = answer.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"]
    node.assert_serves()


def test_a_stream_is_server_sent_events_with_an_end(node: Node):
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 3, "stream": True}
    answer = node.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream"
    events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event[6:])["object"] == "chat.completion.chunk" for event in events[:-1])
