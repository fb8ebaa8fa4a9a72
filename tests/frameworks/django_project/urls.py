from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [path(name, getattr(views, name)) for name in views.__all__]
