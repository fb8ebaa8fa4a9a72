#include "plugin.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

ScOptions sc_options = {
    .shutdown_timeout = 5,
    .deadline = -1,
    .deadline_margin = 1,
    .workers = -1,
    .max_calls = -1,
    .max_queue = -1,
};

PyObject *
sc_options_policy_arguments(void)
{
    const struct {
        const char *name;
        const char *value;
    } texts[] = {{"request_id_header", sc_options.request_id_header},
                 {"trust", sc_options.trust},
                 {"deadline_header", sc_options.deadline_header},
                 {"disconnect", sc_options.disconnect}};
    PyObject *arguments = PyDict_New();
    int rc = arguments != NULL ? 0 : -1;
    for (size_t i = 0; rc == 0 && i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (texts[i].value != NULL) {
            PyObject *text = PyUnicode_DecodeFSDefault(texts[i].value);
            rc = text ? PyDict_SetItemString(arguments, texts[i].name, text)
                      : -1;
            Py_XDECREF(text);
        }
    }
    double deadline = sc_options.deadline;
    if (deadline < 0) {
        /* uWSGI kills a worker whose request takes longer. */
        deadline = uwsgi.harakiri_options.workers - sc_options.deadline_margin;
    }
    if (rc == 0 && deadline > 0) {
        PyObject *seconds = PyFloat_FromDouble(deadline);
        rc = seconds ? PyDict_SetItemString(arguments, "deadline", seconds)
                     : -1;
        Py_XDECREF(seconds);
    }
    if (rc < 0) {
        Py_CLEAR(arguments);
    }
    return arguments;
}

PyObject *
sc_options_bridge_arguments(void)
{
    const struct {
        const char *name;
        int value;
    } numbers[] = {{"workers", sc_options.workers},
                   {"max_calls", sc_options.max_calls},
                   {"max_queue", sc_options.max_queue}};
    PyObject *arguments = PyDict_New();
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (arguments == NULL || numbers[i].value < 0) {
            continue;
        }
        PyObject *number = PyLong_FromLong(numbers[i].value);
        if (number == NULL ||
            PyDict_SetItemString(arguments, numbers[i].name, number) < 0) {
            Py_CLEAR(arguments);
        }
        Py_XDECREF(number);
    }
    return arguments;
}

/* A whole number, which sidecar.Sidecar judges further. */
static void
set_count(char *option, char *value, void *target)
{
    char *end;
    errno = 0;
    long count = strtol(value, &end, 10);
    if (end == value || *end != '\0' || errno != 0 || count < 0 ||
        count > INT_MAX) {
        uwsgi_log("[sidecar] %s = %s: must be a whole number\n", option,
                  value);
        exit(1);
    }
    *(int *)target = (int)count;
}

/* Seconds, from 0 to an hour. */
static void
set_seconds(char *option, char *value, void *target)
{
    char *end;
    errno = 0;
    double seconds = strtod(value, &end);
    if (end == value || *end != '\0' || errno != 0 ||
        !(seconds >= 0 && seconds <= 3600)) {
        uwsgi_log("[sidecar] %s = %s: must be a number of seconds from 0 to "
                  "3600\n",
                  option, value);
        exit(1);
    }
    *(double *)target = seconds;
}

struct uwsgi_option sc_option_table[] = {
    {SC_TEXT("sidecar-workers"), required_argument, 0,
     SC_TEXT("how many threads each worker has for blocking code (default: "
             "its processors and 4, at most 32)"),
     set_count, &sc_options.workers, 0},
    {SC_TEXT("sidecar-max-calls"), required_argument, 0,
     SC_TEXT("how many run_sync calls and streams may be in flight in each "
             "worker; one more is answered with 503 (default: any number)"),
     set_count, &sc_options.max_calls, 0},
    {SC_TEXT("sidecar-max-queue"), required_argument, 0,
     SC_TEXT("how many jobs may wait for one of these threads (default "
             "65536)"),
     set_count, &sc_options.max_queue, 0},
    {SC_TEXT("sidecar-shutdown-timeout"), required_argument, 0,
     SC_TEXT("how many seconds a worker that ends gives the coroutines that "
             "still run to finish their cleanup (default 5)"),
     set_seconds, &sc_options.shutdown_timeout, 0},
    {SC_TEXT("sidecar-request-id-header"), required_argument, 0,
     SC_TEXT("the header with a request's id, in and out (default "
             "X-Request-ID)"),
     uwsgi_opt_set_str, &sc_options.request_id_header, 0},
    {SC_TEXT("sidecar-trust"), required_argument, 0,
     SC_TEXT("whose inbound ids, traces, baggage and deadlines are taken: "
             "untrusted (nobody's, the default), always, or addresses "
             "separated by commas (10.0.0.0/8, fd00::/8)"),
     uwsgi_opt_set_str, &sc_options.trust, 0},
    {SC_TEXT("sidecar-deadline"), required_argument, 0,
     SC_TEXT("how many seconds a request may take (default: harakiri less the "
             "margin; 0: no limit)"),
     set_seconds, &sc_options.deadline, 0},
    {SC_TEXT("sidecar-deadline-margin"), required_argument, 0,
     SC_TEXT("how many seconds before harakiri a request's deadline is "
             "(default 1)"),
     set_seconds, &sc_options.deadline_margin, 0},
    {SC_TEXT("sidecar-deadline-header"), required_argument, 0,
     SC_TEXT("the inbound header with a request's time-out, where its sender "
             "is trusted (default: none is taken)"),
     uwsgi_opt_set_str, &sc_options.deadline_header, 0},
    {SC_TEXT("sidecar-disconnect"), required_argument, 0,
     SC_TEXT("when a client counts as gone: close (it has closed its side, "
             "the default), reset (it has closed all), off"),
     uwsgi_opt_set_str, &sc_options.disconnect, 0},
    {NULL, 0, 0, NULL, NULL, NULL, 0},
};
