#include "core/module.h"

#include "core/signals.h"
#include "core/state.h"

static int
module_exec(PyObject *module)
{
    static int (*const parts[])(PyObject *) = {
        sc_state_init,
        sc_fork_init,
        sc_handle_init,
        sc_loop_init,
        sc_task_init,
        sc_task_list_init,
        sc_call_init,
        sc_executor_init,
        sc_bridge_init,
        sc_traceback_init,
        sc_pool_call_init,
        sc_lineage_init,
        sc_producer_init,
        sc_stream_init,
        sc_policy_init,
        sc_request_init,
        sc_scope_init,
        sc_start_response_init,
        sc_wsgi_body_init,
        sc_wsgi_init,
        sc_greenlet_init,
        sc_future_init,
        sc_running_loop_init,
        sc_delivery_init,
        sc_asgi_coroutine_init,
        sc_asgi_channel_init,
        sc_asgi_init,
        sc_opentelemetry_init,
        sc_capi_init,
        sc_limit_init,
        sc_interpreter_pool_init,
        sc_served_scope_init,
        sc_served_headers_init,
        sc_served_init,
        sc_request_functions_init,
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static void
module_free(void *module)
{
    sc_signals_fini(sc_state_of_module(module));
    sc_state_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SC_SLOT(module_exec)},
    SC_MODULE_PROMISES{0, NULL},
};

PyModuleDef sc_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sidecar._core",
    .m_doc = "The C core of sidecar: loop, calls, bridges, middleware.",
    .m_size = sizeof(ScState),
    .m_slots = module_slots,
    .m_traverse = sc_state_traverse,
    .m_clear = sc_state_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&sc_module_def);
}
