/* What the tests of random ids share.  */
#ifndef SIDECAR_TESTS_ENTROPY_CHECK_H
#define SIDECAR_TESTS_ENTROPY_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "check.h"

/* The bytes that lowercase hex digits stand for; false where some are none. */
static inline bool
hex_bytes(unsigned char *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char digit = text[i];
        bool decimal = digit >= '0' && digit <= '9';
        if (!decimal && !(digit >= 'a' && digit <= 'f')) {
            return false;
        }
        int value = decimal ? digit - '0' : digit - 'a' + 10;
        int high = i % 2 == 0 ? value << 4 : out[i / 2];
        out[i / 2] = (unsigned char)(i % 2 == 0 ? high : high | value);
    }
    return true;
}

/* Each bit of `count` draws, which must be 20,000, is 1 about half of the
 * time: a fair coin is outside once in 10^16. */
static inline void
check_bits(const unsigned char *draws, size_t count, size_t size)
{
    CHECK_EQ(count, 20000);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        unsigned ones = 0;
        for (size_t i = 0; i < count; i++) {
            ones += draws[i * size + bit / 8] >> bit % 8 & 1;
        }
        CHECK(ones > 9400 && ones < 10600);
    }
}

#endif
