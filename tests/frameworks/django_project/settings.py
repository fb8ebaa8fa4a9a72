"""The settings of a small project; a test says in the environment, or by overriding, what is special about it."""

from __future__ import annotations

import os

SECRET_KEY = "of a test"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
LANGUAGE_CODE = "en"
ROOT_URLCONF = "frameworks.django_project.urls"
WSGI_APPLICATION = "frameworks.django_project.wsgi.application"
INSTALLED_APPS = ["frameworks.django_project"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIDDLEWARE = os.environ.get("SIDECAR_TEST_MIDDLEWARE", "sidecar.django.SidecarMiddleware").split(",")
# In memory: each connection has a database of its own.
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
LOGGING_CONFIG = None
