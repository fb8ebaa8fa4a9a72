#include "plugin.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

ScOptions sc_options = {
    .shutdown_timeout = 5,
};

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
    {SC_TEXT("sidecar-shutdown-timeout"), required_argument, 0,
     SC_TEXT("how many seconds a worker that ends gives the coroutines that "
             "still run to finish their cleanup (default 5)"),
     set_seconds, &sc_options.shutdown_timeout, 0},
    {NULL, 0, 0, NULL, NULL, NULL, 0},
};
