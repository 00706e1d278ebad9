"""Memory is found again, by its words and by its meaning, on the real node and the real model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import EMBEDDING_MODEL, Node, required
from onboarding import aboard, assert_problem, card, of_tier, spawn, with_key
from test_billing import Account

TOPICS = """
the migration of the database;a recipe for lentil soup;the noise of the dishwasher
training for a half marathon;insurance for bicycles;the colour of the living room
an error in the invoice;tickets for the opera;growing basil indoors;the new printer
a translation into Danish;pruning apple trees;backups of the photo archive;a sore knee
the timetable of the ferry;a present for grandmother;learning to juggle;the heat pump
""".replace("\n", ";").split(";")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("memory-search"), embedding=required(EMBEDDING_MODEL))
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def owner(home: Node) -> Account:
    return Account(home, "finder@example.org")


def write(agent: httpx.Client, tier: str, key: str, value: object, **more: object) -> dict:
    body = {"tier": tier, "key": key, "value": value, **more}
    answer = agent.post("/v1/memory/write", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def search(agent: httpx.Client, query: str, **more: object) -> dict:
    answer = agent.post("/v1/memory/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def keys(found: dict) -> list[str]:
    return [result["key"] for result in found["results"]]


def bundle_of(owner: Account, name: str, tier: str) -> dict:
    wanted = ["memory_read", "memory_write", "agent_spawn"]
    return aboard(
        owner.http,
        card(name, billing=of_tier(tier), capabilities_requested=wanted) | {"partial": True},
    )


def agent_of(node: Node, owner: Account, name: str, tier: str) -> httpx.Client:
    return with_key(node, bundle_of(owner, name, tier)["api_key"])


def test_what_the_user_asked_last_time_is_found_among_a_thousand_other_things(
    start_node: Callable[..., Node],
) -> None:
    home = start_node(embedding=required(EMBEDDING_MODEL))
    owner = Account(home, "rememberer@example.org")
    agent = agent_of(home, owner, "rememberer", "reasoning")
    rng = random.Random(8200)
    topics = [topic for topic in TOPICS if topic]

    def unrelated(number: int) -> None:
        text = f"Note {number} is about {rng.choice(topics)} and about {rng.choice(topics)}."
        write(agent, rng.choice(["active", "spirit"]), f"note_{number}", {"text": text})

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(unrelated, range(1000)))
    # The platform's sample, as it stands.
    write(agent, "working", "current_task", {"step": 3, "total": 10})
    write(agent, "active", "user_preferences", {"theme": "dark"})
    write(agent, "spirit", "personality_trait", {"curiosity": 0.9})
    asked = {"message": "How do I get from Lisbon to Porto by train?", "response": "Via Coimbra."}
    write(agent, "active", "last_conversation", asked)
    answer = agent.post("/v1/memory/read", json={"tier": "working", "key": "current_task"})
    assert answer.json()["value"] == {"step": 3, "total": 10}
    found = search(
        agent,
        "What did the user ask about last time?",
        tiers=["active", "spirit"],
        limit=5,
        consistent=True,
    )
    assert found["unindexed"] == 0
    assert home.metric("aither_memory_entries") == 1004
    assert home.metric("aither_memory_index_bytes") > 0
    assert "last_conversation" in keys(found), found
    best = next(hit for hit in found["results"] if hit["key"] == "last_conversation")
    assert best["value"] == asked and best["tier"] == "active"
    by_meaning = search(agent, "railway journey in Portugal", tiers=["active"], mode="semantic")
    assert keys(by_meaning)[0] == "last_conversation"
    # After a restart, too, before anything was searched.
    home.restart()
    agent = httpx.Client(base_url=home.url, headers=agent.headers, timeout=60)
    again = search(agent, "railway journey in Portugal", tiers=["active"], mode="semantic")
    assert again["results"] == by_meaning["results"]


def test_modes_filters_and_what_is_not_there_any_more(home: Node, owner: Account) -> None:
    agent = agent_of(home, owner, "filterer", "agent")
    write(agent, "active", "cat", "the cat sleeps on the sofa", tags=["pets", "home"])
    write(agent, "active", "dog", "a puppy chews a shoe", tags=["pets"])
    write(agent, "active", "rust", "ownership and lifetimes in a programming language")
    write(agent, "working", "kitten", "a young feline rests on a couch", task_id="t1")

    def found(query: str, **more: object) -> list[str]:
        return keys(search(agent, query, consistent=True, **more))

    assert found("dog", mode="semantic")[0] == "dog"
    assert found("feline", mode="keyword") == []
    assert found("feline", mode="keyword", task_id="t1") == ["kitten"]
    assert found("feline", mode="semantic", tiers=["active"])[0] == "cat"
    assert found("shoe", mode="keyword") == ["dog"]
    assert found("anything", mode="semantic", tags=["pets", "home"]) == ["cat"]
    assert found("sleeps", mode="hybrid")[0] == "cat"
    assert len(found("animal", limit=2)) == 2
    write(agent, "active", "cat", "a bicycle stands in the yard")
    assert found("sofa", mode="keyword") == []
    assert found("bicycle", mode="keyword") == ["cat"]
    agent.post("/v1/memory/delete", json={"tier": "active", "key": "cat"}).raise_for_status()
    assert found("bicycle", mode="keyword") == []
    assert "cat" not in found("bicycle", mode="semantic")
    agent.post("/v1/memory/complete-task", json={"task_id": "t1"}).raise_for_status()
    assert found("feline", mode="keyword", task_id="t1") == []


def test_times_bound_what_is_found(home: Node, owner: Account) -> None:
    agent = agent_of(home, owner, "timekeeper", "agent")
    write(agent, "active", "first", "a walk along the river")
    read = agent.post("/v1/memory/read", json={"tier": "active", "key": "first"}).json()
    write(agent, "active", "second", "a walk along the canal")
    at = read["updated_at"]
    found = search(agent, "walk", mode="keyword", updated_before=at, consistent=True)
    assert keys(found) == []
    found = search(agent, "walk", mode="keyword", updated_after="2020-01-01T00:00:00Z")
    assert sorted(keys(found)) == ["first", "second"]


def test_nobody_finds_what_another_wrote(home: Node, owner: Account) -> None:
    words = ["quokka", "axolotl", "okapi", "tapir", "pangolin", "numbat", "saola", "aye-aye"]
    agents = [agent_of(home, owner, f"hider-{number}", "reasoning") for number in range(8)]
    for agent, word in zip(agents, words, strict=True):
        for tier in ["working", "active", "spirit"]:
            write(agent, tier, "secret", f"the {word} lives here")

    def looks(number: int) -> None:
        for word in words:
            for mode in ["keyword", "semantic", "hybrid"]:
                found = search(agents[number], word, mode=mode, consistent=True)
                values = {result["value"] for result in found["results"]}
                assert values <= {f"the {words[number]} lives here"}, values
        mine = search(agents[number], words[number], mode="keyword")
        assert len(mine["results"]) == 3

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(looks, range(8)))
    # What others have changes no score either: a scope with the same content scores the same.
    lone = agent_of(home, owner, "lone", "reasoning")
    write(lone, "spirit", "secret", f"the {words[0]} lives here")
    scores = [
        search(agent, words[0], mode="keyword", tiers=["spirit"], consistent=True)["results"][0]
        for agent in (agents[0], lone)
    ]
    assert scores[0]["score"] == scores[1]["score"]


def test_tiers_and_tokens_bound_a_search(home: Node, owner: Account) -> None:
    reflex = agent_of(home, owner, "reflexive", "reflex")
    answer = reflex.post("/v1/memory/search", json={"query": "x", "tiers": ["spirit"]})
    assert_problem(answer, 403, "tier_forbidden")
    assert search(reflex, "x")["results"] == []
    bundle = bundle_of(owner, "parent", "orchestrator")
    parent = with_key(home, bundle["api_key"])
    write(parent, "knowledge", "paris", "Paris is the capital of France")
    write(parent, "codegraph", "paris.py", "def paris(): return 'capital'")
    assert keys(search(parent, "capital", mode="keyword", consistent=True)) == ["paris"]
    tiers = ["codegraph", "knowledge"]
    both = search(parent, "capital", mode="keyword", tiers=tiers, consistent=True)
    assert len(both["results"]) == 2
    write(parent, "spirit", "mood", "cheerful about France")
    assert "paris" in keys(search(reflex_peer(home, owner), "capital", consistent=True))
    answer = spawn(home, bundle, capabilities=["memory_read"])
    child = with_key(home, answer.json()["capability_token"])
    assert keys(search(child, "France", tiers=["spirit"], consistent=True)) == ["mood"]


def reflex_peer(home: Node, owner: Account) -> httpx.Client:
    """Another agent that may read what the node knows."""
    return agent_of(home, owner, "reader", "orchestrator")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x" * 20_000}, "query"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": 100_000}, "limit"),
        ({"query": "x", "mode": "psychic"}, "mode"),
        ({"query": "x", "tiers": ["attic"]}, "tiers"),
        ({"query": "x", "tiers": "active"}, "tiers"),
        ({"query": "x", "tags": ["x"] * 100}, "tags"),
        ({"query": "x", "updated_after": "yesterday"}, "updated_after"),
        ({"query": "x", "consistent": "yes"}, "consistent"),
    ],
)
def test_wrong_searches_are_refused_by_name(
    home: Node, owner: Account, body: dict, field: str
) -> None:
    answer = owner.http.post("/v1/memory/search", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert field in answer.text


def test_without_a_model_words_are_found_and_meaning_is_not(
    start_node: Callable[..., Node],
) -> None:
    node = start_node()
    account = Account(node, "plain@example.org")
    write(account.http, "active", "a", "the harbour at dawn")
    found = search(account.http, "harbour", consistent=True)
    assert keys(found) == ["a"] and found["mode"] == "keyword"
    answer = account.http.post("/v1/memory/search", json={"query": "x", "mode": "semantic"})
    assert_problem(answer, 503, "not_configured")
    assert "all-minilm" in answer.json()["detail"]
