"""Settings of the site. Every name starting with ``MH_`` is documented in docs/reference/settings.md."""

import socket
import sys
from datetime import timedelta
from pathlib import Path

import structlog
from django.templatetags.static import static

from accounts.masking import mask_event, mask_line
from mhsite import home
from mhsite.environment import Environment

env = Environment()

BASE_DIR = home.REPOSITORY
MH_HOME: Path = home.home()
MH_CACHE: Path = home.cache()
MH_HOST: str = env.str("MH_HOST", "127.0.0.1")
MH_PORT: int = env.int("MH_PORT", 8080)
MH_NODE: str = env.str("MH_NODE", socket.gethostname() or "local")
MH_ASGI: str = env.str("MH_ASGI", "uvicorn")
MH_ENGINES_ON_EXIT: str = env.str("MH_ENGINES_ON_EXIT", "stop")
MH_DEMO: bool = env.bool("MH_DEMO", True)
#: Largest request body the site reads, in bytes; above it the answer is 413.
#: Longest time in seconds that a request waits for an engine to start or switch, and how many may wait.
MH_HOLD_SECONDS: int = env.int("MH_HOLD_SECONDS", 600)
MH_FIRST_TOKEN_SECONDS: float = env.float("MH_FIRST_TOKEN_SECONDS", 600)
MH_ANSWER_SECONDS: float = env.float("MH_ANSWER_SECONDS", 3600)
MH_STREAM_TURN_MS: int = env.int("MH_STREAM_TURN_MS", 15)
MH_BREAKER_FAILURES: int = env.int("MH_BREAKER_FAILURES", 5)
MH_HOLD_REQUESTS: int = env.int("MH_HOLD_REQUESTS", 1000)
MH_MAX_BODY_BYTES: int = env.int("MH_MAX_BODY_BYTES", 20 * 1024 * 1024)
MH_IMAGE_MAX_BYTES: int = env.int("MH_IMAGE_MAX_BYTES", 10 * 1024 * 1024)
MH_IMAGES_MAX: int = env.int("MH_IMAGES_MAX", 16)
MH_IMAGE_URLS: bool = env.bool("MH_IMAGE_URLS", False)
#: Days for which what each request cost is kept; 0 keeps it for ever.
MH_USAGE_DAYS: int = env.int("MH_USAGE_DAYS", 400)
#: What a user may use of whom nothing else was said; 0 is as much as they like.
MH_QUOTA_REQUESTS_PER_MINUTE: int = env.int("MH_QUOTA_REQUESTS_PER_MINUTE", 0)
MH_QUOTA_TOKENS_PER_DAY: int = env.int("MH_QUOTA_TOKENS_PER_DAY", 0)
MH_QUOTA_TOKENS_PER_MONTH: int = env.int("MH_QUOTA_TOKENS_PER_MONTH", 0)
MH_MODELS_DIRS: list[str] = env.list("MH_MODELS_DIRS", default=[])

SECRET_KEY = home.secret_key()
DEBUG = env.bool("MH_DEBUG", False)
MH_HTTPS: bool = env.bool("MH_HTTPS", False)

ALLOWED_HOSTS = env.list("MH_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", MH_HOST])
CSRF_TRUSTED_ORIGINS = env.list("MH_CSRF_TRUSTED_ORIGINS", default=[])
MH_CORS_ORIGINS = env.list("MH_CORS_ORIGINS", default=[])

INSTALLED_APPS = [
    # Daphne serves ``manage.py runserver``; importing it costs every other process a quarter more.
    *(["daphne"] if "runserver" in sys.argv else []),
    "unfold.apps.BasicAppConfig",
    "mhsite.admin_config.MhAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_structlog",
    "accounts",
    "audit",
    "backends",
    "router",
    "mhsite",
]

MIDDLEWARE = [
    "mhsite.middleware.request_context",
    "mhsite.middleware.errors_as_json",
    "mhsite.middleware.cors",
    "mhsite.middleware.SecurityMiddleware",
    "mhsite.middleware.StaticFilesMiddleware",
    "mhsite.middleware.SessionMiddleware",
    "mhsite.middleware.CommonMiddleware",
    "mhsite.middleware.TokenAwareCsrfMiddleware",
    "mhsite.middleware.AuthenticationMiddleware",
    "mhsite.middleware.MessageMiddleware",
    "mhsite.middleware.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "mhsite.urls"
ASGI_APPLICATION = "mhsite.asgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # Before those of the theme: ours replace some of its.
        "DIRS": [BASE_DIR / "mhsite" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {"default": env.database("DATABASE_URL", f"sqlite:///{MH_HOME}/mh.sqlite3")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Web and worker write at once: take the write lock at BEGIN, and wait for it instead of failing.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
    }
    # Tests use a file too: threads and processes share it, as they share the real one.
    DATABASES["default"]["TEST"] = {"NAME": str(MH_HOME / "test.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

#: Empty means the embedded Valkey on its unix socket.
REDIS_URL: str = env.redis("REDIS_URL", f"unix://{home.broker_socket()}")
MH_REDIS_EMBEDDED: bool = not env.str("REDIS_URL", "")

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL}], "prefix": "mh"},
    }
}

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 2, "max_retries": 1}
CELERY_TASK_DEFAULT_QUEUE = f"gpu.{MH_NODE}"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

AUTH_USER_MODEL = "accounts.User"
KNOX_TOKEN_MODEL = "accounts.Token"  # noqa: S105 - a model's name
REST_KNOX = {
    "TOKEN_TTL": timedelta(days=365),
    "AUTH_HEADER_PREFIX": "Bearer",
    "TOKEN_PREFIX": "mh_",
    "AUTO_REFRESH": False,
}
AUTHENTICATION_BACKENDS = [
    "accounts.logins.LoginThrottle",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "admin:login"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.BearerAuthentication",
        "accounts.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_METADATA_CLASS": "accounts.metadata.Methods",
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "mhsite.middleware.rest_exception",
    "URL_FORMAT_OVERRIDE": None,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "mh",
    "DESCRIPTION": "A switchboard for the LLM engines on your own GPU machine.",
    "VERSION": "0.1.0",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "mhsite.openapi.complete",
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = MH_HOME / "static"
WHITENOISE_USE_FINDERS = True

# Security: loopback and plain HTTP by default; MH_HTTPS=1 behind a TLS proxy turns on the rest.
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = MH_HTTPS
CSRF_COOKIE_SECURE = MH_HTTPS
CSRF_FAILURE_VIEW = "mhsite.middleware.csrf_failure"
SECURE_SSL_REDIRECT = MH_HTTPS
SECURE_HSTS_SECONDS = 31536000 if MH_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = MH_HTTPS
SECURE_HSTS_PRELOAD = MH_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if MH_HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
#: Of every page: no script stands in one, and none is made of a text. Images of a chat are data; the theme's
#: lists and the API's documentation bring styles of their own.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# These look for Django's own three middleware by name; ours are subclasses of them.
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003"]
DATA_UPLOAD_MAX_MEMORY_SIZE = MH_MAX_BODY_BYTES

MH_LOG_JSON: bool = env.bool("MH_LOG_JSON", False)
_SHARED_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    mask_event,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "default": {
            "()": structlog.stdlib.ProcessorFormatter,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(
                    [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
                    if MH_LOG_JSON
                    else [
                        # Plain: the default prints the variables of every frame, secrets too.
                        structlog.dev.ConsoleRenderer(
                            colors=False, exception_formatter=structlog.dev.plain_traceback
                        )
                    ]
                ),
                mask_line,
            ],
            "foreign_pre_chain": _SHARED_PROCESSORS,
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "default"}},
    "root": {"handlers": ["console"], "level": env.str("MH_LOG_LEVEL", "INFO")},
    "loggers": {"httpx": {"level": "WARNING"}, "django.channels.server": {"level": "WARNING"}},
}
structlog.configure(
    processors=[*_SHARED_PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)


UNFOLD = {
    "SITE_TITLE": "mh",
    "SITE_HEADER": "mh",
    "SITE_SUBHEADER": "LLM switchboard",
    "SITE_SYMBOL": "alt_route",
    "SITE_URL": None,
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("mh/icon.svg")}
    ],
    "STYLES": [lambda _request: static("mh/site.css")],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": "mhsite.pages.sidebar",
    },
}
