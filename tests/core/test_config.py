"""config.yaml: the older system's file loads unchanged, and a mistake stops the start with a sentence."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from exporter_site.config import BASE_DIR, Config, ConfigError, Section, is_placeholder, load_config, resolve

pytestmark = pytest.mark.usefixtures("english")

OLDER_SAMPLE = """
system_database:
  type: mysql  # 可选: sqlite, mysql, postgresql
  host: localhost
  port: 3306
  database: data_export_system
  username: "root"
  password: "your_password"
  sqlite_path: "./data/system.db"

data_sources:
  mysql_prod:
    type: mysql
    host: "your_mysql_host"
    port: 3306
    database: your_database
    username: your_username
    password: "your_password"
    charset: utf8mb4
  adb_warehouse:
    type: adb
    host: "your_adb_host"
    port: 3306
    database: your_warehouse
    username: your_username
    password: "your_password"
    charset: utf8mb4

export:
  temp_dir: "./temp"
  output_dir: "./exports"
  chunk_size: 10000            # 分块处理行数：1万行
  max_file_size: 104857600
  memory_limit: 536870912
  query_timeout: 3600
  long_query_timeout: 7200

dingtalk:
  webhook_url: "https://oapi.dingtalk.com/robot/send?access_token=YOUR_TOKEN"
  secret: "YOUR_SECRET"
  file_server_url: "http://localhost:3000"

email:
  smtp_server: "smtp.exmail.qq.com"
  smtp_port: 465
  username: "your_email@example.com"
  password: "your_password"
  from_name: "数据导出系统"
  smtp_timeout: 60
  max_attachment_size: 26214400
  retry_attempts: 3
  retry_delay: 30

logging:
  level: INFO
  file: "./logs/app.log"
  max_size: "10MB"
  backup_count: 5

scheduler:
  timezone: "Asia/Shanghai"
  max_workers: 10
  task_timeout: 14400
  long_task_timeout: 28800
  misfire_grace_time: 1800

flask:
  send_file_max_age_default: 0
  permanent_session_lifetime: 3600
  jwt_secret_key: "your-secret-key-change-in-production"
  jwt_access_token_expires_hours: 24
"""
DEFAULTS: dict[str, dict[str, object]] = {
    "system_database": {"type": "sqlite", "sqlite_path": Path("data/system.db")},
    "export": {
        "temp_dir": Path("temp"),
        "output_dir": Path("exports"),
        "chunk_size": 10_000,
        "max_file_size": 104_857_600,
        "memory_limit": 536_870_912,
        "query_timeout": 3600,
        "long_query_timeout": 7200,
        "stall_timeout": 300,
        "retention_days": 30,
        "min_free_disk": 536_870_912,
    },
    "email": {
        "smtp_port": 465,
        "from_name": "数据导出系统",
        "smtp_timeout": 60,
        "max_attachment_size": 26_214_400,
        "retry_attempts": 3,
        "retry_delay": 30,
    },
    "logging": {"level": "INFO", "file": Path("logs/app.log"), "max_size": 10 * 1024 * 1024, "backup_count": 5},
    "scheduler": {
        "timezone": "Asia/Shanghai",
        "max_workers": 10,
        "task_timeout": 14_400,
        "long_task_timeout": 28_800,
        "misfire_grace_time": 1800,
        "executor": "local",
        "drain_timeout": 600,
    },
    "web": {
        "host": "0.0.0.0",
        "port": 5001,
        "link_expires_hours": 168,
        "permanent_session_lifetime": 3600,
        "send_file_max_age_default": 0,
        "jwt_access_token_expires_hours": 24,
    },
}


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, environ)


def differences(section: Section, wanted: dict[str, Any]) -> dict[str, object]:
    return {key: getattr(section, key) for key, value in wanted.items() if getattr(section, key) != value}


def test_the_older_systems_sample_loads_unchanged(tmp_path: Path) -> None:
    config = load(tmp_path, OLDER_SAMPLE)
    database = config.system_database
    assert (database.type, database.port, database.username) == ("mysql", 3306, "root")
    assert {name: source.type for name, source in config.data_sources.items()} == {
        "mysql_prod": "mysql",
        "adb_warehouse": "adb",
    }
    assert config.public_url == "http://localhost:3000"
    assert config.web.jwt_secret_key.get_secret_value() == "your-secret-key-change-in-production"
    assert not differences(config.export, DEFAULTS["export"])


@pytest.mark.parametrize("text", ["", "# nothing\n", "export:\nweb:\n", "\ufeffexport:\n"])
def test_every_key_may_be_left_out(tmp_path: Path, text: str) -> None:
    config = load(tmp_path, text)
    assert not {name: wrong for name, keys in DEFAULTS.items() if (wrong := differences(getattr(config, name), keys))}
    assert (config.data_sources, config.public_url) == ({}, "")


def test_the_sample_values_are_known_as_placeholders(tmp_path: Path) -> None:
    config = load(tmp_path, OLDER_SAMPLE)
    secrets = [
        config.system_database.password,
        config.dingtalk.webhook_url,
        config.dingtalk.secret,
        config.email.password,
        config.web.jwt_secret_key,
        *(source.password for source in config.data_sources.values()),
    ]
    assert all(is_placeholder(secret.get_secret_value()) for secret in secrets)
    assert not is_placeholder("hunter2")


def test_secrets_do_not_show_when_printed(tmp_path: Path) -> None:
    config = load(
        tmp_path, "email: {password: hunter2}\ndata_sources: {a: {type: mysql, database: x, password: hunter2}}"
    )
    assert "hunter2" not in repr(config) + str(config)
    assert isinstance(config.email.password, SecretStr)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("10MB", 10 << 20),
        ("512 KB", 512 << 10),
        ("1G", 1 << 30),
        ("1.5GB", 3 << 29),
        ("2048", 2048),
        ("7b", 7),
        ("3m", 3 << 20),
    ],
)
def test_sizes(tmp_path: Path, written: str, size: int) -> None:
    assert load(tmp_path, f"logging: {{max_size: {written}}}").logging.max_size == size


def test_variables_are_filled_in_anywhere(tmp_path: Path) -> None:
    text = "email: {smtp_server: 'smtp.${DOMAIN}', smtp_port: '${PORT:-587}', username: '${USER:-}', from_name: 'a${A:-b}c${D}'}"
    email = load(tmp_path, text, DOMAIN="example.cn", D="e").email
    assert (email.smtp_server, email.smtp_port, email.username, email.from_name) == ("smtp.example.cn", 587, "", "abce")
    assert load(tmp_path, text, DOMAIN="x", D="", PORT="25").email.smtp_port == 25
    assert load(tmp_path, text, DOMAIN="x", D="", PORT="").email.smtp_port == 587


def test_a_variables_value_is_not_read_again(tmp_path: Path) -> None:
    assert load(tmp_path, "email: {username: '${A}'}", A="${B}").email.username == "${B}"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "export: {output_dir: /a}\nflask: {jwt_secret_key: file}\ndata_sources: {Shop: {type: mysql, database: a}}",
        EXPORTER_EXPORT__OUTPUT_DIR="/b",
        EXPORTER_FLASK__PERMANENT_SESSION_LIFETIME="60",
        EXPORTER_WEB__JWT_SECRET_KEY="environment",
        EXPORTER_DATA_SOURCES__SHOP__PASSWORD="s3cret",
        EXPORTER_DATA_SOURCES__NEW__TYPE="sqlite",
        EXPORTER_DATA_SOURCES__NEW__DATABASE="/x.db",
        EXPORTER_SECRET_KEY="not a section",
        OTHER__NAME="not ours",
    )
    assert config.export.output_dir == Path("/b")
    assert config.web.permanent_session_lifetime == 60
    assert config.web.jwt_secret_key.get_secret_value() == "environment"
    assert config.data_sources["Shop"].password.get_secret_value() == "s3cret"
    assert config.data_sources["new"].database == "/x.db"


def test_the_environment_can_name_another_file(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("web: {port: 8080}")
    assert load_config(environ={"EXPORTER_CONFIG": str(file)}).web.port == 8080
    with pytest.raises(ConfigError, match=r"missing\.yaml does not exist"):
        load_config(environ={"EXPORTER_CONFIG": str(tmp_path / "missing.yaml")})
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(environ={"EXPORTER_CONFIG": str(tmp_path)})


def test_the_public_url_has_no_slash_at_its_end(tmp_path: Path) -> None:
    text = "web: {public_url: 'https://a.cn/x/'}\ndingtalk: {file_server_url: 'http://b'}"
    assert load(tmp_path, text).public_url == "https://a.cn/x"


def test_relative_paths_start_at_the_project() -> None:
    assert resolve(Path("./data/x")) == BASE_DIR / "data" / "x"
    assert resolve(Path("/data/x")) == Path("/data/x")
