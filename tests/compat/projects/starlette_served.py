"""Starlette's own tests, each application served as one of WSGI, and that as one of ASGI: through both adapters.

``compat/inside/through_wsgi.py`` puts them in between; nothing of Starlette's is redirected.
"""

from compat.project import Excluded, Project
from compat.projects.starlette_portal import PROJECT as PORTAL

TRIO = "each test runs on asyncio and on Trio, whose loop is another than asyncio's"
# An error after a whole response is logged: the server of WSGI has been told that all is well.
LATE = (
    "tests/middleware/test_base.py::test_custom_middleware",
    "tests/middleware/test_base.py::test_error_context_propagation",
    "tests/middleware/test_base.py::test_run_background_tasks_raise_exceptions",
    "tests/middleware/test_errors.py::test_background_task",
    "tests/middleware/test_errors.py::test_debug_after_response_sent",
    "tests/middleware/test_wsgi.py::test_wsgi_exc_info",
    "tests/test_background.py::test_multi_tasks_failure_avoids_next_execution",
    "tests/test_exceptions.py::test_handled_exc_after_response",
    "tests/test_routing.py::test_exception_on_mounted_apps",
)
# There the client's own lifespan gives the scope its state, which no environ has.
STATE = (
    "tests/test_applications.py::test_request_state",
    "tests/test_routing.py::test_lifespan_state_async_cm",
)
EXTENSIONS = (
    "tests/middleware/test_gzip.py::test_gzip_excluded_content_type_trailers",
    "tests/middleware/test_gzip.py::test_gzip_trailers",
    "tests/test_requests.py::test_request_send_push_promise",
    "tests/test_templates.py::test_calls_context_processors",
    "tests/test_templates.py::test_template_with_middleware",
    "tests/test_templates.py::test_templates",
    "tests/test_templates.py::test_templates_with_directories",
    "tests/test_templates.py::test_templates_with_environment",
)

PROJECT = Project(
    name="starlette_served",
    sdist="starlette==1.10.0",
    takes_long=True,
    redirect={},
    pythons=("3.11", "3.13", "3.14"),
    needs=PORTAL.needs,
    tests=("tests",),
    also=("pyproject.toml",),
    arguments=("--assert=plain", "-p", "through_wsgi"),
    excluded=(
        Excluded("*trio", TRIO),
        *(Excluded(test, "an error after the response is logged, and cannot be raised any more") for test in LATE),
        *(Excluded(test, "the lifespan that gives the state is the client's own, not the server's") for test in STATE),
        *(Excluded(test, "WSGI has no extensions: no trailers, no pushes, nothing to debug") for test in EXTENSIONS),
        Excluded("tests/test_testclient.py", "it tests the client, not the applications it asks"),
        Excluded("tests/test_responses.py::test_response_phrase", "123 is no status of a final response"),
        Excluded(
            "tests/middleware/test_body_limit.py::test_received_bytes_are_counted_with_unreliable_content_length",
            "of a body WSGI reads as much as its Content-Length says",
        ),
        Excluded(
            "tests/test_staticfiles.py::test_staticfiles_with_invalid_dir_permissions_returns_401",
            "it takes away the permission to read a file, which root has all the same; fails so without adapters, too",
        ),
    ),
)
