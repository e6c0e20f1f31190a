"""Config -> Django settings. Values only; what they mean and how they are checked is in config.py."""

import os
import sys
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from pydantic import SecretStr

from exporter_site import __version__
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
from exporter_site.keys import Keys, load_keys
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


def jwt_key(config: Config, keys: Keys) -> str:
    """What tokens are signed with: web.jwt_secret_key of config.yaml, unless it is a sample value, or our own key."""
    configured = config.web.jwt_secret_key.get_secret_value()
    return keys.jwt_key if is_placeholder(configured) or len(configured) < 32 else configured


# A host that is cut off in the middle of a transaction keeps its locks until the server ends it: the others wait for them.
OPEN_TRANSACTION = 30  # seconds that a transaction may wait for its next statement
# The sessions of a host that is gone end, too: there are only so many.
POSTGRESQL_LINE = (
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 -c tcp_user_timeout=60s"
)


def database_settings(database: SystemDatabase, open_transaction: int = OPEN_TRANSACTION) -> dict[str, Any]:
    """The system database for Django. Raises ConfigError when a sample password would be used.

    `open_transaction`: the limit in seconds, 0 for none.
    """
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
            "OPTIONS": {
                "charset": "utf8mb4",
                # Gap locks of REPEATABLE READ deadlock two schedulers: 25 in a run, none with READ COMMITTED.
                "isolation_level": "read committed",
                "connect_timeout": 10,
                # What is stored is UTC; the server's own NOW() would be that of its city. The rest is for MariaDB: MySQL,
                # which has no such limit, takes it for a comment.
                "init_command": f"SET time_zone = '+00:00' /*M!100300 , idle_transaction_timeout = {open_transaction} */",
            },
        }
    return common | {
        "ENGINE": "django.db.backends.postgresql",
        "PORT": database.port or 5432,
        "OPTIONS": {
            "connect_timeout": 10,
            "options": f"-c idle_in_transaction_session_timeout={open_transaction}s {POSTGRESQL_LINE}",
        },
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
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_SSL_REDIRECT = _https
SECURE_REDIRECT_EXEMPT = [r"^healthz", r"^metrics"]  # asked by the machine itself, past the proxy
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _https else 0
# Whether other names below ours have HTTPS, and whether browsers shall know it beforehand, is not ours to say. Without
# an https:// address in web.public_url the operator has been told by exporter.W002 in one sentence, not in four.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
if not _https:
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W008", "security.W012", "security.W016"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, UNSAFE_EVAL],  # the theme's Alpine evaluates its attributes
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024  # a request's body: forms and JSON, no files
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5000  # a list page with a thousand rows ticked

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
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "csp",
    "exporter_site.apps.ExporterSiteConfig",
    "exporter_site.access",
    "datasources",
    "notifications",
    "tasks",
]
MIDDLEWARE = [
    "exporter_site.access.middleware.proxy_middleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "exporter_site.access.middleware.slash_middleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "exporter_site.access.middleware.audit_middleware",
    "exporter_site.access.middleware.password_middleware",
    "axes.middleware.AxesMiddleware",
]
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
# Ten wrong passwords for a name from an address: both must wait. Neither one address of a whole office, nor a name that
# somebody wants to lock out, is blocked alone.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_DISABLE_ACCESS_LOG = True  # our own audit has them
AXES_VERBOSE = False
AXES_ALLOWED_CORS_ORIGINS = ""
AXES_USERNAME_CALLABLE = "exporter_site.access.logins.counted_name"
AXES_LOCKOUT_CALLABLE = "exporter_site.access.logins.locked_out"
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
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {"NAME": "exporter_site.access.passwords.OwnPasswordValidator"},
]

_limit = CONFIG.web.api_requests_per_minute
REST_FRAMEWORK = {
    # The first one names the way to log in: a request without credentials is answered with 401.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "exporter_site.access.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["exporter_site.access.permissions.HasRights"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["exporter_site.rest_input.StrictJSON"],
    "URL_FORMAT_OVERRIDE": None,  # ?format=csv is a filter of tasks
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "exporter_site.rest_input.Ordering",
    ],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "exporter_site.rest.error_response",
    "DEFAULT_THROTTLE_CLASSES": [
        "exporter_site.access.permissions.PerUser",
        "exporter_site.access.permissions.PerAddress",
    ]
    if _limit
    else [],
    "NUM_PROXIES": 0,  # X-Forwarded-For has been read, where it may be believed, by proxy_middleware
    "DEFAULT_THROTTLE_RATES": {"user": f"{_limit}/min", "anon": f"{max(1, _limit // 5)}/min", "login": "30/min"},
    "COERCE_DECIMAL_TO_STRING": False,
    "UNICODE_JSON": True,
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(hours=CONFIG.web.jwt_access_token_expires_hours),
    "REFRESH_TOKEN_LIFETIME": max(timedelta(days=7), timedelta(hours=CONFIG.web.jwt_access_token_expires_hours)),
    "SIGNING_KEY": jwt_key(CONFIG, KEYS),
    "CHECK_REVOKE_TOKEN": True,  # a token dies with the password that it was made with
}
SPECTACULAR_SETTINGS = {
    "TITLE": "数据导出系统 API",
    "DESCRIPTION": "Data sources, export tasks, executions and channels. See docs/api.md.",
    "VERSION": __version__,
    "SERVE_PUBLIC": True,
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "ENUM_NAME_OVERRIDES": {
        "ExecutionStatus": "tasks.states.Status",
        "DeliveryStatus": "notifications.states.DeliveryStatus",
        "DataSourceKind": "datasources.connectors.connector_choices",
        "ChannelKind": "notifications.transports.transport_choices",
    },
}

LANGUAGES = [("zh-hans", "简体中文"), ("en", "English")]
# A browser says its own language; the command line and whatever has no browser take this one.
LANGUAGE_CODE = cli_language()
LOCALE_PATHS = [BASE_DIR / "locale"]
FORMAT_MODULE_PATH = ["exporter_site.locale_formats"]
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
    "SCRIPTS": [lambda request: static("names.js")],
    "DASHBOARD_CALLBACK": "tasks.dashboard_views.context",
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
                    _menu(_("Roles and groups"), "group", "auth_group"),
                    _menu(_("API keys"), "key", "access_apikey"),
                    _menu(_("Audit"), "policy", "access_auditevent"),
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
