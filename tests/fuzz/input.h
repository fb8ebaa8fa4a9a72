/* What the fuzz targets share.  An input is lines with a record separator
 * (0x1E) between them; each stands in a block of memory of its own that is
 * exactly as long, so that the sanitizer sees every byte read beyond it.  */
#ifndef SIDECAR_TESTS_FUZZ_INPUT_H
#define SIDECAR_TESTS_FUZZ_INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "middleware/field.h"

#define LINES_LIMIT 8

/* What must hold; a finding where it does not. */
#define HOLDS(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, \
                    #condition);                                              \
            abort();                                                          \
        }                                                                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    size_t count;
    ScText lines[LINES_LIMIT];
} Lines;

static inline char *
block_of(const void *at, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);
    HOLDS(copy != NULL);
    if (length > 0) {
        memcpy(copy, at, length);
    }
    return copy;
}

/* The last line takes all separators beyond its limit. */
static inline void
lines_take(Lines *lines, const uint8_t *data, size_t size)
{
    ScText rest = {(const char *)data, size}, piece;
    lines->count = 0;
    while (lines->count < LINES_LIMIT - 1 &&
           sc_text_split(&rest, 0x1E, &piece)) {
        lines->lines[lines->count++] =
            (ScText){block_of(piece.at, piece.length), piece.length};
    }
    if (rest.at != NULL) {
        lines->lines[lines->count++] =
            (ScText){block_of(rest.at, rest.length), rest.length};
    }
}

static inline void
lines_free(Lines *lines)
{
    for (size_t i = 0; i < lines->count; i++) {
        free((char *)lines->lines[i].at);
    }
}

static inline bool
same_text(ScText left, ScText right)
{
    return left.length == right.length &&
           (left.length == 0 || memcmp(left.at, right.at, left.length) == 0);
}

#endif
