/* The hook table.  A generic plugin: it answers no requests of its own. */
#include "plugin.h"

static void
on_load(void)
{
    sc_abi_check();
    sc_log_register();
    sc_routes_register();
    /* Without it uWSGI before 2.0.25 or so never lets the GIL go between
     * requests, and the bridge's loop starves. */
    uwsgi.has_threads = 1;
}

static int
init(void)
{
    sc_metrics_register();
    sc_stats_bind();
    return 0;
}

static void
hijack_worker(void)
{
    sc_requests_init();
    sc_arrival_init();
    sc_log_init();
    sc_requests_wrap_apps();
    sc_options_check_mounts();
}

__attribute__((visibility("default"))) struct uwsgi_plugin sidecar_plugin = {
    .name = "sidecar",
    .options = sc_option_table,
    .on_load = on_load,
    .init = init,
    .preinit_apps = sc_lifecycle_preinit,
    .post_fork = sc_lifecycle_post_fork,
    .hijack_worker = hijack_worker,
    .master_cycle = sc_stats_serve,
    .harakiri = sc_board_print,
    .spooler_init = sc_lifecycle_spooler,
    .atexit = sc_lifecycle_atexit,
};
