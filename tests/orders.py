"""What the clients of a load want: calls of every kind, each with its number, its price and the answer it must have.

The number is a part of the model's name: the upstream sees it in the arguments, and the store has it in the rows of
calls and holds. What a call costs follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import orjson

from tests.support import Answer, Gateway, custom_path, request_bytes

PRICES = """
[[price]]
method = "v1/chat/completions"
model = "unit-*"
per_call = "0.001"
per_1k_prompt = "0.001"
per_1k_completion = "0.002"
"""
MONEY = "1000000"
TEXTS = ("Be", "cause", " of", " rivers.")


def usage_of(number: int) -> dict[str, int]:
    """What the upstream says that the order used: no more than is held for it."""
    return {"prompt_tokens": 10 + number % 37, "completion_tokens": 1 + number % 101}


def charge_of(number: int) -> int:
    """What the order costs, in millionths."""
    usage = usage_of(number)
    return 1000 + usage["prompt_tokens"] + 2 * usage["completion_tokens"]


@dataclass(slots=True)
class Order:
    """What a client wants once; a keyed one is asked for again until it is there. `leaves_s`: after which it leaves."""

    number: int
    front: str
    streamed: bool
    result_type: str
    keyed: bool
    leaves_s: float | None

    def request(self, gateway: Gateway) -> bytes:
        arguments = {
            "model": f"unit-{self.number}", "messages": [{"role": "user", "content": "Why is the sea salty?"}],
            "max_tokens": 200, "stream": self.streamed,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.keyed:
            headers["Idempotency-Key"] = f"key-{self.number}"
        if self.front == "native":
            headers["Authorization"] = f"Bearer {gateway.token}"
            return request_bytes("POST", "/v1/chat/completions", orjson.dumps(arguments), headers)
        target = custom_path(gateway, method="v1/chat/completions", result_type=self.result_type)
        return request_bytes("POST", target, orjson.dumps({"_o_args": arguments}), headers)


def new_order(number: int, random: Random) -> Order:
    return Order(
        number,
        front=random.choice(("native", "custom")),
        streamed=random.random() < 0.5,
        result_type=random.choice(("json", "json", "xml")),
        keyed=random.random() < 0.25,
        leaves_s=random.uniform(0, 0.04) if random.random() < 0.2 else None,
    )


def code_of(answer: Answer) -> str:
    """The four digits; of an answer that is not whole, and of none, nothing."""
    if not (answer.status and answer.complete):
        return ""
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return "0000"  # only a clean end upstream is one for the client
    return answer.headers.get("x-error-code", "")


def holds_all(body: bytes, order: Order) -> bool:
    """Whether nothing of what the upstream wrote for the client is missing, in whatever format."""
    if not order.streamed:
        return "".join(TEXTS).encode() in body
    texts = iter(body.split(b"data: "))
    return all(any(text.encode() in each for each in texts) for text in TEXTS) and body.endswith(b"data: [DONE]\n\n")
