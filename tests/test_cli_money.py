from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from gateway.config import Settings, StoreSettings
from gateway.store import InsufficientBalanceError, SqliteStore, StoreError, UnknownAccountError, open_store
from gateway.store.sqlite_audit import MAX_LISTED, Books
from gateway.types import Account
from tests.ledger_rows import insert_call, insert_charge, insert_entry, insert_hold, opened, unguarded
from tests.test_cli import Terminal

PRICES = """
[store]
url = "sqlite:///gateway.db"

[[price]]
list = "wholesale"
method = "v1/chat/*"
model = "gpt-4o*"
per_1k_prompt = "0.002"
per_1k_completion = "0.0080"

[[price]]
list = "retail"
per_call = "1"

[[price]]
method = "v1/images/*"
per_image = "0.04"
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def priced(tmp_path: Path) -> Terminal:
    """A user whose configuration has price lists, with the account acme."""
    (tmp_path / "gateway.toml").write_text(PRICES)
    terminal = Terminal(tmp_path, {"GATEWAY_CONFIG": str(tmp_path / "gateway.toml")})
    terminal.ok("accounts", "add", "acme")
    return terminal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with open_store(Settings(store=StoreSettings(url=f"sqlite:///{tmp_path}/gateway.db"))) as store:
        yield store


def add(store: SqliteStore, name: str, balance_micros: int = 0) -> Account:
    return store.accounts.add(
        Account(id=0, name=name, key=f"{name}-key", secret_digest=bytes(32), balance_micros=balance_micros)
    )


class TestLimits:
    """`gateway accounts limit`, and the limit of tokens in `add` and `set`."""

    def test_limit_changes_what_it_names_and_nothing_else(self, terminal: Terminal) -> None:
        """`none` lifts a limit."""
        terminal.ok("accounts", "add", "acme", "--per-day", "5", "--total", "6", "--methods", "v1/*")
        before = terminal.ok("accounts", "show", "acme", "--json").json
        limits = terminal.ok(
            "accounts", "limit", "acme", "--json",
            "--tokens-per-minute", "90000", "--concurrency", "3", "--per-minute", "60", "--total", "none",
        ).json  # fmt: skip
        changed = {"concurrency": 3, "per_minute": 60, "tokens_per_minute": 90_000, "per_day": 5, "total": None}
        assert limits == {"name": "acme", **changed}
        assert terminal.ok("accounts", "show", "acme", "--json").json == {**before, **changed}

    def test_limit_alone_shows_the_limits(self, terminal: Terminal) -> None:
        """And changes none."""
        terminal.ok("accounts", "add", "acme", "--tokens-per-minute", "7")
        assert [line.split("  ")[-1].strip() for line in terminal.ok("accounts", "limit", "acme").out.splitlines()] == [
            "acme", "unlimited", "unlimited", "7", "unlimited", "unlimited",
        ]  # fmt: skip
        changed = terminal.ok("accounts", "set", "acme", "--tokens-per-minute", "none", "--json").json
        assert changed["tokens_per_minute"] is None

    def test_limit_takes_limits_only(self, terminal: Terminal) -> None:
        """What is no limit is `set`'s business."""
        terminal.ok("accounts", "add", "acme")
        assert terminal.run("accounts", "limit", "acme", "--methods", "v1/*").status == 2
        assert terminal.run("accounts", "limit", "acme", "--per-day", "-1").status == 2
        assert terminal.run("accounts", "limit", "nobody", "--per-day", "1").status == 1


class TestPrice:
    """`gateway accounts price`."""

    def test_an_account_on_no_list_has_the_prices_for_everyone(self, priced: Terminal) -> None:
        """Amounts are decimal strings, written in one way."""
        (row,) = priced.ok("accounts", "price", "acme", "--json").json["prices"]
        assert row == {
            "list": None, "method": "v1/images/*", "model": "*", "per_call": "0", "per_1k_prompt": "0",
            "per_1k_cached": "0", "per_1k_completion": "0", "per_image": "0.04", "per_second": "0",
        }  # fmt: skip

    def test_a_list_adds_its_rows_in_the_order_of_the_configuration(self, priced: Terminal) -> None:
        """Cached tokens cost what the rest of the prompt does, unless the row says otherwise."""
        put = priced.ok("accounts", "price", "acme", "wholesale", "--json").json
        assert (put["name"], put["price_list"]) == ("acme", "wholesale")
        assert [(row["list"], row["method"], row["model"]) for row in put["prices"]] == [
            ("wholesale", "v1/chat/*", "gpt-4o*"),
            (None, "v1/images/*", "*"),
        ]
        assert [put["prices"][0][key] for key in ("per_1k_prompt", "per_1k_cached", "per_1k_completion")] == [
            "0.002", "0.002", "0.008",
        ]  # fmt: skip
        assert priced.ok("accounts", "show", "acme", "--json").json["price_list"] == "wholesale"
        shown = priced.ok("accounts", "price", "acme").out.splitlines()
        assert shown[:3] == ["name        acme", "price list  wholesale", ""]
        assert [line.split()[:3] for line in shown[4:]] == [
            ["wholesale", "v1/chat/*", "gpt-4o*"],
            ["-", "v1/images/*", "*"],
        ]

    def test_none_takes_an_account_off_its_list(self, priced: Terminal) -> None:
        """It is then as it was at first."""
        before = priced.ok("accounts", "price", "acme", "--json").json
        priced.ok("accounts", "price", "acme", "retail")
        assert priced.ok("accounts", "price", "acme", "none", "--json").json == before
        assert priced.ok("accounts", "show", "acme", "--json").json["price_list"] is None

    def test_a_list_that_no_price_names_is_refused_with_those_there_are(self, priced: Terminal) -> None:
        """The account stays where it was."""
        done = priced.run("accounts", "price", "acme", "wholesail")
        assert done.status == 2
        assert "the lists are: retail, wholesale" in done.err
        assert priced.ok("accounts", "price", "acme", "--json").json["price_list"] is None

    def test_without_prices_calls_are_free_and_there_are_no_lists(self, terminal: Terminal) -> None:
        """Which is said."""
        terminal.ok("accounts", "add", "acme")
        assert "calls are free" in terminal.ok("accounts", "price", "acme").out
        assert "there are no lists" in terminal.run("accounts", "price", "acme", "wholesale").err
        assert terminal.run("accounts", "price", "nobody").status == 1

    def test_a_list_that_has_gone_from_the_configuration_is_said(self, priced: Terminal) -> None:
        """And what becomes of calls without a price."""
        priced.ok("accounts", "price", "acme", "wholesale")
        only_bulk = PRICES.replace('"wholesale"', '"bulk"').replace("per_image", 'list = "bulk"\nper_image')
        (priced.home / "gateway.toml").write_text(only_bulk)
        done = priced.ok("accounts", "price", "acme")
        assert "its calls are refused" in done.out
        assert "wholesale" in done.err


class TestTopUp:
    """`gateway accounts topup`: what is paid in, and what is taken back."""

    def test_every_payment_is_an_entry_of_the_books(self, terminal: Terminal) -> None:
        """The first balance too."""
        terminal.ok("accounts", "add", "acme", "--balance", "1")
        terminal.ok("accounts", "topup", "acme", "0.1")
        taken = terminal.ok("accounts", "topup", "acme", "0.35", "--back", "--json").json
        assert (taken["balance"], taken["held"], taken["available"]) == ("0.75", "0", "0.75")
        entries = opened(terminal.database).execute("SELECT kind, amount_micros, call_id FROM entries ORDER BY id")
        assert entries.fetchall() == [("topup", 1_000_000, None), ("topup", 100_000, None), ("topup", -350_000, None)]
        terminal.ok("audit")

    def test_more_than_is_free_is_not_taken_back(self, terminal: Terminal) -> None:
        """What open calls hold stays, to the last millionth; the refusal says how much there is."""
        terminal.ok("accounts", "add", "acme", "--balance", "2")
        with opened(terminal.database) as connection:
            insert_hold(connection, 1, 500_000)
        done = terminal.run("accounts", "topup", "acme", "1.500001", "--back")
        assert (done.status, done.err) == (
            1,
            "Error: 1.500001 cannot be taken back from 'acme': its balance is 2, of which 0.5 is held\n",
        )
        taken = terminal.ok("accounts", "topup", "acme", "1.5", "--back", "--json").json
        assert (taken["balance"], taken["held"], taken["available"]) == ("0.5", "0.5", "0")
        terminal.ok("audit")

    @pytest.mark.parametrize("amount", ["0", "0.0", "-1", "1e3", "0.0000001"])
    def test_an_amount_is_something(self, terminal: Terminal, amount: str) -> None:
        """And has no sign: `--back` says that it is taken back."""
        terminal.ok("accounts", "add", "acme")
        assert terminal.run("accounts", "topup", "acme", "--", amount).status == 2

    def test_of_many_who_take_back_at_once_none_takes_what_is_not_there(self, store: SqliteStore) -> None:
        """The balance is looked at and changed in one transaction."""
        add(store, "acme", 10)
        refused: list[StoreError] = []

        def take_back() -> None:
            with open_store(Settings(store=StoreSettings(url=f"sqlite:///{store.path}"))) as own:
                for _ in range(5):
                    try:
                        own.accounts.top_up("acme", -1)
                    except InsufficientBalanceError as error:
                        refused.append(error)

        threads = [threading.Thread(target=take_back) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 10
        assert store.accounts.by_name("acme").balance_micros == 0
        assert not store.audit().differences

    def test_an_overdrawn_balance_can_be_mended_but_not_worsened(self, store: SqliteStore) -> None:
        """Paying in is always allowed."""
        add(store, "acme", -5)
        with pytest.raises(InsufficientBalanceError):
            store.accounts.top_up("acme", -1)
        assert store.accounts.top_up("acme", 3).balance_micros == -2

    def test_what_is_held_is_shown(self, terminal: Terminal) -> None:
        """As it is, and what remains."""
        terminal.ok("accounts", "add", "acme", "--balance", "2")
        with opened(terminal.database) as connection:
            insert_hold(connection, 1, 500_000)
        (listed,) = terminal.ok("accounts", "list", "--json").json
        assert (listed["balance"], listed["held"], listed["available"]) == ("2", "0.5", "1.5")
        assert (listed["tokens_per_minute"], listed["price_list"]) == (None, None)


class TestCleanBooks:
    """What adds up is said to."""

    def test_a_fresh_store_is_clean(self, terminal: Terminal) -> None:
        """With no account at all."""
        done = terminal.ok("audit")
        assert done.out.endswith("The books add up.\n")
        found = terminal.ok("audit", "--json").json
        assert (found["clean"], found["accounts"], found["differences"]) == (True, [], [])

    def test_payments_charges_and_holds_are_summed(self, store: SqliteStore) -> None:
        """For each account and in total, deleted ones included."""
        acme, gone = add(store, "acme", 10_000_000), add(store, "gone", 3_000_000)
        store.accounts.top_up("acme", 2_500_000)
        store.accounts.top_up("acme", -500_000)
        with opened(store.path) as connection:
            insert_charge(connection, acme.id, 31_200)
            insert_charge(connection, acme.id, 7, "estimated")
            insert_charge(connection, gone.id, 1)
            insert_call(connection, acme.id, outcome="4001")
            insert_call(connection, acme.id, outcome="5000", settled="unknown")
            insert_hold(connection, acme.id, 400_000)
            insert_hold(connection, acme.id, 100_000)
            insert_hold(connection, gone.id, 0)
        store.accounts.delete("gone")
        found = store.audit()
        assert found.differences == ()
        assert [(each.name, each.deleted) for each in found.accounts] == [("acme", False), ("gone", True)]
        assert found.accounts[0].books == Books(
            paid_in_micros=12_000_000,
            charged_micros=31_207,
            balance_micros=11_968_793,
            held_micros=500_000,
            in_holds_micros=500_000,
            open_holds=2,
            estimated_calls=1,
            estimated_micros=7,
            unknown_calls=1,
        )
        assert (found.total.paid_in_micros, found.total.charged_micros) == (15_000_000, 31_208)
        assert (found.total.balance_micros, found.total.open_holds) == (14_968_792, 3)

    def test_a_charge_whose_call_has_left_the_log_is_no_difference(self, store: SqliteStore) -> None:
        """The log is cut short in time, the entries stay."""
        acme = add(store, "acme", 100)
        with opened(store.path) as connection:
            insert_charge(connection, acme.id, 7)
            connection.execute("DELETE FROM calls")
        assert not store.audit().differences

    def test_calls_that_are_not_sure_are_listed_newest_first(self, store: SqliteStore) -> None:
        """So many of each kind, with the number of all."""
        acme, other = add(store, "acme", 1_000), add(store, "other")
        with opened(store.path) as connection:
            ids = [insert_charge(connection, acme.id, 2, "estimated", method=f"v1/{n}") for n in range(MAX_LISTED + 5)]
            lost = insert_call(connection, other.id, settled="unknown")
        found = store.audit()
        assert [call.id for call in found.estimated] == ids[: -MAX_LISTED - 1 : -1]
        assert (found.estimated[0].method, found.estimated[0].charge_micros) == (f"v1/{MAX_LISTED + 4}", 2)
        assert (found.total.estimated_calls, found.total.estimated_micros) == (MAX_LISTED + 5, 2 * (MAX_LISTED + 5))
        assert [(call.id, call.account_id) for call in found.unknown] == [(lost, other.id)]
        assert not found.differences

    def test_what_others_commit_meanwhile_is_not_half_seen(self, store: SqliteStore) -> None:
        """Before every statement of the audit another connection pays in and charges."""
        acme = add(store, "acme", 1_000_000)
        writer = opened(store.path)

        def commit(_cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
            with writer:
                insert_entry(writer, acme.id, 10)
                insert_charge(writer, acme.id, 3)
                insert_hold(writer, acme.id, 1)
            return True

        store._connection.exec_trace = commit
        try:
            found = store.audit()
        finally:
            store._connection.exec_trace = None
        assert found.differences == ()
        assert found.total.balance_micros < store.accounts.by_name("acme").balance_micros


def spoil_balance(connection: apsw.Connection) -> None:
    connection.execute("UPDATE accounts SET balance_micros = balance_micros + 1")


def lose_a_payment(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM entries WHERE kind = 'topup'")


def enlarge_an_entry(connection: apsw.Connection) -> None:
    connection.execute("UPDATE entries SET amount_micros = amount_micros - 1 WHERE kind = 'charge'")


def lose_a_charge(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM entries WHERE kind = 'charge'")
    connection.execute("UPDATE accounts SET balance_micros = balance_micros + 7")


def change_a_call(connection: apsw.Connection) -> None:
    connection.execute("UPDATE calls SET charge_micros = 8")


def charge_an_uncharged_call(connection: apsw.Connection) -> None:
    insert_entry(connection, 1, -5, insert_call(connection, 1, outcome="4001"))


def charge_another(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO accounts SELECT 2, 'b', 'b', x'', pepper_id, 0, NULL, NULL, '[]', '[]',"
                       " NULL, NULL, NULL, NULL, -7, 0, NULL, 99, 0, NULL, '', 0, NULL FROM accounts")  # fmt: skip
    connection.execute("UPDATE entries SET account_id = 2 WHERE kind = 'charge'")
    connection.execute("UPDATE accounts SET balance_micros = 100 WHERE id = 1")


def give_by_a_charge(connection: apsw.Connection) -> None:
    insert_charge(connection, 1, -5)


def overdraw(connection: apsw.Connection) -> None:
    insert_charge(connection, 1, 95)


def hold_too_much(connection: apsw.Connection) -> None:
    insert_hold(connection, 1, 94)


def lose_a_hold(connection: apsw.Connection) -> None:
    insert_hold(connection, 1, 5)
    connection.execute("DELETE FROM holds")


def enlarge_a_hold(connection: apsw.Connection) -> None:
    insert_hold(connection, 1, 5)
    connection.execute("UPDATE holds SET amount_micros = 6")


def keep_a_hold(connection: apsw.Connection) -> None:
    insert_hold(connection, 1, 5, insert_charge(connection, 1, 1))


def lose_the_account(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM accounts")


@pytest.mark.parametrize(
    ("tamper", "faults"),
    [
        (spoil_balance, ["balance: the balance is 0.000094, but its entries add up to 0.000093: 0.000001 too much"]),
        (lose_a_payment, ["balance: the balance is 0.000093, but its entries add up to -0.000007: 0.0001 too much"]),
        (enlarge_an_entry, [
            "balance: the balance is 0.000093, but its entries add up to 0.000092: 0.000001 too much",
            "call: the call was charged 0.000007, but its entry says 0.000008",
        ]),
        (lose_a_charge, ["call: the call was charged 0.000007, but no entry says so"]),
        (change_a_call, ["call: the call was charged 0.000008, but its entry says 0.000007"]),
        (charge_an_uncharged_call, ["call: the call was charged 0, but its entry says 0.000005"]),
        (charge_another, [
            "balance: the balance is negative: -0.000007",
            "call: the call's charge of 0.000007 was taken from account 2",
        ]),
        (give_by_a_charge, ["charge: the call's entry adds 0.000005 to the balance, but a charge only takes"]),
        (overdraw, ["balance: the balance is negative: -0.000002"]),
        (hold_too_much, ["held: 0.000094 is held, more than the balance of 0.000093"]),
        (lose_a_hold, ["held: 0.000005 is held, but its open holds add up to 0: 0.000005 too much"]),
        (enlarge_a_hold, ["held: 0.000005 is held, but its open holds add up to 0.000006: 0.000001 too little"]),
        (keep_a_hold, ["hold: the call has ended, but still holds 0.000005"]),
        (lose_the_account, [
            "account: the books speak of it, but there is no such account",
            "balance: the balance is 0, but its entries add up to 0.000093: 0.000093 too little",
        ]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_every_kind_of_difference_is_found(
    store: SqliteStore, tamper: Callable[[apsw.Connection], None], faults: list[str]
) -> None:
    """In books of one account that paid in 100 millionths and was charged 7; they are clean before."""
    acme = add(store, "acme", 100)
    connection = unguarded(store.path)
    insert_charge(connection, acme.id, 7)
    assert not store.audit().differences
    tamper(connection)
    connection.close()
    assert [f"{difference.fault}: {difference.text}" for difference in store.audit().differences] == faults


class TestAudit:
    """`gateway audit`."""

    def test_differences_are_said_in_words_with_status_1(self, terminal: Terminal) -> None:
        """And stand in the JSON, with the account and the call."""
        terminal.ok("accounts", "add", "acme", "--balance", "1")
        connection = unguarded(terminal.database)
        call_id = insert_call(connection, 1, charge_micros=5, settled="exact")
        connection.execute("UPDATE accounts SET balance_micros = 0")
        connection.close()
        done = terminal.run("audit")
        assert done.status == 1
        assert done.out.splitlines()[-3:] == [
            "acme: the balance is 0, but its entries add up to 1: 1 too little",
            f"acme, call {call_id}: the call was charged 0.000005, but no entry says so",
            "The books do not add up: 2 differences.",
        ]
        found = terminal.run("audit", "--json")
        assert (found.status, found.json["clean"]) == (1, False)
        assert found.json["differences"][1] == {
            "account": "acme",
            "account_id": 1,
            "last_id": str(call_id),
            "fault": "call",
            "text": "the call was charged 0.000005, but no entry says so",
        }

    def test_sums_and_unsure_calls_are_shown(self, terminal: Terminal) -> None:
        """A deleted account beside the one that has its name now."""
        terminal.ok("accounts", "add", "acme", "--balance", "1")
        with opened(terminal.database) as connection:
            estimated = insert_charge(connection, 1, 250_000, "estimated")
            lost = insert_call(connection, 1, settled="unknown", method="v1/responses")
            insert_hold(connection, 1, 500_000)
        terminal.ok("accounts", "delete", "acme")
        terminal.ok("accounts", "add", "acme")
        done = terminal.ok("audit")
        assert [line.split() for line in done.out.splitlines()] == [
            ["ID", "ACCOUNT", "PAID", "IN", "CHARGED", "BALANCE", "HELD", "OPEN", "HOLDS",
             "ESTIMATED", "CALLS", "UNKNOWN", "CALLS"],
            ["1", "acme", "(deleted)", "1", "0.25", "0.75", "0.5", "1", "1", "1"],
            ["2", "acme", "0", "0", "0", "0", "0", "0", "0"],
            ["in", "total", "1", "0.25", "0.75", "0.5", "1", "1", "1"],
            [],
            ["1", "estimated", "call,", "charged", "0.25:"],
            ["LAST", "ID", "ACCOUNT", "METHOD", "CHARGE"],
            [str(estimated), "acme", "(deleted)", "v1/chat/completions", "0.25"],
            [],
            ["1", "unknown", "call,", "charged", "0:"],
            ["LAST", "ID", "ACCOUNT", "METHOD", "CHARGE"],
            [str(lost), "acme", "(deleted)", "v1/responses", "0"],
            [],
            ["The", "books", "add", "up."],
        ]  # fmt: skip

    def test_one_account_can_be_audited_alone(self, store: SqliteStore) -> None:
        """With those that had its name before it; what others' books are like does not matter."""
        acme, other = add(store, "acme", 1), add(store, "other", 2)
        with opened(store.path) as connection:
            insert_charge(connection, acme.id, 1, "estimated")
            connection.execute("UPDATE accounts SET balance_micros = 99 WHERE id = ?", (other.id,))
            insert_call(connection, other.id, charge_micros=5, settled="estimated")
        store.accounts.delete("acme")
        again = add(store, "acme", 4)
        found = store.audit("acme")
        assert [account.id for account in found.accounts] == [acme.id, again.id]
        assert (found.total.paid_in_micros, len(found.estimated), found.differences) == (5, 1, ())
        assert {difference.account_id for difference in store.audit().differences} == {other.id}
        with pytest.raises(UnknownAccountError, match="no account is or was named 'nobody'"):
            store.audit("nobody")

    def test_an_unknown_account_is_said_with_status_1(self, terminal: Terminal) -> None:
        """By name."""
        done = terminal.run("audit", "--account", "nobody")
        assert (done.status, done.err) == (1, "Error: no account is or was named 'nobody'\n")
