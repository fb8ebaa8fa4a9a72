/* Baggage: the header of that name.
 *
 * W3C Baggage (https://www.w3.org/TR/baggage/).  A list of members,
 * key=value;property;property=value, where keys are tokens of ASCII (RFC
 * 7230, section 3.2.6) and values are UTF-8, percent-encoded (RFC 3986,
 * section 2.1).  A parsed list borrows from the lines it was parsed from, and
 * holds values as they came, still encoded: passed on, they are what they
 * were.
 *
 * A member that is not of this form is left out and the others stay (section
 * 3.5: such an entry may be removed).  Keys may come twice; the order is kept
 * (3.3.1.1).  Of a list that goes beyond a limit the members stay that fit,
 * whole ones, from the left (3.3.2).
 *
 * No Python.h; any thread, attached or not; nothing is allocated.  */
#ifndef SIDECAR_MIDDLEWARE_BAGGAGE_H
#define SIDECAR_MIDDLEWARE_BAGGAGE_H

#include "middleware/field.h"

/* Section 3.3.2: all that is within both must be passed on. */
#define SC_BAGGAGE_MEMBERS 64
#define SC_BAGGAGE_LENGTH 8192

typedef struct {
    ScText key;        /* a token */
    ScText value;      /* encoded; may be empty */
    ScText properties; /* what is after the first ';', or nothing */
} ScBaggageMember;

typedef struct {
    ScText key;     /* a token; never decoded (section 3.3.1.4) */
    ScText value;   /* encoded */
    bool has_value; /* false: the key stands alone */
} ScBaggageProperty;

typedef struct {
    unsigned count;
    unsigned invalid; /* members that were not of the form */
    unsigned dropped; /* good ones that went beyond a limit */
    size_t length;    /* what sc_baggage_write makes of it */
    ScBaggageMember members[SC_BAGGAGE_MEMBERS];
} ScBaggage;

/* Parse all lines as one list, in their order (RFC 9110, section 5.3).  Empty
 * members, which joined headers may leave, are none (5.6.1). */
void sc_baggage_parse(const ScText *lines, size_t count, ScBaggage *out);

/* Take the next property out of a member's `properties`; false after the
 * last one. */
bool sc_baggage_property(ScText *properties, ScBaggageProperty *out);

/* Decode a value to UTF-8, with U+FFFD for what is none, as many as Unicode
 * recommends (a maximal subpart each).  A '%' without two hex digits after it
 * is a '%'.  Returns how many bytes it wrote: value.length at most where the
 * value was parsed, and so is ASCII, 3 * value.length for any other text. */
size_t sc_baggage_decode(ScText value, char *out);

/* Encode UTF-8: what is not a baggage-octet, and '%'.  Writes 3 * value.length
 * characters at most; returns how many. */
size_t sc_baggage_encode(ScText value, char *out);

/* -- Writing ------------------------------------------------------------ */

/* A list that is being written.  Begin with all zeros. */
typedef struct {
    unsigned count;
    size_t length;
    char text[SC_BAGGAGE_LENGTH];
} ScBaggageText;

typedef enum {
    SC_BAGGAGE_OK,
    SC_BAGGAGE_KEY,   /* not a token */
    SC_BAGGAGE_LIMIT, /* a 65th member, or beyond 8,192 characters */
} ScBaggageStatus;

/* Put a member, or all of a parsed list, after what is there: without white
 * space, and with a '%' that encodes nothing as %25.  A list that was parsed
 * alone always fits in a text that is empty.  Where the answer is not
 * SC_BAGGAGE_OK, the text is as it was, or for a list has the members that
 * fit. */
ScBaggageStatus sc_baggage_put_list(ScBaggageText *text,
                                    const ScBaggage *list);

/* The same for a key and a value in UTF-8, which is encoded. */
ScBaggageStatus sc_baggage_put(ScBaggageText *text, ScText key, ScText value);

#endif
