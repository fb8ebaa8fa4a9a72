#include "core/fork.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/module.h"

static atomic_uint generation;
static pthread_once_t registered = PTHREAD_ONCE_INIT;

static void
count_fork(void)
{
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

static void
register_handler(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

unsigned
sc_fork_generation(void)
{
    /* Relaxed: it changes only while the process has a single thread. */
    return atomic_load_explicit(&generation, memory_order_relaxed);
}

int
sc_fork_init(PyObject *Py_UNUSED(module))
{
    pthread_once(&registered, register_handler);
    return 0;
}
