"""The only reader of config.yaml and of the environment.

`load_config()` gives one frozen, validated `Config`; every other module takes the section it needs. The older
system's file loads unchanged: same sections, same keys, same defaults (`flask` is its name for `web`).
Sizes are bytes, durations are seconds.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from exporter_site.language import early_gettext as _

BASE_DIR = Path(__file__).resolve().parent.parent
ENV_PREFIX = "EXPORTER_"

# The older system's sample values. They are public, so they are no secrets and no addresses.
PLACEHOLDERS = frozenset(
    {
        "your_password",
        "your-secret-key-change-in-production",
        "YOUR_SECRET",
        "YOUR_TOKEN",
        "your_mysql_host",
        "your_adb_host",
        "your_username",
        "your_database",
        "your_warehouse",
        "your_email@example.com",
    }
)
SHORTEST_TOKEN = 16  # characters: nobody guesses that many over the network
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)B?\s*", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


# Where a key of the merged configuration was given, if not under its own name in the file: (file or variable, key).
Names = dict[tuple[str, ...], tuple[str, str]]


class ConfigError(Exception):
    """The configuration can't be used; the text says which key, what was expected and the nearest known name."""


def is_placeholder(value: str) -> bool:
    """Whether `value` is one of the older system's sample values (also inside a URL: `…access_token=YOUR_TOKEN`)."""
    return value in PLACEHOLDERS or value.endswith("=YOUR_TOKEN")


def parse_size(value: object) -> object:
    """`10MB`, `512 KB`, `1G` or a plain number of bytes, as bytes; other types go on to the type check."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None:
        raise ValueError(_("a size such as 10MB, or a number of bytes"))
    return int(float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))


def parse_list(value: object) -> object:
    """A list, or (as from the environment) a text with commas between."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(parse_list)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Seconds = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(gt=0, lt=65536)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        # YAML reads `yes` and `on` as true, and pydantic would take that for the number 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(_("a number or a text, not yes or no; put quotes around a text"))
        return value


class SystemDatabase(Section):
    type: Literal["sqlite", "mysql", "postgresql"] = "sqlite"
    sqlite_path: Path = Path("./data/system.db")
    host: str = "localhost"
    port: Port | None = None
    database: str = "data_export_system"
    username: str = ""
    password: SecretStr = SecretStr("")


class SourceConfig(Section):
    type: str
    host: str = ""
    port: Port | None = None
    database: str
    username: str = ""
    password: SecretStr = SecretStr("")
    charset: str = "utf8mb4"
    ssl_mode: str = "prefer"
    max_concurrency: int = Field(default=2, ge=1)
    description: str = ""


class Export(Section):
    temp_dir: Path = Path("./temp")
    output_dir: Path = Path("./exports")
    chunk_size: int = Field(default=10_000, ge=1)
    max_file_size: Size = 104_857_600
    memory_limit: Size = 536_870_912
    query_timeout: Seconds = 3600
    long_query_timeout: Seconds = 7200
    stall_timeout: Seconds = 300
    retention_days: int = Field(default=30, ge=1)
    min_free_disk: Annotated[int, BeforeValidator(parse_size), Field(ge=0)] = 536_870_912
    storage: Literal["local", "s3"] = "local"
    s3_bucket: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    s3_prefix: str = ""
    s3_addressing: Literal["auto", "virtual", "path"] = "auto"
    s3_redirect: bool = False

    @field_validator("s3_endpoint")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#]+/?", value):
            raise ValueError(_("an address such as https://oss-cn-hangzhou.aliyuncs.com"))
        return value

    @field_validator("s3_prefix")
    @classmethod
    def _plain_folders(cls, value: str) -> str:
        if value and not re.fullmatch(r"/?[\w-][\w.-]*(/[\w-][\w.-]*)*/?", value, re.ASCII):
            raise ValueError(_("names of folders, such as exports/production"))
        return value


class DingTalk(Section):
    webhook_url: SecretStr = SecretStr("")
    secret: SecretStr = SecretStr("")
    file_server_url: str = ""


class Email(Section):
    smtp_server: str = ""
    smtp_port: Port = 465
    username: str = ""
    password: SecretStr = SecretStr("")
    from_name: str = "数据导出系统"
    smtp_timeout: Seconds = 60
    max_attachment_size: Size = 26_214_400
    retry_attempts: int = Field(default=3, ge=0)
    retry_delay: Seconds = 30


class Notifications(Section):
    allowed_hosts: Texts = []
    private_hosts: Texts = []


class Logging(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: Literal["text", "json"] = "text"
    file: Path = Path("./logs/app.log")
    max_size: Size = 10 * 1024 * 1024
    backup_count: int = Field(default=5, ge=0)

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class Scheduler(Section):
    timezone: str = "Asia/Shanghai"
    max_workers: int = Field(default=10, ge=1)
    task_timeout: Seconds = 14_400
    long_task_timeout: Seconds = 28_800
    misfire_grace_time: Seconds = 1800
    executor: Literal["local", "inline", "celery"] = "local"
    drain_timeout: Seconds = 600

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as exc:
            raise ValueError(_("an IANA time zone such as Asia/Shanghai")) from exc
        return value


class Web(Section):
    host: str = "0.0.0.0"
    port: Port = 5001
    workers: int = Field(default=2, ge=1)
    threads: int = Field(default=4, ge=1)
    public_url: str = ""
    trusted_proxies: Texts = []
    accel_prefix: str = ""
    link_expires_hours: int = Field(default=168, ge=1)
    link_access: Literal["anyone", "login"] = "anyone"
    permanent_session_lifetime: Seconds = 3600
    send_file_max_age_default: int = Field(default=0, ge=0)
    jwt_secret_key: SecretStr = SecretStr("")
    jwt_access_token_expires_hours: int = Field(default=24, ge=1)
    api_requests_per_minute: int = Field(default=1200, ge=0)
    metrics_token: SecretStr = SecretStr("")

    @field_validator("metrics_token")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value) < SHORTEST_TOKEN:
            raise ValueError(
                _("at least {count} characters; openssl rand -hex 32 makes some").format(count=SHORTEST_TOKEN)
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        try:
            return [str(ip_network(item)) for item in value]
        except ValueError as exc:
            raise ValueError(_("addresses or networks such as 127.0.0.1 or 10.8.0.0/16")) from exc

    @field_validator("accel_prefix")
    @classmethod
    def _between_slashes(cls, value: str) -> str:
        if value and not re.fullmatch(r"/[\w./-]*/", value, re.ASCII):
            raise ValueError(_("the beginning of an address, between slashes, such as /_exports/"))
        return value


class Celery(Section):
    broker_url: SecretStr = SecretStr("")


class Config(Section):
    """The whole configuration. `flask` is read as `web`; a key given in both places is refused."""

    system_database: SystemDatabase = SystemDatabase()
    data_sources: dict[str, SourceConfig] = {}
    export: Export = Export()
    dingtalk: DingTalk = DingTalk()
    email: Email = Email()
    notifications: Notifications = Notifications()
    logging: Logging = Logging()
    scheduler: Scheduler = Scheduler()
    web: Web = Web()
    celery: Celery = Celery()

    @property
    def public_url(self) -> str:
        """Where people reach the system, without a trailing slash; empty when nobody said."""
        return (self.web.public_url or self.dingtalk.file_server_url).rstrip("/")


def resolve(path: Path) -> Path:
    """A path of config.yaml as an absolute one: relative paths start at the project's folder."""
    return path if path.is_absolute() else (BASE_DIR / path).resolve()


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """config.yaml, or the file that EXPORTER_CONFIG names."""
    return Path(environ.get("EXPORTER_CONFIG") or BASE_DIR / "config.yaml")


def load_config(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read config.yaml (or the file that EXPORTER_CONFIG names) and the environment.

    Raises ConfigError with every problem at once, one line each. A missing default file means: all defaults.
    """
    named = path is not None or bool(environ.get("EXPORTER_CONFIG"))
    file = path or config_file(environ)
    raw = _read_yaml(file, must_exist=named)
    raw = _fill_variables(raw, environ, file.name)
    names = _merge_flask(raw, file.name) | _apply_environment(raw, environ, file.name)
    try:
        return Config.model_validate(raw)
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(exc, file.name, names))) from None


def _read_yaml(file: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(_("{file} does not exist. EXPORTER_CONFIG names it.").format(file=file)) from None
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(_("{file} can't be read: {error}").format(file=file, error=exc)) from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        line = mark.line + 1 if mark else "?"
        problem = getattr(exc, "problem", "") or getattr(exc, "reason", "")
        raise ConfigError(
            _("{file}, line {line}: this is not valid YAML ({problem}).").format(
                file=file.name, line=line, problem=problem
            )
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(_("{file}: expected sections such as `export:` at the top level.").format(file=file.name))
    # A section whose keys are all commented out reads as None: it means the defaults.
    return {key: {} if value is None else value for key, value in content.items()}


def _fill_variables(value: Any, environ: Mapping[str, str], file: str, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _fill_variables(v, environ, file, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = environ.get(match[1])
        if match[2] is not None:
            found = found or match[2]  # as in a shell: an empty variable is as good as none
        if found is None:
            raise ConfigError(
                _(
                    "{file}: `{key}` needs the environment variable {name}. Set it, or write ${{{name}:-default}}."
                ).format(file=file, key=key, name=match[1])
            )
        return found

    return _VARIABLE.sub(fill, value)


def _merge_flask(raw: dict[str, Any], file: str) -> Names:
    """Read the older system's `flask` section as `web`; returns what its keys are called there."""
    flask = raw.pop("flask", {})
    web = raw.setdefault("web", {})
    for name, section in (("flask", flask), ("web", web)):
        _check_section(section, name, file)
    for key, value in flask.items():
        if key in web:
            raise ConfigError(
                _("{file}: `{key}` stands under both `web` and `flask`. Keep the one under `web`.").format(
                    file=file, key=key
                )
            )
        web[key] = value
    return {("web", key): (file, f"flask.{key}") for key in flask}


def _check_section(section: object, name: str, file: str) -> None:
    if not isinstance(section, dict):
        raise ConfigError(
            _("{file}: `{key}` has a wrong value. Expected: {expected}.").format(
                file=file, key=name, expected=_("a section with keys below it")
            )
        )


def _apply_environment(raw: dict[str, Any], environ: Mapping[str, str], file: str) -> Names:
    """Put EXPORTER_<SECTION>__<KEY> over the file; for a source EXPORTER_DATA_SOURCES__<NAME>__<KEY>.

    Returns which keys come from which variables.
    """
    names: Names = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        section, *rest = name.removeprefix(ENV_PREFIX).lower().split("__")
        section = "web" if section == "flask" else section
        expected_depth = 2 if section == "data_sources" else 1
        if len(rest) != expected_depth:
            raise ConfigError(
                _("The environment variable {name} is not of the form EXPORTER_<SECTION>__<KEY>.").format(name=name)
            )
        if section not in raw:
            names[section,] = (name, section)
        target = raw.setdefault(section, {})
        _check_section(target, section, file)
        path = [section]
        if section == "data_sources":
            # Source names keep the spelling of the file; variables are upper case.
            source = next((known for known in target if known.lower() == rest[0]), rest[0])
            target = target.setdefault(source, {})
            _check_section(target, f"{section}.{source}", file)
            path.append(source)
        target[rest[-1]] = value
        path.append(rest[-1])
        names[tuple(path)] = (name, ".".join(path))
    return names


def _explain(exc: ValidationError, config_file: str, names: Names) -> Iterator[str]:
    for error in exc.errors(include_url=False, include_input=False):
        location = [str(part) for part in error["loc"]]
        file, key = names.get(tuple(location), (config_file, ".".join(location)))
        if error["type"] == "extra_forbidden":
            near = nearest_key(location)
            hint = _(" Did you mean `{near}`?").format(near=near) if near else ""
            yield _("{file}: `{key}` is not a known key.").format(file=file, key=key) + hint
        elif error["type"] == "missing":
            yield _("{file}: `{key}` is needed.").format(file=file, key=key)
        else:
            expected = _expected(error)
            yield _("{file}: `{key}` has a wrong value. Expected: {expected}.").format(
                file=file, key=key, expected=expected
            )


def _expected(error: Any) -> str:
    """What a value should have been, in words, from pydantic's kind of error."""
    limits = error.get("ctx", {})
    kind = error["type"]
    if kind == "literal_error":
        return str(limits["expected"]).replace(" or ", ", ")
    if kind.startswith("int_"):
        return _("a whole number")
    if kind.startswith("bool_"):
        return _("true or false")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        sign = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}[kind]
        return f"{sign} {next(iter(limits.values()))}"
    if kind in ("string_type", "path_type"):
        return _("text")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return _("a section with keys below it")
    return str(error["msg"]).removeprefix("Value error, ")


def known_keys() -> dict[str, type[Section]]:
    """Every section and the model of its keys, as they are written in config.yaml."""
    sections: dict[str, type[Section]] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            sections[name] = field.annotation
    return sections | {"data_sources.<name>": SourceConfig, "flask": Web}


def nearest_key(location: list[str]) -> str:
    """The known key most like the unknown one at `location`, looked for in its own section first; "" if none is near."""
    sections = known_keys()
    if len(location) == 1:
        return next(iter(difflib.get_close_matches(location[0], [*sections, "data_sources"], n=1)), "")
    home = "data_sources.<name>" if location[0] == "data_sources" else location[0]
    prefix = ".".join(location[:-1])
    if home in sections:
        near = difflib.get_close_matches(location[-1], sections[home].model_fields, n=1)
        if near:
            return f"{prefix}.{near[0]}"
    everywhere = {f"{name}.{key}": key for name, model in sections.items() for key in model.model_fields}
    near = difflib.get_close_matches(location[-1], everywhere.values(), n=1, cutoff=0.8)
    return next((full for full, key in everywhere.items() if near and key == near[0]), "")
