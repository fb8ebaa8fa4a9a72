/* Policy: what a middleware was told to do with requests: sidecar.Policy.
 *
 * Made once, from keyword arguments, and never changed; every request holds
 * the one it came under.  All functions: attached.  */
#ifndef SIDECAR_MIDDLEWARE_POLICY_H
#define SIDECAR_MIDDLEWARE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/state.h"
#include "middleware/trust.h"

/* When a client counts as gone. */
typedef enum {
    SC_DISCONNECT_CLOSE, /* it has closed its side, or all of it */
    SC_DISCONNECT_RESET, /* it has closed all, or reset the connection */
    SC_DISCONNECT_OFF,
} ScDisconnect;

typedef struct {
    PyObject_HEAD
    ScTrust trust;
    PyObject *id_header;   /* "X-Request-ID" */
    PyObject *id_key;      /* "HTTP_X_REQUEST_ID" */
    PyObject *id_name;     /* b"x-request-id" */
    PyObject *timeout_key; /* the inbound deadline's; NULL: none is taken */
    PyObject *timeout_header;
    PyObject *timeout_name;
    int64_t deadline; /* ns from the request's start; SC_NEVER: none */
    int64_t cleanup;  /* ns */
    ScDisconnect disconnect;
} ScPolicy;

/* From keyword arguments, a dict or NULL; a new reference, or NULL with
 * TypeError or ValueError set, which name the option. */
ScPolicy *sc_policy_new(ScState *st, PyObject *kwargs);

/* The same of a middleware's options: policy=Policy(...) instead of all others
 * is that one. */
ScPolicy *sc_policy_take(ScState *st, PyObject *kwargs);

/* The arguments of a middleware's type: (app, **options), where app may be a
 * keyword, too.  Both new references.  0, or -1 with TypeError set. */
int sc_policy_arguments(const char *name, PyObject *args, PyObject *kwargs,
                        PyObject **app, PyObject **options);

/* The one of requests that come under none; borrowed. */
ScPolicy *sc_policy_default(ScState *st);

/* A time of an inbound header: seconds, with a fraction or not, or as "250ms"
 * or "2s".  False: it is none. */
bool sc_policy_parse_timeout(ScText text, int64_t *ns);

#endif
