/* Module: the extension's entry, and the order in which its parts begin. */
#ifndef SIDECAR_CORE_MODULE_H
#define SIDECAR_CORE_MODULE_H

#include "core/compat.h"

extern PyModuleDef sc_module_def;

/* What the import system looks for; the one symbol that is exported. */
PyMODINIT_FUNC PyInit__core(void);

/* Each part adds its types and functions.  0, or -1 with an error set. */
int sc_fork_init(PyObject *module);
int sc_handle_init(PyObject *module);
int sc_loop_init(PyObject *module);
int sc_task_init(PyObject *module);
int sc_task_list_init(PyObject *module);
int sc_call_init(PyObject *module);
int sc_executor_init(PyObject *module);
int sc_delivery_init(PyObject *module);
int sc_bridge_init(PyObject *module);
int sc_greenlet_init(PyObject *module);
int sc_pool_call_init(PyObject *module);
int sc_limit_init(PyObject *module);
int sc_lineage_init(PyObject *module);
int sc_interpreter_pool_init(PyObject *module);
int sc_traceback_init(PyObject *module);
int sc_future_init(PyObject *module);
int sc_running_loop_init(PyObject *module);
int sc_producer_init(PyObject *module);
int sc_stream_init(PyObject *module);
int sc_policy_init(PyObject *module);
int sc_request_init(PyObject *module);
int sc_request_functions_init(PyObject *module);
int sc_opentelemetry_init(PyObject *module);
int sc_scope_init(PyObject *module);
int sc_start_response_init(PyObject *module);
int sc_wsgi_body_init(PyObject *module);
int sc_wsgi_init(PyObject *module);
int sc_asgi_init(PyObject *module);
int sc_asgi_channel_init(PyObject *module);
int sc_asgi_coroutine_init(PyObject *module);
int sc_served_scope_init(PyObject *module);
int sc_served_headers_init(PyObject *module);
int sc_served_init(PyObject *module);
int sc_capi_init(PyObject *module);

#endif
