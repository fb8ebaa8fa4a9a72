/* uWSGI checks no plugin against itself: one built for another build of it
 * reads its structs at the wrong places, silently.  The recipe compiles in a
 * hash of the header and the flags that make the layout of this uWSGI
 * (sidecar/cli/uwsgi_plugin.py); the running one must give the same. */
#include "plugin.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, as in the recipe. */
static uint64_t
hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001B3);
    }
    return hash;
}

static uint64_t
hash_running(const char *cflags)
{
    char *header = uwsgi_get_dot_h();
    uint64_t hash = hash_text(UINT64_C(0xCBF29CE484222325), header);
    if (*header != '\0') {
        free(header);
    }
    return hash_text(hash, cflags);
}

/* The version in -DUWSGI_VERSION="\"2.0.31\"", or "?". */
static void
find_version(const char *cflags, char *version, size_t size)
{
    static const char before[] = "-DUWSGI_VERSION=\"\\\"";
    const char *found = strstr(cflags, before);
    snprintf(version, size, "?");
    if (found != NULL) {
        found += sizeof(before) - 1;
        snprintf(version, size, "%.*s", (int)strcspn(found, "\\\""), found);
    }
}

/* A plugin for pyuwsgi names the file of that module as a library it needs.
 * Loaded by another copy of it, it would have brought in its own, where no
 * uWSGI runs: nothing is set there. */
static void
check_copy(void)
{
    if (uwsgi.page_size == 0) {
        uwsgi_log("[sidecar] this plugin was built for pyuwsgi in another "
                  "place (%s) than the one that runs. Build it for this one: "
                  "python -m sidecar uwsgi-plugin --uwsgi PATH\n",
                  SIDECAR_UWSGI_PATH);
        exit(1);
    }
}

static void
check_uwsgi(void)
{
    char *cflags = uwsgi_get_cflags();
    uint64_t running = hash_running(cflags);
    if (running != SIDECAR_UWSGI_HASH) {
        char version[64];
        find_version(cflags, version, sizeof(version));
        uwsgi_log("[sidecar] this plugin was built for another uWSGI: "
                  "expected uWSGI %s (build %016llx, %s), found uWSGI %s "
                  "(build %016llx). Build it for this one: python -m sidecar "
                  "uwsgi-plugin --uwsgi PATH\n",
                  SIDECAR_UWSGI_VERSION,
                  (unsigned long long)SIDECAR_UWSGI_HASH, SIDECAR_UWSGI_PATH,
                  version, (unsigned long long)running);
        exit(1);
    }
    free(cflags);
}

static void
check_python(void)
{
    static const char expected[] = SIDECAR_PYTHON_VERSION;
    const char *found = Py_GetVersion();
    size_t length = sizeof(expected) - 1;
    if (strncmp(found, expected, length) != 0 ||
        (found[length] != '.' && found[length] != ' ')) {
        uwsgi_log("[sidecar] this plugin was built for another Python: "
                  "expected Python %s, found Python %.*s. Build it with the "
                  "Python of this uWSGI: python%.*s -m sidecar uwsgi-plugin\n",
                  expected, (int)strcspn(found, " "), found,
                  (int)strspn(found, "0123456789."), found);
        exit(1);
    }
}

void
sc_abi_check(void)
{
    check_copy();
    check_uwsgi();
    check_python();
}
