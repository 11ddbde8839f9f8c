"""What clients and upstream have seen of calls, and whether the books say the same of every one of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.books import check_books, connect, database_of
from tests.orders import Order, charge_of
from tests.support import Answer, Gateway


class Told(NamedTuple):
    """A whole answer with code 0000 that a client got."""

    order: Order
    last_id: int
    request_id: str
    replayed: bool


class Row(NamedTuple):
    """A row of the call log."""

    id: int
    request_id: str
    number: int
    outcome: str
    charge: int
    settled: str
    cache: str


@dataclass(slots=True)
class Figures:
    """What was compared so far. `answers` are the whole ones with code 0000; the rest counts rows of the call log."""

    answers: int = 0
    replays: int = 0
    charged: int = 0
    uncharged: int = 0
    unknown: int = 0

    @property
    def calls(self) -> int:
        return self.charged + self.uncharged + self.unknown

    def __str__(self) -> str:
        return (
            f"{self.calls} calls: {self.charged} charged, {self.unknown} unknown, {self.uncharged} not charged;"
            f" {self.answers} whole answers, {self.replays} of them given again"
        )


class Agreement:
    """Notes what is seen on either side of the gateway, until `compare` compares it with the store."""

    def __init__(self, gateway: Gateway) -> None:
        self.figures = Figures()
        self.seen: Counter[int] = Counter()  # by the upstream, since the last comparison
        self.told: list[Told] = []  # since the last comparison
        self.charged_refusals: list[int] = []  # calls that were told 4000, and are charged
        self._database = database_of(gateway)
        self._books = connect(self._database)
        self._unheld: list[int] = []  # what reached the upstream without money held for it
        self._failed: set[int] = set()  # orders that were told 4000, and are not made again
        self._floor = 0
        self._ids: set[int] = set()
        self._request_ids: set[str] = set()
        self._charges: Counter[int] = Counter()  # by the orders' numbers

    def close(self) -> None:
        self._books.close()

    # what happens

    def note_asked(self, number: int) -> None:
        """The upstream is asked for an order: something is held for it, or was until its client left, a moment ago."""
        self.seen[number] += 1
        queries = (f"SELECT 1 FROM {table} WHERE model = ?" for table in ("holds", "calls"))
        if not any(self._books.execute(query, (f"unit-{number}",)).get for query in queries):
            self._unheld.append(number)

    def note_answer(self, order: Order, answer: Answer) -> None:
        """A client got a whole answer with code 0000."""
        replayed = "idempotent-replayed" in answer.headers
        assert order.keyed or not replayed, f"order {order.number} was answered with another's answer"
        self.told.append(Told(order, int(answer.headers["x-last-id"]), answer.headers["x-request-id"], replayed))

    def note_failure(self, order: Order) -> None:
        """A client was told 4000, so that it is not charged."""
        if not order.keyed:
            self._failed.add(order.number)

    # what the books say

    def history(self, order: Order) -> list[dict[str, Any]]:
        """The rows that the call log has of an order."""
        cursor = self._books.execute("SELECT * FROM calls WHERE model = ?", (f"unit-{order.number}",))
        return [dict(zip((name for name, *_ in cursor.get_description()), row, strict=True)) for row in cursor]

    @property
    def is_settled(self) -> bool:
        """Whether nothing is held, and every call that the upstream saw is in the log."""
        if self._books.execute("SELECT EXISTS (SELECT 1 FROM holds)").get:
            return False
        logged = Counter(row.number for row in self._rows() if row.cache != "replay")
        return all(logged[number] >= times for number, times in self.seen.items())

    def compare(self) -> None:
        """Fails on whatever client, upstream and books disagree about. Nothing may be under way."""
        check_books(self._database)
        assert not self._books.execute("SELECT * FROM holds").fetchall(), "something is still held"
        found = self._rows()
        query = "SELECT call_id, -amount_micros FROM entries WHERE call_id > ?"
        entries: dict[int, int] = dict(self._books.execute(query, (self._floor,)))
        self._compare_rows(found, entries)
        self._compare_upstream(found, entries)
        for told in self.told:
            self._compare_answer(told, entries)
        assert not self._unheld, f"the upstream was asked before anything was held: {self._unheld}"
        self._floor = max((row.id for row in found), default=self._floor)
        self.seen.clear()
        self.told.clear()

    def _rows(self) -> list[Row]:
        query = (
            "SELECT id, request_id, CAST(substr(model, 6) AS INTEGER), outcome, charge_micros, settled, cache"
            " FROM calls WHERE id > ?"
        )
        return [Row(*values) for values in self._books.execute(query, (self._floor,))]

    def _compare_rows(self, found: list[Row], entries: Mapping[int, int]) -> None:
        for row in found:
            assert row.request_id not in self._request_ids, f"an id is given twice: {row}"
            self._request_ids.add(row.request_id)
            assert row.charge == entries.get(row.id, 0), row
            if row.cache == "replay":
                assert not row.charge, row
                continue
            if row.settled == "unknown":
                assert (row.outcome, row.charge) == ("5000", 0), row
                self.figures.unknown += 1
            elif row.outcome == "0000":
                assert row.charge, row
                self.figures.charged += 1
                self._charges[row.number] += 1
                assert self._charges[row.number] == 1, f"order {row.number} is charged twice"
                if row.number in self._failed:
                    self.charged_refusals.append(row.id)
            else:
                assert not row.charge, row
                self.figures.uncharged += 1
        assert entries.keys() <= {row.id for row in found}, "a charge without a call"

    def _compare_upstream(self, found: list[Row], entries: Mapping[int, int]) -> None:
        """What is charged was asked for, and what was asked for is in the log."""
        by_number: defaultdict[int, list[Row]] = defaultdict(list)
        for row in found:
            if row.cache != "replay":
                by_number[row.number].append(row)
        for number, logged in by_number.items():
            charged = sum(row.id in entries for row in logged)
            assert charged <= self.seen[number], f"order {number} is charged and was never made: {logged}"
        for number, times in self.seen.items():
            assert len(by_number[number]) >= times, f"order {number} was made and is not in the log"

    def _compare_answer(self, told: Told, entries: Mapping[int, int]) -> None:
        order, figures = told.order, self.figures
        charge: Any = entries.get(told.last_id)
        if charge is None and told.replayed:  # it was charged when it was first answered, maybe long before
            charge = self._books.execute("SELECT -amount_micros FROM entries WHERE call_id = ?", (told.last_id,)).get
        assert charge == charge_of(order.number), f"{told} is charged {charge}"
        figures.answers += 1
        if told.replayed:
            figures.replays += 1
        else:
            assert told.last_id not in self._ids, f"an id is given twice: {told}"
            self._ids.add(told.last_id)
        if not order.keyed:
            assert self.seen[order.number] == 1, f"{told} was asked for {self.seen[order.number]} times"
