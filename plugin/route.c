/* The routing action: `route = ^/slow sidecar:deadline=30,limit=20`.
 *
 * Options of requests for those that take a route, and `limit`: how many of
 * them may be in progress at once, in each worker; one more is answered with
 * 503.  Of several routes that a request takes the later ones add to the
 * earlier, or override them.
 *
 * uWSGI routes a request before it attaches to an interpreter, on the thread
 * that will serve it: the action only notes the choice with the request's
 * core.  What policy a choice amounts to is made when it is first needed. */
#include "plugin.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT "limit="

/* One action in the configuration. */
typedef struct Route {
    struct Route *next;
    const char *text;
    char *overrides; /* without the limit */
    int limit;       /* 0: none */
    atomic_int taken;
} Route;

/* The routes that a request has taken, the last one first.  Made under the
 * lock, kept for good: as many as there are ways through the routes. */
struct ScChoice {
    struct ScChoice *before; /* NULL: this was the first one */
    struct ScChoice *next;   /* among those with the same one before */
    struct ScChoice *after;
    Route *route;
    PyObject **policies; /* by application; attached */
};

static Route *routes;
static bool checked; /* the configuration is read */

#ifdef UWSGI_ROUTING

/* -- the configuration ---------------------------------------------------- */

static int
parse_limit(const char *text, int *limit)
{
    char *end;
    long count = strtol(text, &end, 10);
    if (end == text || *end != '\0' || count < 1 || count > 1000000) {
        uwsgi_log("[sidecar] route action sidecar: limit=%s: must be a whole "
                  "number from 1 on\n",
                  text);
        return -1;
    }
    *limit = (int)count;
    return 0;
}

/* Take the limit out of "deadline=30,limit=20". */
static int
parse_action(Route *route)
{
    char *copy = uwsgi_str(SC_TEXT(route->text)), *rest = NULL;
    route->overrides = uwsgi_calloc(strlen(copy) + 1);
    for (char *item = strtok_r(copy, ",", &rest); item != NULL;
         item = strtok_r(NULL, ",", &rest)) {
        item += strspn(item, " ");
        if (strncmp(item, LIMIT, sizeof(LIMIT) - 1) == 0) {
            if (parse_limit(item + sizeof(LIMIT) - 1, &route->limit) < 0) {
                return -1;
            }
            continue;
        }
        if (route->overrides[0] != '\0') {
            strcat(route->overrides, ",");
        }
        strcat(route->overrides, item);
    }
    free(copy);
    return 0;
}

static ScChoice *first_choices;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ScChoice *
choose(ScChoice *before, Route *route)
{
    ScChoice **all = before != NULL ? &before->after : &first_choices;
    pthread_mutex_lock(&lock);
    ScChoice *choice = *all;
    while (choice != NULL && choice->route != route) {
        choice = choice->next;
    }
    if (choice == NULL) {
        choice = uwsgi_calloc(sizeof(*choice));
        choice->policies =
            uwsgi_calloc(sizeof(PyObject *) * (size_t)uwsgi.max_apps);
        choice->before = before;
        choice->route = route;
        choice->next = *all;
        *all = choice;
    }
    pthread_mutex_unlock(&lock);
    return choice;
}

static int
take_route(struct wsgi_request *wsgi_req, struct uwsgi_route *route)
{
    ScCore *core = sc_requests_core(wsgi_req);
    if (core != NULL) {
        bool begun = core->routed == wsgi_req->start_of_request;
        core->routed = wsgi_req->start_of_request;
        core->choice = choose(begun ? core->choice : NULL, route->data2);
    }
    return UWSGI_ROUTE_NEXT;
}

static int
configure_route(struct uwsgi_route *route, char *arg)
{
    if (checked) {
        uwsgi_log("[sidecar] sidecar:%s: the action is for the "
                  "configuration, not for uwsgi.route()\n",
                  arg);
        return -1;
    }
    Route *made = uwsgi_calloc(sizeof(*made));
    made->text = arg;
    if (parse_action(made) < 0) {
        exit(1);
    }
    made->next = routes;
    routes = made;
    route->func = take_route;
    route->data = arg;
    route->data_len = strlen(arg);
    route->data2 = made;
    return 0;
}

void
sc_routes_register(void)
{
    uwsgi_register_router(SC_TEXT("sidecar"), configure_route);
}

#else

void
sc_routes_register(void)
{
}

#endif

static int
parse_overrides(const Route *route, PyObject *into)
{
    return route->overrides[0] != '\0'
               ? sc_options_parse_overrides(route->overrides, into)
               : 0;
}

int
sc_routes_check(void)
{
    int rc = 0;
    checked = true;
    for (Route *route = routes; rc == 0 && route != NULL;
         route = route->next) {
        PyObject *into = PyDict_New();
        rc = into ? parse_overrides(route, into) : -1;
        Py_XDECREF(into);
    }
    return rc;
}

/* -- a request -------------------------------------------------------------
 */

static int
override(const ScChoice *choice, PyObject *arguments)
{
    if (choice->before != NULL && override(choice->before, arguments) < 0) {
        return -1;
    }
    return parse_overrides(choice->route, arguments);
}

PyObject *
sc_route_policy(ScChoice *choice, int app_id)
{
    const struct uwsgi_app *app = &uwsgi_apps[app_id];
    PyObject **kept = &choice->policies[app_id];
    if (*kept == NULL) {
        PyObject *arguments =
            sc_options_policy_arguments(app->mountpoint, app->mountpoint_len);
        if (arguments != NULL && override(choice, arguments) == 0) {
            *kept = sc_requests_make_policy(arguments);
        }
        Py_XDECREF(arguments);
    }
    return *kept;
}

void
sc_route_leave(ScChoice *choice)
{
    for (; choice != NULL; choice = choice->before) {
        if (choice->route->limit > 0) {
            atomic_fetch_sub(&choice->route->taken, 1);
        }
    }
}

bool
sc_route_enter(ScChoice *choice)
{
    for (ScChoice *at = choice; at != NULL; at = at->before) {
        Route *route = at->route;
        if (route->limit > 0 &&
            atomic_fetch_add(&route->taken, 1) >= route->limit) {
            atomic_fetch_sub(&route->taken, 1);
            for (ScChoice *had = choice; had != at; had = had->before) {
                if (had->route->limit > 0) {
                    atomic_fetch_sub(&had->route->taken, 1);
                }
            }
            return false;
        }
    }
    return true;
}
