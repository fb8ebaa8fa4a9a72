"""The demo: a Flask application under uWSGI with Sidecar, and the upstream that it calls."""
