"""The configuration loader: what the file and the environment say, and how it says what is wrong with them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from gateway.config import AliasSettings, PriceSettings, Settings, UpstreamSettings, api_key, load_settings, store_path
from gateway.config_values import key_types
from gateway.errors import ConfigurationError

CONF = Path(__file__).parent.parent / "conf"
KEYS = [
    (section, key)
    for section, type_ in key_types(Settings).items()
    if section not in {"price", "alias"}
    for key in key_types(UpstreamSettings if section == "upstream" else type_)
]


def written(directory: Path, toml: str) -> Path:
    file = directory / "gateway.toml"
    file.write_text(toml, encoding="utf-8")
    return file


def refusal(path: Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ or {})
    return str(caught.value)


def test_the_documented_file_says_the_defaults(tmp_path: Path) -> None:
    documented = written(tmp_path, (CONF / "gateway.toml").read_text(encoding="utf-8"))
    settings = load_settings(documented, {})
    empty = tmp_path / "empty.toml"
    empty.touch()
    assert settings == load_settings(empty, {})


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_is_documented_with_its_environment_name(section: str, key: str) -> None:
    text = (CONF / "gateway.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)[section]
    assert key in (table[0] if section == "upstream" else table)
    assert f"GATEWAY_{section}__{key}".upper() in text.replace(":", " ").replace(",", " ").split()


def test_the_example_of_a_price_has_every_key_and_its_bounds_defaults() -> None:
    text = (CONF / "gateway.toml").read_text(encoding="utf-8")
    example = re.search(r"(?m)^# \[\[price\]\]\n(?:# \w.*\n)+", text)
    assert example is not None
    (price,) = tomllib.loads(re.sub(r"(?m)^# ", "", example[0]))["price"]
    assert price.keys() == key_types(PriceSettings).keys()
    defaults = PriceSettings()
    assert all(price[key] == getattr(defaults, key) for key in price if key.startswith("max_") or key == "list")


def test_the_example_of_an_alias_has_every_key() -> None:
    text = (CONF / "gateway.toml").read_text(encoding="utf-8")
    example = re.search(r"(?m)^# \[\[alias\]\]\n(?:# \w.*\n)+", text)
    assert example is not None
    (alias,) = tomllib.loads(re.sub(r"(?m)^# ", "", example[0]))["alias"]
    assert alias.keys() == key_types(AliasSettings).keys()


def test_the_minimal_file_loads() -> None:
    settings = load_settings(CONF / "minimal.toml", {})
    assert settings.defaults.model == {"v1/chat/completions": "gpt-4o-mini"}
    assert api_key(settings.upstream[0], {"OPENAI_API_KEY": "sk-x"}) == "sk-x"


def test_without_a_file_the_store_is_in_the_users_data_directory() -> None:
    assert store_path(load_settings(None, {"HOME": "/home/x"})) == Path("/home/x/.local/share/gateway/gateway.db")
    settings = load_settings(None, {"XDG_DATA_HOME": "/data", "HOME": "/home/x"})
    assert store_path(settings) == Path("/data/gateway/gateway.db")


def test_a_relative_xdg_directory_is_ignored_as_its_specification_says() -> None:
    settings = load_settings(None, {"XDG_DATA_HOME": "data", "HOME": "/home/x"})
    assert store_path(settings) == Path("/home/x/.local/share/gateway/gateway.db")


def test_without_an_upstream_the_sdks_variables_name_one() -> None:
    (upstream,) = load_settings(None, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1/"}).upstream
    assert upstream == UpstreamSettings(base_url="http://127.0.0.1:9/v1", api_key_env="OPENAI_API_KEY")


def test_an_upstream_of_the_file_is_not_touched_by_the_sdks_variables(tmp_path: Path) -> None:
    file = written(tmp_path, '[[upstream]]\nbase_url = "http://localhost/v1"')
    (upstream,) = load_settings(file, {"OPENAI_BASE_URL": "http://other/v1"}).upstream
    assert upstream.base_url == "http://localhost/v1"
    assert api_key(upstream, {"OPENAI_API_KEY": "sk-x"}) == ""


def test_a_key_file_in_the_environment_takes_the_place_of_the_implied_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    (upstream,) = load_settings(None, {"GATEWAY_UPSTREAM__API_KEY_FILE": str(tmp_path / "key")}).upstream
    assert api_key(upstream, {"OPENAI_API_KEY": "sk-x"}) == "sk-from-file"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, '[server]\nport = 1\nhost = "0.0.0.0"\n[[upstream]]\nname = "a"\n[[upstream]]\nname = "b"')
    settings = load_settings(
        file,
        {
            "GATEWAY_CONFIG": "elsewhere",
            "GATEWAY_SERVER__PORT": "9000",
            "GATEWAY_SERVER__DRAIN_S": "2.5",
            "GATEWAY_SERVER__CORS_ORIGINS": "https://a.example, http://localhost:3000",
            "GATEWAY_DEFAULTS__MODEL": '{"v1/completions": "m"}',
            "GATEWAY_PLUGINS__FORMATTERS": '{xml = "xml_dicttoxml"}',
            "GATEWAY_METHODS__CLOSED": "",
            "GATEWAY_UPSTREAM__NAME": "first",
        },
    )
    assert (settings.server.port, settings.server.host, settings.server.drain_s) == (9000, "0.0.0.0", 2.5)
    assert settings.server.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.defaults.model == {"v1/completions": "m"}
    assert settings.plugins.formatters == {"xml": "xml_dicttoxml"}
    assert settings.methods.closed == ()
    assert [upstream.name for upstream in settings.upstream] == ["first", "b"]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    written(
        tmp_path / "conf",
        '[store]\nurl = "sqlite:///db/g.db"\npepper_file = "pepper"\n[plugins]\ndirectory = "../plugins"\n'
        '[[upstream]]\napi_key_file = "key"\nca_file = "/etc/ca.pem"',
    )
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("conf/gateway.toml"), {})
    assert store_path(settings) == tmp_path / "conf/db/g.db"
    assert settings.store.pepper_file == str(tmp_path / "conf/pepper")
    assert Path(settings.plugins.directory) == tmp_path / "conf/../plugins"
    assert settings.upstream[0].api_key_file == str(tmp_path / "conf/key")
    assert settings.upstream[0].ca_file == "/etc/ca.pem"


def test_an_absolute_store_has_four_slashes(tmp_path: Path) -> None:
    file = written(tmp_path, '[store]\nurl = "sqlite:////var/lib/gateway/g.db"')
    assert store_path(load_settings(file, {})) == Path("/var/lib/gateway/g.db")


def test_a_byte_order_mark_and_crlf_are_tolerated(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load_settings(file, {}).server.port == 1


@pytest.mark.parametrize(
    ("toml", "key", "said"),
    [
        ("[server]\nprot = 1", "server.prot", "did you mean port?"),
        ("[sevrer]\nport = 1", "sevrer", "did you mean server?"),
        ("[[cost]]\nmethod = 'x'", "cost", "unknown section"),
        ("port = 1", "port", "unknown section"),
        ("server = 1", "server", "written [server]"),
        ("[upstream]\nname = 'a'", "upstream", "[[upstream]]"),
        ("upstream = []", "upstream", "[[upstream]]"),
        ("[server]\nport = '80'", "server.port", "expected a whole number from 0 to 65535, found '80'"),
        ("[server]\nport = 70000", "server.port", "found '70000'"),
        ("[server]\nport = true", "server.port", "found 'True'"),
        ("[server]\nhost = ''", "server.host", "a text that is not empty"),
        ("[server]\ndrain_s = nan", "server.drain_s", "a number from 0"),
        ("[server]\ndrain_s = inf", "server.drain_s", "to 31536000"),
        ("[server]\nbody_timeout_s = 0", "server.body_timeout_s", "a number above 0"),
        ("[server]\nmax_json_bytes = 0", "server.max_json_bytes", "a whole number from 1"),
        ("[server]\ncors_origins = '*'", "server.cors_origins", "a list of texts"),
        ("[server]\ncors_origins = ['https://a.example/']", "server.cors_origins", "no path"),
        ("[server]\ncors_origins = ['null']", "server.cors_origins", "found 'null'"),
        ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies", "has host bits set"),
        ("[defaults]\nmodel = {a = 1}", "defaults.model", "a table of texts"),
        ("[defaults]\ntimezone = 'Asia/Shangai'", "defaults.timezone", "did you mean Asia/Shanghai?"),
        ("[defaults]\ntimezone = '../x'", "defaults.timezone", "no time zone"),
        ("[defaults]\ntimezone = 'America'", "defaults.timezone", "no time zone"),
        ("[log]\nlevel = 'loud'", "log.level", 'one of "debug", "info", "warning", "error", found \'loud\''),
        ("[log]\naccess = 'some'", "log.access", 'one of "all", "errors", "off"'),
        ("[shared]\nurl = 'redis://h'", "shared.url", "redis: is not supported yet"),
        ("[store]\nurl = 'postgresql://h/d'", "store.url", "postgresql: is not supported yet"),
        ("[store]\nurl = 'sqlite://g.db'", "store.url", "sqlite:///FILE"),
        ("[store]\nurl = 'sqlite:///:memory:'", "store.url", "sqlite:///FILE"),
        ("[store]\nurl = 'sqlite:///g.db?mode=ro'", "store.url", "sqlite:///FILE"),
        ('[store]\npepper_file = "a\\u0000b"', "store.pepper_file", "control characters"),
        ("[[upstream]]\n[[upstream]]", "upstream[1].name", "another upstream is named 'openai' too"),
        ("[[price]]\nper_call = '-1'", "price[0].per_call", "is not an amount"),
        ("[[price]]\nper_call = 0.1", "price[0].per_call", "expected a text"),
        ("[[price]]\nper_1k_prompt = '0.0000001'", "price[0].per_1k_prompt", "at most six decimals"),
        ("[[price]]\nper_token = '1'", "price[0].per_token", "did you mean"),
        ("[price]\nper_call = '1'", "price", "[[price]]"),
        ("[alias]\nmodel = 'a'", "alias", "[[alias]]"),
        ("[[alias]]\nmodel = ''", "alias[0].model", "not empty"),
        ("[[alias]]\nas = 'a'", "alias[0].as", "known: method, model, to, upstream"),
        ("[[alias]]\nupstream = 'other'", "alias[0].upstream", "no upstream is named 'other'"),
        ("[jobs]\nurl = 'http://127.0.0.1:8090'", "jobs.url", 'counts only with backend = "midjourney"'),
        ("[jobs]\nkeep_days = 0.5", "jobs.keep_days", "expected at least link_hours"),
        ("[methods]\nthrough_chat = ['v1/embeddings']", "methods.through_chat", "v1/completions, v1/edits"),
        ("[methods]\nthrough_chat = 'v1/edits'", "methods.through_chat", "a list of texts"),
        ("[charging]\ncharged = ['4001']", "charging.charged", "is not one of 0000, 2000"),
        ("[charging]\nunpriced = 'maybe'", "charging.unpriced", 'one of "refused", "free"'),
        ("[[upstream]]\nask_usage = 1", "upstream[0].ask_usage", "true or false"),
        ("[[upstream]]\nname = 'a b'", "upstream[0].name", "letters"),
        ("[[upstream]]\napi_key = 'x'", "upstream[0].api_key", "did you mean api_key_env?"),
        ("[[upstream]]\napi_key_env = 'A'\napi_key_file = 'b'", "upstream[0].api_key_file", "one of them"),
        ("[[upstream]]\npass_headers = ['X Y']", "upstream[0].pass_headers", "is not a header's name"),
        ("[[upstream]]\npass_headers = ['Authorization']", "upstream[0].pass_headers", "never passed on"),
        ("[[upstream]]\nbase_url = 'ftp://h'", "upstream[0].base_url", "http://HOST"),
        ("[[upstream]]\nbase_url = 'https:///v1'", "upstream[0].base_url", "http://HOST"),
        ("[[upstream]]\nbase_url = 'https://h:x/v1'", "upstream[0].base_url", "http://HOST"),
        ("[[upstream]]\nbase_url = 'https://[::1/v1'", "upstream[0].base_url", "http://HOST"),
        ("[[upstream]]\nbase_url = 'https://h/v1?'", "upstream[0].base_url", "no query"),
        ('[[upstream]]\nbase_url = "https://h/\\n"', "upstream[0].base_url", "printable ASCII"),
    ],
)
def test_a_fault_names_file_and_key_and_what_is_allowed(tmp_path: Path, toml: str, key: str, said: str) -> None:
    file = written(tmp_path, toml)
    text = refusal(file)
    assert text.startswith(f"{file}: {key}: ")
    assert said in text


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "[sevrer]\nport = 1\n[server]\nprot = 1\nport = 70000\ndrain_s = 'long'\ncors_origins = ['null', '*', 'a']\n"
        "[store]\nurl = 'mysql://h'\n[log]\nlevel = 'loud'\n[defaults]\ntimezone = 'Mars'\n"
        "[[upstream]]\nname = 'a'\n[[upstream]]\nname = 'a'\nbase_url = 'h'\napi_key_env = 'K'\napi_key_file = 'k'\n",
    )
    lines = refusal(file, {"GATEWAY_FORMATS__THREADS": "0", "GATEWAY_LGO__LEVEL": "info"}).splitlines()
    assert sorted(line.removeprefix(f"{file}: ").partition(": ")[0] for line in lines) == [
        "GATEWAY_FORMATS__THREADS", "defaults.timezone", "environment", "log.level", "server.cors_origins",
        "server.cors_origins", "server.drain_s", "server.port", "server.prot", "sevrer", "store.url",
        "upstream[1].api_key_file", "upstream[1].base_url", "upstream[1].name",
    ]  # fmt: skip


def test_a_faulty_values_default_is_not_taken_for_what_was_written(tmp_path: Path) -> None:
    """The second upstream's default name is the first one's."""
    text = refusal(written(tmp_path, "[[upstream]]\n[[upstream]]\nname = 1"))
    assert text.splitlines() == [f"{tmp_path}/gateway.toml: upstream[1].name: expected a text, found '1'"]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GATEWAY_SERVER__PORT", "http", "server.port: expected a whole number from 0 to 65535, found 'http'"),
        ("GATEWAY_SERVER__PORT", "", "server.port"),
        ("GATEWAY_SERVER__DRAIN_S", "nan", "server.drain_s"),
        ("GATEWAY_LOG__LEVEL", "INFO", 'log.level: expected one of "debug"'),
        ("GATEWAY_DEFAULTS__MODEL", "gpt", "defaults.model: expected a table"),
        ("GATEWAY_DEFAULTS__MODEL", '{"a": 1}', "defaults.model: expected a table of texts"),
        ("GATEWAY_DEFAULTS__TIMEZONE", "Mars", "defaults.timezone: no time zone"),
        ("GATEWAY_SERVER_PORT", "1", "unknown name; did you mean GATEWAY_SERVER__PORT?"),
        ("GATEWAY_PORT", "9000", "unknown name; did you mean GATEWAY_SERVER__PORT?"),
        ("GATEWAY_PORT_8080", "x", "unknown name"),
        ("GATEWAY_PORT_8080_TCP_HOST", "x", "unknown name"),
        ("GATEWAY_SERVICE", "x", "unknown name"),
        ("GATEWAY_SERVICE__PORT", "80", "unknown name; did you mean GATEWAY_SERVER__PORT?"),
        ("GATEWAY_SERVICE_PORT__HTTP", "80", "unknown name"),
        ("GATEWAY_UPSTREAM__API_KEY", "sk-x", "did you mean GATEWAY_UPSTREAM__API_KEY_ENV?"),
        ("OPENAI_BASE_URL", "h/v1", "upstream[0].base_url: expected http://HOST"),
    ],
)
def test_a_fault_of_the_environment_names_the_variable(variable: str, value: str, said: str) -> None:
    text = refusal(None, {"HOME": "/home/x", variable: value})
    assert variable in text
    assert said in text


def test_what_kubernetes_sets_for_a_service_named_gateway_is_passed_over() -> None:
    kubernetes = {
        "GATEWAY_SERVICE_HOST": "10.0.0.11",
        "GATEWAY_SERVICE_PORT": "8080",
        "GATEWAY_SERVICE_PORT_HTTP": "8080",
        "GATEWAY_SERVICE_PORT_METRICS_2": "9090",
        "GATEWAY_PORT": "tcp://10.0.0.11:8080",
        "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.11:8080",
        "GATEWAY_PORT_8080_TCP_PROTO": "tcp",
        "GATEWAY_PORT_8080_TCP_PORT": "8080",
        "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.11",
        "GATEWAY_PORT_53_UDP": "udp://10.0.0.11:53",
    }
    home = {"HOME": "/home/x"}
    assert load_settings(None, home | kubernetes) == load_settings(None, home)


def test_a_variable_that_the_configuration_names_is_not_unknown() -> None:
    load_settings(
        None,
        {
            "HOME": "/home/x",
            "GATEWAY_STORE__PEPPER_ENV": "GATEWAY_PEPPER",
            "GATEWAY_PEPPER": "0",
            "GATEWAY_UPSTREAM__API_KEY_ENV": "GATEWAY_OPENAI_KEY",
            "GATEWAY_OPENAI_KEY": "sk-x",
        },
    )


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = = 1\n")
    text = refusal(file)
    assert text.startswith(f"{file}: is not valid TOML: ")
    assert "line 2" in text


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 10_000, b"a = " + b"9" * 5_000])
def test_a_file_that_is_no_toml_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(content)
    assert str(file) in refusal(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert "No such file" in refusal(tmp_path / "absent.toml")


CANARY = "sk-canary-0123456789"


@pytest.mark.parametrize(
    "toml",
    [
        f"[[upstream]]\napi_key = '{CANARY}'",
        f"[[upstream]]\napi_key_env = '{CANARY}'",
        f"[[upstream]]\napi_key_env = ['{CANARY}']",
        f"[[upstream]]\nbase_url = 'https://user:{CANARY}@host/v1'",
        f"[[upstream]]\nbase_url = ['https://user:{CANARY}@host/v1']",
        f"[[upstream]]\nbase_url = 'https://host/v1?key={CANARY}'",
        f"[store]\nurl = 'postgresql://user:{CANARY}@host/db'",
        f"[store]\npepper_env = '{CANARY}'",
        f"[store]\npepper = '{CANARY}'",
        f"[shared]\nurl = 'redis://:{CANARY}@host'",
        f"upstream = '{CANARY}'",
        f"[secret]\nx = '{CANARY}'",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, toml: str) -> None:
    file = written(tmp_path, toml)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, {})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("value", ["", f"{CANARY} ", f"{CANARY}\r\nX: y", "ключ"])
def test_an_unusable_api_key_is_refused_by_its_variables_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"upstream openai: .*variable OPENAI_API_KEY ") as caught:
        api_key(UpstreamSettings(api_key_env="OPENAI_API_KEY"), {"OPENAI_API_KEY": value})
    assert CANARY not in str(caught.value)


def test_a_missing_or_empty_key_file_is_refused_by_its_name(tmp_path: Path) -> None:
    upstream = UpstreamSettings(api_key_file=str(tmp_path / "key"))
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        api_key(upstream, {})
    (tmp_path / "key").write_bytes(b"\n")
    with pytest.raises(ConfigurationError, match=r"no API key: the file .*key is not set or empty"):
        api_key(upstream, {})


def test_settings_are_frozen() -> None:
    settings = load_settings(None, {"HOME": "/home/x"})
    with pytest.raises(AttributeError):
        settings.server.port = 1  # type: ignore[misc]  # that is what is tested
    assert msgspec.structs.replace(settings.server, port=1).port == 1
