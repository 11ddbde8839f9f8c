"""Who may import whom: down the layers only, without circles, and plugins only what a plugin author is promised."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A name stands for a module of the gateway or a whole package; those of one layer are strangers.
LAYERS = (
    ("__init__", "amounts", "errors", "minute", "running", "sweeping"),
    ("types",),
    ("arguments", "cache_store", "merging"),
    (
        "chat_arguments",
        "client_side",
        "credentials",
        "form_model",
        "ids",
        "json_text",
        "login_guard",
        "page_tokens",
        "request_head",
        "sse",
        "usage",
    ),
    ("assembly", "joining", "reshaping", "config_checks", "config_values", "hookspecs", "methods", "progress"),
    ("config", "slicing"),
    ("charging", "detours", "formatting", "metering", "plugin_loading", "spooling", "store", "tokens", "upstream"),
    ("accounts", "billing", "cache_key", "limits", "plain"),
    ("caching", "job_opening", "server", "settling", "translation"),
    ("fronts",),
    ("delivery", "jobs", "logs", "own_methods"),
    ("route",),
    ("app",),
    ("demo",),
    ("cli_shared",),
    ("cli_accounts", "cli_cache", "cli_calls", "cli_money"),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}

OPEN_TO_PLUGINS = {"gateway.hookspecs", "gateway.types"}
THIRD_PARTY_OF_PLUGINS = {"dicttoxml", "opencc", "orjson", "phpserialize"}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


GATEWAY = {module_name(file): file for file in sorted((ROOT / "gateway").rglob("*.py"))}
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported when the code runs, and so not those of `if TYPE_CHECKING:`."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        module = "." * tree.level + (tree.module or "")
        submodules = {name for alias in tree.names if (name := f"{module}.{alias.name}") in GATEWAY}
        yield from submodules or {module}
    for child in ast.iter_child_nodes(tree):
        yield from imports(child)


def imports_of(file: Path) -> set[str]:
    return set(imports(ast.parse(file.read_text(encoding="utf-8"))))


def unit(module: str) -> str:
    """What of LAYERS a module belongs to."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("module", GATEWAY)
def test_imports_go_down_the_layers_only(module: str) -> None:
    assert unit(module) in LAYER_OF, f"{module} has no place in LAYERS yet"
    own = LAYER_OF[unit(module)]
    for imported in imports_of(GATEWAY[module]) & GATEWAY.keys():
        if unit(imported) != unit(module):
            assert LAYER_OF[unit(imported)] < own, f"{module} imports {imported}, which is no layer below it"


def test_there_are_no_circles() -> None:
    graph = {module: imports_of(file) & GATEWAY.keys() for module, file in GATEWAY.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", GATEWAY)
def test_the_gateway_imports_no_plugin_and_nothing_relative(module: str) -> None:
    assert not [name for name in imports_of(GATEWAY[module]) if name.startswith(("gateway_plugins", "plugins", "."))]


@pytest.mark.parametrize("file", PLUGINS, ids=lambda file: file.stem)
def test_a_plugin_imports_only_what_is_open_to_any_plugin(file: Path) -> None:
    siblings = {f".{other.stem}" for other in PLUGINS}
    foreign = imports_of(file) - OPEN_TO_PLUGINS - siblings
    packages = {name.split(".")[0] for name in foreign} - sys.stdlib_module_names
    assert packages <= THIRD_PARTY_OF_PLUGINS
    assert len(packages) <= 1, "one dependency of its own"
