/* Baggage: limits hold, what is written parses to the same, and what is
 * decoded is UTF-8. */
#include "input.h"
#include "middleware/baggage.h"

static ScBaggage parsed, again;
static ScBaggageText first, second;
/* Of the two values that are compared.  Their blocks are not exactly as long
 * as they may be, for speed: check_value's are. */
static char one_value[3 * SC_BAGGAGE_LENGTH],
    other_value[3 * SC_BAGGAGE_LENGTH];

/* Whether all of it is UTF-8, by the code points (RFC 3629, section 3). */
static bool
is_utf8(ScText text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t i = 0;
    while (i < text.length) {
        unsigned char byte = (unsigned char)text.at[i];
        unsigned length = byte < 0x80             ? 1
                          : (byte & 0xE0) == 0xC0 ? 2
                          : (byte & 0xF0) == 0xE0 ? 3
                          : (byte & 0xF8) == 0xF0 ? 4
                                                  : 0;
        if (length == 0 || text.length - i < length) {
            return false;
        }
        uint32_t point = length == 1 ? byte : byte & (0xFFu >> (length + 1));
        for (unsigned j = 1; j < length; j++) {
            unsigned char next = (unsigned char)text.at[i + j];
            if ((next & 0xC0) != 0x80) {
                return false;
            }
            point = point << 6 | (next & 0x3F);
        }
        if (point < least[length] || point > 0x10FFFF ||
            (point >= 0xD800 && point <= 0xDFFF)) {
            return false;
        }
        i += length;
    }
    return true;
}

/* Decode, encode and decode again: the same.  Gives back the first. */
static ScText
check_value(ScText value, size_t limit)
{
    char *decoded = malloc(limit > 0 ? limit : 1);
    ScText text = {decoded, sc_baggage_decode(value, decoded)};
    HOLDS(text.length <= limit && is_utf8(text));
    size_t room = 3 * text.length;
    char *encoded = malloc(room > 0 ? room : 1);
    ScText wire = {encoded, sc_baggage_encode(text, encoded)};
    HOLDS(wire.length <= room);
    char *back = malloc(wire.length > 0 ? wire.length : 1);
    HOLDS(same_text(text, (ScText){back, sc_baggage_decode(wire, back)}));
    free(back);
    free(encoded);
    return text;
}

static void
same_values(ScText left, ScText right)
{
    ScText one = {one_value, sc_baggage_decode(left, one_value)};
    ScText other = {other_value, sc_baggage_decode(right, other_value)};
    HOLDS(one.length <= left.length && other.length <= right.length);
    HOLDS(is_utf8(one) && same_text(one, other));
}

static void
same_members(const ScBaggageMember *left, const ScBaggageMember *right)
{
    HOLDS(same_text(left->key, right->key));
    same_values(left->value, right->value);
    ScText mine = left->properties, theirs = right->properties;
    ScBaggageProperty one, other;
    while (sc_baggage_property(&mine, &one)) {
        HOLDS(sc_baggage_property(&theirs, &other));
        HOLDS(same_text(one.key, other.key));
        HOLDS(one.has_value == other.has_value);
        same_values(one.value, other.value);
    }
    HOLDS(!sc_baggage_property(&theirs, &other));
}

static void
write_list(ScBaggageText *text, const ScBaggage *list)
{
    text->count = 0;
    text->length = 0;
    HOLDS(sc_baggage_put_list(text, list) == SC_BAGGAGE_OK);
    HOLDS(text->count == list->count && text->length == list->length);
}

/* Section 3.3.1.3: each '%' encodes something. */
static void
check_percents(ScText text)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] == '%') {
            HOLDS(text.length - i >= 3);
            HOLDS(memchr(hex, text.at[i + 1], 22) != NULL);
            HOLDS(memchr(hex, text.at[i + 2], 22) != NULL);
        }
    }
}

static void
check_list(const Lines *lines)
{
    sc_baggage_parse(lines->lines, lines->count, &parsed);
    HOLDS(parsed.count <= SC_BAGGAGE_MEMBERS);
    HOLDS(parsed.length <= SC_BAGGAGE_LENGTH);
    write_list(&first, &parsed);
    char *copy = block_of(first.text, first.length);
    ScText line = {copy, first.length};
    sc_baggage_parse(&line, 1, &again);
    HOLDS(again.invalid == 0 && again.dropped == 0);
    HOLDS(again.count == parsed.count);
    for (unsigned i = 0; i < parsed.count; i++) {
        same_members(&parsed.members[i], &again.members[i]);
    }
    write_list(&second, &again);
    HOLDS(same_text(line, (ScText){second.text, second.length}));
    for (unsigned i = 0; i < again.count; i++) {
        check_percents(again.members[i].value);
    }
    free(copy);
}

/* A key and a value that an application puts. */
static void
check_put(ScText key, ScText value)
{
    first.count = 0;
    first.length = 0;
    if (sc_baggage_put(&first, key, value) != SC_BAGGAGE_OK) {
        HOLDS(first.count == 0 && first.length == 0);
        return;
    }
    ScText line = {first.text, first.length};
    sc_baggage_parse(&line, 1, &parsed);
    HOLDS(parsed.count == 1 && parsed.invalid == 0 && parsed.dropped == 0);
    HOLDS(same_text(parsed.members[0].key, key));
    if (is_utf8(value)) {
        ScText back = check_value(parsed.members[0].value, line.length);
        HOLDS(same_text(back, value));
        free((char *)back.at);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Lines lines;
    lines_take(&lines, data, size);
    check_list(&lines);
    for (size_t i = 0; i < lines.count; i++) {
        ScText text = check_value(lines.lines[i], 3 * lines.lines[i].length);
        free((char *)text.at);
        if (i > 0) {
            check_put(lines.lines[i - 1], lines.lines[i]);
        }
    }
    lines_free(&lines);
    return 0;
}
