"""Agents that are offered: prices, order, whose they are, and what is left after a restart."""

import pathlib

import pytest
from conftest import Node
from onboarding import aboard, assert_problem, card, with_key
from test_billing import Account

LISTINGS = "/v1/marketplace/listings"


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("market"))
    yield node
    node.stop()


def offers(http, **params) -> list[dict]:
    answer = http.get("/v1/marketplace", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_an_offer_is_made_changed_found_and_taken_back(market: Node) -> None:
    owner, buyer = Account(market, "offer@example.org"), Account(market, "buys@example.org")
    bundle = aboard(owner.http, card("lyra"))
    assert offers(buyer.http, q="lyra") == []
    listing = {"agent": "lyra", "price_per_request": 2.5, "description": "Finds rare tunes"}
    answer = owner.http.post(LISTINGS, json=listing)
    assert answer.status_code == 201, answer.text
    assert owner.http.post(LISTINGS, json=listing | {"price_per_request": 4}).status_code == 200
    for words in ("lyra", "rare TUNES", "echo"):
        [offer] = offers(buyer.http, q=words)
        assert offer["name"] == "lyra" and offer["agent_id"] == bundle["agent_id"]
        assert offer["price_per_request"] == 4 and offer["description"] == "Finds rare tunes"
        assert offer["category"] == "agent" and offer["skills"][0]["id"] == "echo"
        assert offer["calls"] == 0 and offer["reputation"] is None
    assert offers(buyer.http, q="nothing like it") == []
    assert offers(buyer.http, category="reflex") == []
    # Everybody sees what a call costs, and the agent may change it with its own key.
    assert buyer.http.get("/v1/agents/lyra").json()["price"] == 4
    own = with_key(market, bundle["api_key"])
    body = {"agent_id": bundle["agent_id"], "pricing": {"token_cost_per_request": 7}}
    assert own.post(LISTINGS, json=body).status_code == 200
    assert offers(buyer.http, q="lyra")[0]["price_per_request"] == 7
    # Without words of its own it is described by its card.
    assert offers(buyer.http, q="lyra")[0]["description"] == "An agent of the tests"
    assert owner.http.delete(LISTINGS, params={"agent": "lyra"}).status_code == 204
    assert_problem(owner.http.delete(f"{LISTINGS}/lyra"), 404, "not_found")
    assert offers(buyer.http, q="lyra") == []
    assert buyer.http.get("/v1/agents/lyra").json()["price"] == 3


def test_only_its_owner_offers_an_agent_and_for_a_price(market: Node) -> None:
    owner, other = Account(market, "mine@example.org"), Account(market, "theirs@example.org")
    aboard(owner.http, card("mine"))
    listing = {"agent": "mine", "price_per_request": 1}
    assert_problem(other.http.post(LISTINGS, json=listing), 404, "unknown_agent")
    assert owner.http.post(LISTINGS, json=listing).status_code == 201
    assert_problem(other.http.delete(f"{LISTINGS}/mine"), 404, "unknown_agent")
    for price in (0, -1, 1_000_000.000001, 0.0000001, "much", None, {"usd": 1}):
        answer = owner.http.post(LISTINGS, json=listing | {"price_per_request": price})
        assert answer.status_code in (400, 422), (price, answer.text)
    too_long = owner.http.post(LISTINGS, json=listing | {"description": "x" * 2049})
    assert too_long.status_code == 422 and too_long.json()["errors"][0]["field"] == "description"
    assert offers(other.http, q="mine")[0]["price_per_request"] == 1
    # What is set aside is not offered, and what has left does not come back by itself.
    owner.http.post("/v1/agents/mine/suspend")
    assert offers(other.http, q="mine") == []
    owner.http.post("/v1/agents/mine/resume")
    assert len(offers(other.http, q="mine")) == 1
    owner.http.delete("/v1/agents/mine")
    assert offers(other.http, q="mine") == []


def test_offers_come_in_order_and_in_pages(market: Node) -> None:
    owner = Account(market, "order@example.org")
    prices = {"page-a": 3, "page-b": 1, "page-c": 2, "page-d": 1, "page-e": 50}
    for name, price in prices.items():
        aboard(owner.http, card(name))
        listing = {"agent": name, "price_per_request": price, "description": "paged offer"}
        assert owner.http.post(LISTINGS, json=listing).status_code == 201
    names, cursor = [], ""
    while cursor is not None:
        params = {"q": "paged", "sort": "price", "limit": 2, "cursor": cursor}
        page = owner.http.get("/v1/marketplace", params=params).json()
        assert len(page["items"]) <= 2
        names += [offer["name"] for offer in page["items"]]
        cursor = page["next_cursor"]
    assert names == ["page-b", "page-d", "page-c", "page-a", "page-e"]
    newest = [offer["name"] for offer in offers(owner.http, q="paged", sort="newest")]
    assert newest == sorted(prices, reverse=True)
    by_name = [offer["name"] for offer in offers(owner.http, q="paged", sort="name")]
    assert by_name == sorted(prices)
    for params in ({"sort": "luck"}, {"cursor": "x"}):
        assert owner.http.get("/v1/marketplace", params=params).status_code == 422


def test_offers_outlive_a_killed_node(tmp_path: pathlib.Path) -> None:
    node = Node(tmp_path)
    owner = Account(node, "stays@example.org")
    aboard(owner.http, card("stays"))
    listing = {"agent": "stays", "price_per_request": 9}
    assert owner.http.post(LISTINGS, json=listing).status_code == 201
    node.process.kill()
    node.process.wait()
    node.start()
    with with_key(node, owner.key) as http:
        assert offers(http, q="stays")[0]["price_per_request"] == 9
    node.stop()
