"""Embeddings through the clients of OpenAI and Ollama, and on the node's own route."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterator

import ollama
import openai
import pytest
from conftest import MODEL, Node, required

EMBEDDING_MODEL = "all-minilm:l6-v2"
TEXTS = [
    "What did the user ask about last time?",
    "In the last session the user's question was about opening hours.",
    "The volcano erupted in the spring of that year.",
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    model = required("AITHER_TEST_EMBEDDING_MODEL")
    directory = tmp_path_factory.mktemp("embeddings")
    node = Node(directory, f'models.embedding = "{EMBEDDING_MODEL}={model}"\n')
    yield node
    assert node.stop() == 0


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def assert_length_1(vector: list[float]) -> None:
    assert len(vector) == 384
    assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-5)


def test_openais_client_gets_vectors_that_mean_something(node: Node):
    # The client asks for base64 unless told otherwise, and decodes it.
    answer = node.openai.embeddings.create(model=EMBEDDING_MODEL, input=TEXTS)
    assert answer.object == "list" and answer.model == EMBEDDING_MODEL
    assert [one.index for one in answer.data] == [0, 1, 2]
    vectors = [one.embedding for one in answer.data]
    for vector in vectors:
        assert_length_1(vector)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 30


def test_floats_and_base64_are_the_same_numbers(node: Node):
    body = {"model": EMBEDDING_MODEL, "input": TEXTS[0]}
    floats = node.http.post("/v1/embeddings", json={**body, "encoding_format": "float"})
    coded = node.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
    raw = base64.b64decode(coded.json()["data"][0]["embedding"], validate=True)
    numbers = struct.unpack("<384f", raw)
    assert list(numbers) == pytest.approx(floats.json()["data"][0]["embedding"], abs=1e-7)
    assert node.http.post("/v1/embeddings", json=body).json() == floats.json()


def test_ollamas_client_gets_the_same_vectors(node: Node):
    reference = node.openai.embeddings.create(model=EMBEDDING_MODEL, input=TEXTS)
    answer = node.ollama.embed(model=EMBEDDING_MODEL, input=TEXTS)
    assert answer.model == EMBEDDING_MODEL
    for vector, expected in zip(answer.embeddings, reference.data, strict=True):
        assert list(vector) == pytest.approx(expected.embedding, abs=1e-7)
    assert answer.prompt_eval_count == reference.usage.prompt_tokens
    assert answer.total_duration >= answer.load_duration >= 0
    older = node.ollama.embeddings(model=EMBEDDING_MODEL, prompt=TEXTS[0])
    assert list(older.embedding) == pytest.approx(reference.data[0].embedding, abs=1e-7)


def test_no_text_loads_the_model_and_an_empty_one_has_a_vector(node: Node):
    assert node.ollama.embed(model=EMBEDDING_MODEL, input=[]).embeddings == []
    assert_length_1(list(node.ollama.embed(model=EMBEDDING_MODEL, input="").embeddings[0]))


def test_the_native_route_takes_one_text_or_several(node: Node):
    one = node.http.post("/v1/llm/embed", json={"text": TEXTS[0]})
    assert one.status_code == 200, one.text
    several = node.http.post("/v1/llm/embed", json={"texts": TEXTS}).json()
    assert one.json()["embedding"] == several["embeddings"][0]
    assert len(several["embeddings"]) == 3 and "embedding" not in several
    assert one.json()["dimensions"] == several["dimensions"] == 384
    assert one.json()["model"] == EMBEDDING_MODEL
    assert float(one.headers["x-aither-cost"]) == one.json()["cost_tokens"] > 0


@pytest.mark.parametrize("name", ["all-minilm", "text-embedding-3-small", "ALL", None])
def test_names_that_tools_ask_for_lead_to_the_model(node: Node, name: str | None):
    answer = node.http.post("/v1/embeddings", json={"model": name, "input": "a"})
    if name == "ALL":
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert EMBEDDING_MODEL in answer.json()["error"]["message"]
    else:
        assert answer.json()["model"] == EMBEDDING_MODEL


def test_a_long_text_is_cut_unless_that_is_forbidden(node: Node):
    long = "word " * 2000
    answer = node.ollama.embed(model=EMBEDDING_MODEL, input=long)
    assert answer.prompt_eval_count == 256
    with pytest.raises(ollama.ResponseError) as caught:
        node.ollama.embed(model=EMBEDDING_MODEL, input=["short", long], truncate=False)
    assert caught.value.status_code == 400 and "text 1" in caught.value.error
    own = node.http.post("/v1/llm/embed", json={"texts": ["short", long]}).json()
    assert own["truncated"] == 1


def test_token_ids_and_other_dimensions_are_refused_with_words(node: Node):
    with pytest.raises(openai.BadRequestError, match="token ids"):
        node.openai.embeddings.create(model=EMBEDDING_MODEL, input=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="384"):
        node.openai.embeddings.create(model=EMBEDDING_MODEL, input="a", dimensions=128)
    answer = node.openai.embeddings.create(model=EMBEDDING_MODEL, input="a", dimensions=384)
    assert_length_1(answer.data[0].embedding)


def test_a_thousand_texts_come_back_in_order(node: Node):
    texts = [f"text number {number}" for number in range(1000)]
    answer = node.openai.embeddings.create(model=EMBEDDING_MODEL, input=texts)
    assert len(answer.data) == 1000
    for index in (0, 499, 999):
        alone = node.openai.embeddings.create(model=EMBEDDING_MODEL, input=texts[index])
        assert alone.data[0].embedding == answer.data[index].embedding


def test_an_embedding_model_is_listed_and_writes_no_text(node: Node):
    listed = {model.id: model for model in node.openai.models.list().data}
    assert listed[EMBEDDING_MODEL].model_extra["family"] == "bert"
    assert listed[EMBEDDING_MODEL].model_extra["context_length"] == 256
    assert node.openai.models.retrieve("all-minilm").id == EMBEDDING_MODEL
    tags = {model.model: model for model in node.ollama.list().models}
    assert tags[EMBEDDING_MODEL].details.family == "bert"
    shown = node.ollama.show(EMBEDDING_MODEL)
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo["bert.embedding_length"] == 384
    assert node.ollama.show(MODEL).capabilities == ["completion"]
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.BadRequestError, match="embedding model"):
        node.openai.chat.completions.create(model=EMBEDDING_MODEL, messages=messages)
    with pytest.raises(ollama.ResponseError) as caught:
        node.ollama.generate(model=EMBEDDING_MODEL, prompt="Hi")
    assert caught.value.status_code == 400


def test_an_account_pays_by_the_prompts_price(node: Node):
    http = node.http
    made = http.post("/v1/auth/register", json={"email": "e@example.org", "password": "p" * 16})
    key = {"authorization": f"Bearer {made.json()['api_key']}"}

    def balance() -> float:
        return http.get("/v1/billing/balance", headers=key).json()["balance"]

    prices = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    price = prices[EMBEDDING_MODEL]["cost_per_1k_prompt"]
    before = balance()
    answer = http.post("/v1/llm/embed", json={"texts": TEXTS * 20}, headers=key).json()
    cost = answer["cost_tokens"]
    assert cost == pytest.approx(price * answer["prompt_tokens"] / 1000, abs=1e-6)
    assert balance() == pytest.approx(before - cost, abs=1e-9)
    capped = {**key, "x-aither-max-cost": "0.000001"}
    refused = http.post("/v1/llm/embed", json={"texts": TEXTS}, headers=capped)
    assert refused.status_code == 402, refused.text
    assert balance() == pytest.approx(before - cost, abs=1e-9)


def test_the_same_idempotency_key_pays_once(node: Node):
    key = {"idempotency-key": "embed-1", "authorization": f"Bearer {node.key}"}
    first, second = (
        node.http.post("/v1/llm/embed", json={"text": "once"}, headers=key) for _ in range(2)
    )
    assert first.status_code == 200, first.text
    assert first.json() == second.json()


def test_a_model_of_the_store_is_used_without_a_flag(start_node: Callable[..., Node]):
    node = start_node()
    key = {"authorization": f"Bearer {node.key}"}
    path = {"path": required("AITHER_TEST_EMBEDDING_MODEL"), "name": "mine"}
    assert node.http.post("/v1/llm/embed", json={"text": "a"}).status_code == 404
    imported = node.http.post("/v1/models/import", json=path, headers=key)
    assert imported.status_code == 200, imported.text
    assert node.http.post("/v1/llm/embed", json={"text": "a"}).json()["model"] == "mine"
    # `--model` names what writes text; the encoder is served beside it.
    node.restart()
    assert node.http.post("/v1/llm/embed", json={"text": "a"}).json()["model"] == "mine"
    assert node.http.post("/v1/llm/generate", json={"prompt": "Hi", "max_tokens": 1}).is_success
    gone = node.http.request("DELETE", "/api/delete", json={"model": "mine"}, headers=key)
    assert gone.status_code == 200
    assert node.http.post("/v1/llm/embed", json={"text": "a"}).status_code == 404
