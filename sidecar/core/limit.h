/* Limit: the places of a named limit, for other parts of the core. */
#ifndef SIDECAR_CORE_LIMIT_H
#define SIDECAR_CORE_LIMIT_H

#include <Python.h>
#include "core/compat.h"

/* A place, if one is free. */
bool sc_places_take(PyObject *places);

/* To who has waited longest, or to nobody.  The error that is set on entry
 * stays set. */
void sc_places_give_back(PyObject *places);

#endif
