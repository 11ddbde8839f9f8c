"""Which plugins are found, which of them serve, and that whatever is wrong with one shows at start."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gateway.config import PluginsSettings
from gateway.errors import ConfigurationError
from gateway.plugin_loading import PluginRow, Plugins, load_plugins
from gateway.types import Document

FORMATTER = """
from gateway.hookspecs import FormatterSpec, hookimpl

@hookimpl
def gateway_formatters():
    return [FormatterSpec({name!r}, "text/plain", lambda document: {rendering!r}, standby={standby})]
"""
METHOD = """
from gateway.hookspecs import MethodSpec, hookimpl

async def handle(call, context):
    return {answer!r}

@hookimpl
def gateway_methods():
    return [MethodSpec({name!r}, handle)]
"""
HEAD = "from gateway.hookspecs import FormatterSpec, MethodSpec, TranslatorSpec, hookimpl\n"


class Site:
    """A directory of plugin files, and distributions that stand on the module path."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = root / "plugins"
        self.directory.mkdir()
        self._packages = root / "packages"
        self._packages.mkdir()
        monkeypatch.syspath_prepend(self._packages)

    def file(self, stem: str, source: str) -> None:
        (self.directory / f"{stem}.py").write_text(source)

    def formatter(self, stem: str, name: str, standby: bool = False) -> None:
        self.file(stem, FORMATTER.format(name=name, rendering=stem.encode(), standby=standby))

    def distribution(self, name: str, entry: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
        module = f"site_{name}"
        (self._packages / f"{module}.py").write_text(source)
        metadata = self._packages / f"{name}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[gateway]\n{entry} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    def load(self, **settings: object) -> Plugins:
        return load_plugins(PluginsSettings(**settings), directory=self.directory)  # type: ignore[arg-type]  # as in TOML

    def refusal(self, **settings: object) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(**settings)
        return str(caught.value)

    def row(self, plugin: str, kind: str, name: str, status: str) -> PluginRow:
        return PluginRow(plugin, str(self.directory / f"{plugin}.py"), kind, name, status)  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def rendered(plugins: Plugins, name: str) -> bytes:
    return plugins.formatters[name].render(Document(b"1"))


def test_the_gateways_own_plugins_are_found_like_anyones() -> None:
    plugins = load_plugins(PluginsSettings())
    assert {"json", "jsonu", "xml", "serialize", "var_export"} <= plugins.formatters.keys()
    (json,) = (row for row in plugins.rows if row.plugin == "json")
    assert json.source.startswith("streaming-openai-gateway ")
    assert (json.kind, json.name, json.status) == ("formatter", "json", "active")


def test_every_file_of_the_directory_is_a_plugin_named_by_its_stem(site: Site) -> None:
    site.formatter("my-format", "mine")
    site.file("_helper", "raise RuntimeError")
    site.file(".#my-format", "raise RuntimeError")
    (site.directory / "README").write_text("no plugin")
    plugins = site.load()
    assert rendered(plugins, "mine") == b"my-format"
    assert site.row("my-format", "formatter", "mine", "active") in plugins.rows


def test_the_settings_directory_serves_where_none_is_given(site: Site) -> None:
    site.formatter("a", "mine")
    assert "mine" in load_plugins(PluginsSettings(directory=str(site.directory))).formatters


def test_a_distributions_entry_point_is_a_plugin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.distribution("elsewhere", "foreign", FORMATTER.format(name="f", rendering=b"F", standby=False), monkeypatch)
    plugins = site.load()
    assert rendered(plugins, "f") == b"F"
    assert PluginRow("foreign", "elsewhere 1.2", "formatter", "f", "active") in plugins.rows


def test_one_plugin_may_implement_several_hooks(site: Site) -> None:
    site.file(
        "both",
        FORMATTER.format(name="mine", rendering=b"x", standby=False)
        + "from gateway.hookspecs import TranslatorSpec\n"
        + "async def translate(texts, context): return texts\n"
        + "@hookimpl\ndef gateway_translators(): return (TranslatorSpec('tlh', 'tlh', bool, translate),)\n",
    )
    plugins = site.load()
    assert plugins.translators["tlh"].tag == "tlh"
    assert site.row("both", "translator", "tlh", "active") in plugins.rows


def test_a_plugin_file_may_hold_dataclasses_with_postponed_annotations(site: Site) -> None:
    site.file(
        "a",
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True, slots=True)\nclass Point:\n    x: int\n"
        + FORMATTER.format(name="mine", rendering=b"x", standby=False),
    )
    assert "mine" in site.load().formatters


def test_every_hook_is_called_once(site: Site) -> None:
    counting = HEAD + "calls = []\n@hookimpl\ndef gateway_formatters():\n    calls.append(1)\n"
    site.file("once", counting + "    return [FormatterSpec('mine', 'text/plain', lambda _: bytes(calls))]\n")
    assert rendered(site.load(), "mine") == b"\x01"


def test_two_plugins_of_one_name_in_a_call_are_an_error_that_shows_how_to_pick(site: Site) -> None:
    site.formatter("a", "mine")
    site.formatter("b", "mine")
    text = site.refusal()
    assert str(site.directory / "a.py") in text
    assert str(site.directory / "b.py") in text
    assert '[plugins.formatters]: mine = "b"' in text


def test_the_configuration_picks_one_of_them(site: Site) -> None:
    site.formatter("a", "mine")
    site.formatter("b", "mine")
    plugins = site.load(formatters={"mine": "b"})
    assert rendered(plugins, "mine") == b"b"
    assert site.row("a", "formatter", "mine", "not picked") in plugins.rows
    assert site.row("b", "formatter", "mine", "active") in plugins.rows


def test_a_standby_formatter_serves_only_where_it_is_picked(site: Site) -> None:
    site.formatter("a", "mine", standby=True)
    site.formatter("b", "mine")
    site.formatter("c", "alone", standby=True)
    plugins = site.load()
    assert rendered(plugins, "mine") == b"b"
    assert "alone" not in plugins.formatters
    assert site.row("a", "formatter", "mine", "standby") in plugins.rows
    assert rendered(site.load(formatters={"mine": "a"}), "mine") == b"a"


def test_a_method_of_two_plugins_is_picked_by_a_key_in_quotes(site: Site) -> None:
    site.file("a", METHOD.format(name="poems/get", answer="a"))
    site.file("b", METHOD.format(name="poems/get", answer="b"))
    assert '[plugins.methods]: "poems/get" = "b"' in site.refusal()
    assert site.refusal(methods={"poems/get": "c"}).startswith("plugins.methods.\"poems/get\": plugin 'c' does not")
    plugins = site.load(methods={"poems/get": "b"})
    assert plugins.methods["poems/get"].name == "poems/get"
    assert site.row("a", "method", "poems/get", "not picked") in plugins.rows
    assert site.row("b", "method", "poems/get", "active") in plugins.rows


def test_the_gateway_s_own_methods_are_plugins_that_can_be_switched_off() -> None:
    account, images = {"account/balance", "account/calls", "account/jobs"}, {"images/submit", "images/get"}
    assert load_plugins(PluginsSettings()).methods.keys() == account | images
    assert load_plugins(PluginsSettings(off=("account",))).methods.keys() == images
    assert not load_plugins(PluginsSettings(off=("account", "images"))).methods


@pytest.mark.parametrize("plugin", ["c", "nobody"])
def test_picking_a_plugin_that_does_not_provide_it_is_an_error_that_lists_those_that_do(
    site: Site, plugin: str
) -> None:
    site.formatter("a", "mine")
    site.formatter("b", "mine")
    site.formatter("c", "other")
    text = site.refusal(formatters={"mine": plugin})
    assert text.startswith(f"plugins.formatters.mine: plugin {plugin!r} does not provide it; provided by: a (")
    assert ", b (" in text
    assert "c (" not in text


def test_picking_for_a_name_that_nobody_provides_is_an_error(site: Site) -> None:
    assert "plugins.translators.xx" in site.refusal(translators={"xx": "json"})


def test_a_plugin_that_provides_nothing_has_a_row_and_picking_it_says_so(site: Site) -> None:
    """One whose optional library is not installed, say."""
    site.file("idle", HEAD + "@hookimpl\ndef gateway_formatters(): return []")
    site.formatter("a", "mine")
    assert site.row("idle", "", "", "provides nothing") in site.load().rows
    assert site.refusal(formatters={"mine": "idle"}) == (
        "plugins.formatters.mine: plugin 'idle' provides nothing here, is its optional dependency installed? "
        f"provided by: a ({site.directory / 'a.py'})"
    )


def test_every_fault_is_told_at_once(site: Site) -> None:
    site.file("a", "import no_such_module")
    site.file("b", HEAD + "@hookimpl\ndef gateway_formatter(): return []")
    site.file("c", HEAD + "@hookimpl\ndef gateway_formatters(value): return []")
    site.file("d", HEAD + "@hookimpl\ndef gateway_formatters(): pass")
    site.formatter("sound", "mine")
    lines = site.refusal(off=("jsno",)).splitlines()
    assert [line.partition(" (")[0] for line in lines[1:]] == ["plugin a", "plugin b", "plugin c", "plugin d"]
    assert lines[0].startswith("plugins.off: ")


def test_every_wrong_pick_is_told_at_once(site: Site) -> None:
    site.formatter("a", "mine")
    site.formatter("b", "mine")
    lines = site.refusal(off=("jsno",), formatters={"xml": "a"}, translators={"xx": "a"}).splitlines()
    assert [re.split("[:(]", line)[0] for line in lines] == [
        "plugins.off", "two plugins provide the formatter 'mine'", "plugins.formatters.xml", "plugins.translators.xx",
    ]  # fmt: skip


def test_a_plugin_that_is_off_is_not_imported(site: Site) -> None:
    site.file("a", "raise RuntimeError")
    plugins = site.load(off=("a", "xml"))
    assert site.row("a", "", "", "off") in plugins.rows
    assert "xml" not in plugins.formatters


def test_an_off_that_names_no_plugin_is_an_error(site: Site) -> None:
    assert site.refusal(off=("jsno",)) == "plugins.off: no plugin is named 'jsno'; did you mean json?"


def test_two_plugins_of_one_plugin_name_are_an_error_that_names_both(site: Site) -> None:
    site.formatter("json", "mine")
    text = site.refusal()
    assert text.startswith(f"plugin json ({site.directory / 'json.py'}): another plugin has the same name: ")
    assert "streaming-openai-gateway" in text


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absent: the plugins' directory cannot be read: No such file"):
        load_plugins(PluginsSettings(), directory=tmp_path / "absent")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def (", "cannot be imported: SyntaxError"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("x = 1", "implements no hook"),
        ("@hookimpl\ndef gateway_formatter(): return []", "unknown hook 'gateway_formatter'"),
        ("@hookimpl\ndef gateway_formatters(value): return []", "Argument(s) {'value'}"),
        ("@hookimpl\ndef gateway_formatters(): 1 / 0", "gateway_formatters() raised ZeroDivisionError"),
        ("@hookimpl\ndef gateway_formatters(): pass", "returned NoneType, not a list"),
        ("@hookimpl\ndef gateway_formatters(): return FormatterSpec('a', 'a/b', bytes)", "returned FormatterSpec"),
        ("@hookimpl\ndef gateway_formatters():\n    yield 1", "returned generator"),
        ("@hookimpl\ndef gateway_formatters(): return ['a']", "a str is not a FormatterSpec"),
        ("@hookimpl\ndef gateway_translators(): return [FormatterSpec('a', 'a/b', bytes)]", "is not a TranslatorSpec"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('A b', 'a/b', bytes)]", "the name 'A b'"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a\\n', 'a/b', bytes)]", "the name 'a\\n'"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec(None, 'a/b', bytes)]", "the name None"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a', 'a/b\\r\\nX: y', bytes)]", "content type"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a', 'a/b', 1)]", "render of 'a'"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a', 'a/b', bytes, 1)]", "render of 'a'"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a', 'a/b', bytes, standby=1)]", "standby of 'a'"),
        ("@hookimpl\ndef gateway_formatters(): return [FormatterSpec('a', 'a/b', bytes)] * 2", "two specs are"),
        ("@hookimpl\ndef gateway_translators(): return [TranslatorSpec('a', '', bool, bytes)]", "the tag ''"),
        ("@hookimpl\ndef gateway_translators(): return [TranslatorSpec('a', 'ja', bool, None)]", "translate of 'a'"),
        ("@hookimpl\ndef gateway_methods(): return [MethodSpec('balance', print)]", "the name 'balance' is not two"),
        ("@hookimpl\ndef gateway_methods(): return [MethodSpec('a/b/c', print)]", "the name 'a/b/c' is not two"),
        ("@hookimpl\ndef gateway_methods(): return [MethodSpec('a/B', print)]", "the name 'a/B' is not two"),
        ("@hookimpl\ndef gateway_methods(): return [MethodSpec(None, print)]", "the name None is not two"),
        ("@hookimpl\ndef gateway_methods(): return [MethodSpec('v1/poems', print)]", "the name 'v1/poems' is the ups"),
        (
            "@hookimpl\ndef gateway_methods(): return [MethodSpec('a/b', {})]",
            "handle or stream of 'a/b' cannot be called",
        ),
        (
            "@hookimpl\ndef gateway_methods(): return [MethodSpec('a/b', print, 7)]",
            "handle or stream of 'a/b' cannot be called",
        ),
        (
            "@hookimpl\ndef gateway_methods(): return [MethodSpec('a/b', print, None, 'x')]",
            "opens_jobs of 'a/b' is neither True nor False",
        ),
        ("@hookimpl\ndef gateway_methods(): return [FormatterSpec('a', 'a/b', bytes)]", "is not a MethodSpec"),
    ],
)  # fmt: skip
def test_a_fault_names_the_plugin_and_its_file(site: Site, source: str, said: str) -> None:
    site.file("faulty", HEAD + source)
    text = site.refusal()
    assert text.startswith(f"plugin faulty ({site.directory / 'faulty.py'}): ")
    assert said in text


def test_one_module_under_two_plugin_names_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.distribution("twice", "first", FORMATTER.format(name="f", rendering=b"F", standby=False), monkeypatch)
    (entry_points,) = site._packages.glob("*/entry_points.txt")
    entry_points.write_text("[gateway]\nfirst = site_twice\nsecond = site_twice\n")
    assert "plugin second (twice 1.2): the same module" in site.refusal()


def test_a_file_that_failed_leaves_no_half_module_behind(site: Site) -> None:
    site.file("faulty", "raise RuntimeError")
    site.refusal()
    assert "gateway_plugin_file_faulty" not in sys.modules


def test_the_tables_cannot_be_changed() -> None:
    plugins = load_plugins(PluginsSettings())
    with pytest.raises(TypeError):
        plugins.formatters["json"] = plugins.formatters["xml"]  # type: ignore[index]  # that is what is tested
