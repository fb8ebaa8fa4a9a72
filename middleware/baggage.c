#include "baggage.h"

/* -- The grammar (section 3.3.1) ---------------------------------------- */

static bool
is_token_char(char byte)
{
    return sc_is_lower(byte) || sc_is_upper(byte) || sc_is_digit(byte) ||
           (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool
is_token(ScText text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (!is_token_char(text.at[i])) {
            return false;
        }
    }
    return text.length > 0;
}

static bool
is_octet(char byte)
{
    return byte > ' ' && byte <= '~' && byte != '"' && byte != ',' &&
           byte != ';' && byte != '\\';
}

static bool
is_value(ScText text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (!is_octet(text.at[i])) {
            return false;
        }
    }
    return true;
}

/* key OWS "=" OWS value, or key alone: false where there is no '='. */
static bool
split_pair(ScText text, ScText *key, ScText *value)
{
    ScText rest = text;
    sc_text_split(&rest, '=', key);
    *key = sc_text_trim(*key);
    *value = sc_text_trim(rest);
    return rest.at != NULL;
}

bool
sc_baggage_property(ScText *properties, ScBaggageProperty *out)
{
    ScText piece;
    if (!sc_text_split(properties, ';', &piece)) {
        return false;
    }
    out->has_value = split_pair(piece, &out->key, &out->value);
    return true;
}

static bool
member_parse(ScText text, ScBaggageMember *member)
{
    ScText rest = text, pair;
    sc_text_split(&rest, ';', &pair);
    if (!split_pair(pair, &member->key, &member->value) ||
        !is_token(member->key) || !is_value(member->value)) {
        return false;
    }
    member->properties = rest;
    ScBaggageProperty property;
    while (sc_baggage_property(&rest, &property)) {
        if (!is_token(property.key) || !is_value(property.value)) {
            return false;
        }
    }
    return true;
}

/* -- Percent-encoding --------------------------------------------------- */

static int
hex_value(char byte)
{
    if (sc_is_digit(byte)) {
        return byte - '0';
    }
    if (byte >= 'a' && byte <= 'f') {
        return byte - 'a' + 10;
    }
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* The byte that the first three characters encode; -1: they do not. */
static int
encoded_byte(ScText text)
{
    if (text.length < 3 || text.at[0] != '%') {
        return -1;
    }
    int high = hex_value(text.at[1]), low = hex_value(text.at[2]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* The first byte that the text stands for, and how long it is written. */
static unsigned char
first_byte(ScText text, size_t *length)
{
    int byte = encoded_byte(text);
    *length = byte < 0 ? 1 : 3;
    return (unsigned char)(byte < 0 ? text.at[0] : byte);
}

/* What may come second after the first byte of a sequence, and how many come
 * in all (Unicode 15.0, table 3-7); 0 for a byte that begins none. */
static unsigned
sequence_length(unsigned char first, unsigned char *low, unsigned char *high)
{
    *low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    *high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* Take the first character out of the text, or what is the beginning of one
 * at most, and write it.  What stands for a byte is as long as U+FFFD, or is
 * ASCII: no more is written than was taken. */
static size_t
decode_one(ScText *text, char *out)
{
    unsigned char bytes[4], low, high;
    size_t written;
    bytes[0] = first_byte(*text, &written);
    text->at += written;
    text->length -= written;
    unsigned wanted = sequence_length(bytes[0], &low, &high), got = 1;
    while (got < wanted && text->length > 0) {
        bytes[got] = first_byte(*text, &written);
        if (bytes[got] < low || bytes[got] > high) {
            break;
        }
        text->at += written;
        text->length -= written;
        low = 0x80;
        high = 0xBF;
        got++;
    }
    if (got != wanted) {
        /* U+FFFD */
        out[0] = '\xEF';
        out[1] = '\xBF';
        out[2] = '\xBD';
        return 3;
    }
    memcpy(out, bytes, got);
    return got;
}

size_t
sc_baggage_decode(ScText value, char *out)
{
    size_t length = 0;
    while (value.length > 0) {
        length += decode_one(&value, out + length);
    }
    return length;
}

static size_t
encode_one(char byte, char *out)
{
    static const char digits[] = "0123456789ABCDEF";
    if (is_octet(byte) && byte != '%') {
        out[0] = byte;
        return 1;
    }
    out[0] = '%';
    out[1] = digits[(unsigned char)byte >> 4];
    out[2] = digits[(unsigned char)byte & 15];
    return 3;
}

size_t
sc_baggage_encode(ScText value, char *out)
{
    size_t length = 0;
    for (size_t i = 0; i < value.length; i++) {
        length += encode_one(value.at[i], out + length);
    }
    return length;
}

/* -- Writing ------------------------------------------------------------ */

/* Counts what it is given, and keeps it as far as there is room; none where
 * `at` is NULL. */
typedef struct {
    char *at;
    size_t room;
    size_t length;
} Sink;

static void
sink_add(Sink *sink, const char *at, size_t length)
{
    if (sink->at != NULL && sink->length + length <= sink->room) {
        memcpy(sink->at + sink->length, at, length);
    }
    sink->length += length;
}

/* An encoded value, where a '%' that encodes nothing is made one that does
 * (section 3.3.1.3). */
static void
sink_add_value(Sink *sink, ScText value)
{
    while (value.length > 0) {
        size_t plain = 0;
        while (plain < value.length && value.at[plain] != '%') {
            plain++;
        }
        if (plain > 0) {
            sink_add(sink, value.at, plain);
        }
        value.at += plain;
        value.length -= plain;
        if (value.length == 0) {
            break;
        }
        bool encoded = encoded_byte(value) >= 0;
        size_t taken = encoded ? 3 : 1;
        sink_add(sink, encoded ? value.at : "%25", 3);
        value.at += taken;
        value.length -= taken;
    }
}

static void
sink_add_member(Sink *sink, const ScBaggageMember *member)
{
    sink_add(sink, member->key.at, member->key.length);
    sink_add(sink, "=", 1);
    sink_add_value(sink, member->value);
    ScText rest = member->properties;
    ScBaggageProperty property;
    while (sc_baggage_property(&rest, &property)) {
        sink_add(sink, ";", 1);
        sink_add(sink, property.key.at, property.key.length);
        if (property.has_value) {
            sink_add(sink, "=", 1);
            sink_add_value(sink, property.value);
        }
    }
}

/* Where a text goes on: after a comma, if there are members before. */
static Sink
text_sink(ScBaggageText *text)
{
    Sink sink = {text->text, SC_BAGGAGE_LENGTH, text->length};
    if (text->count > 0) {
        sink_add(&sink, ",", 1);
    }
    return sink;
}

static ScBaggageStatus
text_keep(ScBaggageText *text, const Sink *sink)
{
    if (sink->length > SC_BAGGAGE_LENGTH ||
        text->count == SC_BAGGAGE_MEMBERS) {
        return SC_BAGGAGE_LIMIT;
    }
    text->length = sink->length;
    text->count++;
    return SC_BAGGAGE_OK;
}

ScBaggageStatus
sc_baggage_put_list(ScBaggageText *text, const ScBaggage *list)
{
    ScBaggageStatus status = SC_BAGGAGE_OK;
    for (unsigned i = 0; i < list->count; i++) {
        Sink sink = text_sink(text);
        sink_add_member(&sink, &list->members[i]);
        if (text_keep(text, &sink) != SC_BAGGAGE_OK) {
            status = SC_BAGGAGE_LIMIT;
        }
    }
    return status;
}

ScBaggageStatus
sc_baggage_put(ScBaggageText *text, ScText key, ScText value)
{
    if (!is_token(key)) {
        return SC_BAGGAGE_KEY;
    }
    Sink sink = text_sink(text);
    sink_add(&sink, key.at, key.length);
    sink_add(&sink, "=", 1);
    for (size_t i = 0; i < value.length; i++) {
        char encoded[3];
        sink_add(&sink, encoded, encode_one(value.at[i], encoded));
    }
    return text_keep(text, &sink);
}

/* -- Parsing ------------------------------------------------------------ */

static void
list_add(ScBaggage *list, const ScBaggageMember *member)
{
    Sink sink = {NULL, 0, 0};
    sink_add_member(&sink, member);
    size_t length = list->length + sink.length + (list->count > 0);
    if (length > SC_BAGGAGE_LENGTH || list->count == SC_BAGGAGE_MEMBERS) {
        list->dropped++;
        return;
    }
    list->members[list->count++] = *member;
    list->length = length;
}

void
sc_baggage_parse(const ScText *lines, size_t count, ScBaggage *out)
{
    out->count = out->invalid = out->dropped = 0;
    out->length = 0;
    for (size_t i = 0; i < count; i++) {
        ScText rest = lines[i], piece;
        while (sc_text_split(&rest, ',', &piece)) {
            piece = sc_text_trim(piece);
            ScBaggageMember member;
            if (piece.length == 0) {
                continue;
            }
            if (!member_parse(piece, &member)) {
                out->invalid++;
                continue;
            }
            list_add(out, &member);
        }
    }
}
