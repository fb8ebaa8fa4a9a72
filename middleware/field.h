/* Field: what the parsers of request headers share (RFC 9110, section 5.5,
 * and RFC 7230, section 3.2).
 *
 * A header line is a pointer and a length: any bytes, NUL and line ends
 * among them, without a terminator.  A header that came several times is an
 * array of lines in the order they came; no lines at all stand for a header
 * that is absent.  Parsers allocate nothing, read nothing outside the line,
 * and do work in proportion to its length at most.
 *
 * No Python.h; any thread, attached or not; nothing here fails.  */
#ifndef SIDECAR_MIDDLEWARE_FIELD_H
#define SIDECAR_MIDDLEWARE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Borrowed: valid for as long as what it points into.  `at` may be NULL where
 * the length is 0. */
typedef struct {
    const char *at;
    size_t length;
} ScText;

/* OWS: optional white space (RFC 7230, section 3.2.3). */
static inline bool
sc_is_ows(char byte)
{
    return byte == ' ' || byte == '\t';
}

static inline bool
sc_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static inline bool
sc_is_lower(char byte)
{
    return byte >= 'a' && byte <= 'z';
}

static inline bool
sc_is_upper(char byte)
{
    return byte >= 'A' && byte <= 'Z';
}

static inline bool
sc_text_is(ScText text, const char *word)
{
    size_t length = strlen(word);
    return text.length == length && memcmp(text.at, word, length) == 0;
}

/* The text without the white space around it. */
static inline ScText
sc_text_trim(ScText text)
{
    while (text.length > 0 && sc_is_ows(text.at[0])) {
        text.at++;
        text.length--;
    }
    while (text.length > 0 && sc_is_ows(text.at[text.length - 1])) {
        text.length--;
    }
    return text;
}

/* Take the piece before the next separator out of `rest`, and the separator
 * with it; false, and an empty piece, where nothing is left.  A `rest` of NULL
 * is at its end; an empty text has one piece, which is empty. */
static inline bool
sc_text_split(ScText *rest, char separator, ScText *piece)
{
    *piece = *rest;
    if (rest->at == NULL) {
        return false;
    }
    const char *end = NULL;
    if (rest->length > 0) {
        end = memchr(rest->at, separator, rest->length);
    }
    if (end == NULL) {
        *rest = (ScText){NULL, 0};
        return true;
    }
    piece->length = (size_t)(end - rest->at);
    rest->at = end + 1;
    rest->length -= piece->length + 1;
    return true;
}

#endif
