/* Header lines for the tests of the parsers: each stands in a block of memory
 * of its own that is exactly as long, so that a sanitizer sees every byte that
 * is read beyond it.  */
#ifndef SIDECAR_TESTS_FIELD_LINES_H
#define SIDECAR_TESTS_FIELD_LINES_H

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "middleware/field.h"

#define LINES_LIMIT 8

typedef struct {
    size_t count;
    ScText lines[LINES_LIMIT];
} Lines;

static inline void
lines_add(Lines *lines, const char *at, size_t length)
{
    CHECK(lines->count < LINES_LIMIT);
    char *copy = malloc(length > 0 ? length : 1);
    CHECK(copy != NULL);
    memcpy(copy, at, length);
    lines->lines[lines->count++] = (ScText){copy, length};
}

/* Of strings, up to the first NULL. */
static inline void
lines_make(Lines *lines, const char *const *strings, size_t limit)
{
    lines->count = 0;
    for (size_t i = 0; i < limit && strings[i] != NULL; i++) {
        lines_add(lines, strings[i], strlen(strings[i]));
    }
}

static inline void
lines_free(Lines *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        free((char *)lines->lines[i].at);
    }
    lines->count = 0;
}

static inline ScText
text_of(const char *string)
{
    return (ScText){string, strlen(string)};
}

/* Say which row of a table it was, and abort, unless the texts are equal. */
static inline void
check_same(int line, const char *row, ScText is, ScText should_be)
{
    if (is.length != should_be.length ||
        (is.length > 0 && memcmp(is.at, should_be.at, is.length) != 0)) {
        fprintf(stderr, "line %d: %s: '%.*s' (%zu), not '%.*s' (%zu)\n", line,
                row, (int)is.length, is.length > 0 ? is.at : "", is.length,
                (int)should_be.length, should_be.at, should_be.length);
        abort();
    }
}

static inline void
check_number(int line, const char *row, long long is, long long should_be)
{
    if (is != should_be) {
        fprintf(stderr, "line %d: %s: %lld, not %lld\n", line, row, is,
                should_be);
        abort();
    }
}

#endif
