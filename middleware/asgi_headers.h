/* Headers of ASGI: iterables of pairs of bytes, names in any case.
 *
 * What an application or a server gives is never changed: what must differ is
 * a copy.  Attached.  */
#ifndef SIDECAR_MIDDLEWARE_ASGI_HEADERS_H
#define SIDECAR_MIDDLEWARE_ASGI_HEADERS_H

#include "middleware/request.h"

/* The id as a header's value; NULL with an error set. */
PyObject *sc_asgi_id_value(PyObject *id);

/* The message with the header of the request's id, in place of all it has
 * under that name; where its headers are malformed as it is: the server's to
 * judge.
 * A new reference; NULL with the error that iterating its headers raised. */
PyObject *sc_asgi_message_with_id(ScState *st, PyObject *message,
                                  PyObject *request);

/* Let the scope, a copy of the server's, show the request's id where a header
 * of that name came in.  -1 with an error set. */
int sc_asgi_show_id(ScState *st, PyObject *scope, PyObject *request);

/* What the scope tells of a request, into an arrival that has its policy: new
 * references, which sc_asgi_arrived gives back.  -1 with an error set. */
int sc_asgi_arrive(ScState *st, PyObject *scope, ScArrival *arrival);
void sc_asgi_arrived(ScArrival *arrival);

#endif
