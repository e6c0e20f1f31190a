"""Config -> Django settings. Values only; what they mean and how they are checked is in config.py."""

import os
import sys
from typing import Any
from urllib.parse import urlsplit

import environ
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from pydantic import SecretStr

from exporter_site.config import (
    BASE_DIR,
    Config,
    ConfigError,
    Section,
    SystemDatabase,
    is_placeholder,
    load_config,
    resolve,
)
from exporter_site.keys import load_keys
from exporter_site.language import cli_language, early_gettext
from exporter_site.logs import logging_settings, redacting_excepthook
from exporter_site.redact import remember_secret

os.umask(0o077)  # Exports, logs and the database hold other people's data.
environ.Env.read_env(BASE_DIR / ".env")


def remember_config_secrets(section: Section) -> None:
    """Mask every secret of the configuration in logs and stored errors."""
    for value in dict(section).values():
        if isinstance(value, SecretStr):
            remember_secret(value.get_secret_value())
        elif isinstance(value, Section):
            remember_config_secrets(value)
        elif isinstance(value, dict):
            for item in value.values():
                remember_config_secrets(item)


def database_settings(database: SystemDatabase) -> dict[str, Any]:
    """The system database for Django. Raises ConfigError when a sample password would be used."""
    if database.type == "sqlite":
        file = resolve(database.sqlite_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": file,
            # 8 writers: 80,490 lock errors with the defaults, none with these three.
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    password = database.password.get_secret_value()
    if is_placeholder(password):
        raise ConfigError(
            early_gettext(
                "config.yaml: `system_database.password` still has its sample value. Put the real password there, or in EXPORTER_SYSTEM_DATABASE__PASSWORD."
            )
        )
    common = {
        "NAME": database.database,
        "HOST": database.host,
        "USER": database.username,
        "PASSWORD": password,
        "CONN_HEALTH_CHECKS": True,
    }
    if database.type == "mysql":
        # libmysqlclient takes "localhost" for a socket and forgets the port.
        host = "127.0.0.1" if database.host == "localhost" else database.host
        return common | {
            "ENGINE": "django.db.backends.mysql",
            "HOST": host,
            "PORT": database.port or 3306,
            # Gap locks of REPEATABLE READ deadlock two schedulers: 25 in a run, none with READ COMMITTED.
            "OPTIONS": {"charset": "utf8mb4", "isolation_level": "read committed", "connect_timeout": 10},
        }
    return common | {
        "ENGINE": "django.db.backends.postgresql",
        "PORT": database.port or 5432,
        "OPTIONS": {"connect_timeout": 10},
    }


try:
    CONFIG: Config = load_config()
    KEYS = load_keys()
    DATABASES = {"default": database_settings(CONFIG.system_database)}
except ConfigError as exc:
    sys.exit(str(exc))  # To stderr, exit code 1: no traceback for a typing mistake.
remember_config_secrets(CONFIG)

DEBUG = os.environ.get("EXPORTER_DEBUG", "") == "1"
SECRET_KEY = KEYS.secret_key
FERNET_KEYS = list(KEYS.encryption_keys)
for _key in (KEYS.secret_key, KEYS.jwt_key, *KEYS.encryption_keys):
    remember_secret(_key)

_public = urlsplit(CONFIG.public_url)
_https = _public.scheme == "https"
ALLOWED_HOSTS = [_public.hostname, "localhost", "127.0.0.1", "[::1]"] if _public.hostname else ["*"]
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"] if _public.hostname else []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_AGE = CONFIG.web.permanent_session_lifetime
SESSION_SAVE_EVERY_REQUEST = True  # An hour without a click, not an hour after login.
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # before the admin: its templates replace the admin's
    "exporter_site.apps.AdminConfig",
    "unfold.contrib.filters",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "exporter_site.apps.ExporterSiteConfig",
    "datasources",
    "notifications",
    "tasks",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "tasks.context.system_banner",
            ]
        },
    }
]
ROOT_URLCONF = "exporter_site.urls"
WSGI_APPLICATION = "exporter_site.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGES = [("zh-hans", "简体中文"), ("en", "English")]
# A browser says its own language; the command line and whatever has no browser take this one.
LANGUAGE_CODE = cli_language()
LOCALE_PATHS = [BASE_DIR / "locale"]
TIME_ZONE = CONFIG.scheduler.timezone
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_MAX_AGE = CONFIG.web.send_file_max_age_default
# Without collectstatic (tests, a first look) the files are served from where they lie.
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not STATIC_ROOT.is_dir()

LOGGING = logging_settings(CONFIG.logging)
sys.excepthook = redacting_excepthook


def _menu(title: Promise, icon: str, model: str) -> dict[str, Any]:
    app, _underscore, name = model.partition("_")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{name}"),
    }


UNFOLD = {
    "SITE_TITLE": _("Data Export System"),
    "SITE_HEADER": _("Data Export System"),
    "SITE_SYMBOL": "table_view",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_LANGUAGES": True,
    "STYLES": [lambda request: static("exporter.css")],
    "SIDEBAR": {
        "navigation": [
            {
                "title": _("Exports"),
                "items": [
                    _menu(_("Export tasks"), "task", "tasks_exporttask"),
                    _menu(_("Executions"), "history", "tasks_execution"),
                    _menu(_("Data sources"), "database", "datasources_datasource"),
                    _menu(_("Schedulers"), "schedule", "tasks_schedulerprocess"),
                    _menu(_("Pauses"), "pause_circle", "tasks_pause"),
                ],
            },
            {
                "title": _("Notifications"),
                "items": [
                    _menu(_("Channels"), "campaign", "notifications_channel"),
                    _menu(_("Rules"), "rule", "notifications_notificationrule"),
                    _menu(_("Deliveries"), "outgoing_mail", "notifications_delivery"),
                    _menu(_("Downloads"), "download", "tasks_download"),
                ],
            },
            {
                "title": _("Access"),
                "items": [
                    _menu(_("Users"), "person", "auth_user"),
                    _menu(_("Groups"), "group", "auth_group"),
                ],
            },
        ]
    },
}

# The line of the crontab (manage.py crontab): once a minute, see that the scheduler lives. Two installations of one user
# are told apart by the comment.
CRONJOBS = [("* * * * *", "tasks.watchdog.watch")]
CRONTAB_EXECUTABLE = "/usr/bin/crontab"
CRONTAB_COMMENT = f"data export system in {BASE_DIR}"
CRONTAB_DJANGO_MANAGE_PATH = str(BASE_DIR / "manage.py")
CRONTAB_COMMAND_SUFFIX = ">/dev/null 2>&1"
