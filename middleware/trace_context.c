#include "trace_context.h"

#include "entropy.h"

/* version "-" trace-id "-" parent-id "-" trace-flags */
#define TRACE_ID_AT 3
#define PARENT_ID_AT (TRACE_ID_AT + SC_TRACE_ID_LENGTH + 1)
#define FLAGS_AT (PARENT_ID_AT + SC_SPAN_ID_LENGTH + 1)

#define KEY_LIMIT 256
#define TENANT_LIMIT 241
#define SYSTEM_LIMIT 14
#define VALUE_LIMIT 256
/* Where room is short, members longer than this go first. */
#define LONG_MEMBER 128

/* -- traceparent -------------------------------------------------------- */

/* HEXDIGLC; -1 for everything else, uppercase among it. */
static int
hex_value(char byte)
{
    if (sc_is_digit(byte)) {
        return byte - '0';
    }
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static bool
all_hex(const char *at, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (hex_value(at[i]) < 0) {
            return false;
        }
    }
    return true;
}

static bool
all_zeros(const char *at, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (at[i] != '0') {
            return false;
        }
    }
    return true;
}

/* At least 55 characters: whether they are of the form that every version
 * has, and what follows them is of the form that this version allows. */
static bool
has_form(ScText value)
{
    const char *at = value.at;
    if (!all_hex(at, 2) || at[TRACE_ID_AT - 1] != '-' ||
        !all_hex(at + TRACE_ID_AT, SC_TRACE_ID_LENGTH) ||
        at[PARENT_ID_AT - 1] != '-' ||
        !all_hex(at + PARENT_ID_AT, SC_SPAN_ID_LENGTH) ||
        at[FLAGS_AT - 1] != '-' || !all_hex(at + FLAGS_AT, 2)) {
        return false;
    }
    if (memcmp(at, "ff", 2) == 0) {
        return false;
    }
    return value.length == SC_TRACEPARENT_LENGTH ||
           (memcmp(at, "00", 2) != 0 && at[SC_TRACEPARENT_LENGTH] == '-');
}

ScTraceStatus
sc_traceparent_parse(const ScText *lines, size_t count, ScTraceContext *out)
{
    if (count == 0) {
        return SC_TRACE_ABSENT;
    }
    if (count > 1) {
        return SC_TRACE_SEVERAL;
    }
    ScText value = sc_text_trim(lines[0]);
    if (value.length == 0) {
        return SC_TRACE_ABSENT;
    }
    if (memchr(value.at, ',', value.length) != NULL) {
        return SC_TRACE_SEVERAL;
    }
    if (value.length < SC_TRACEPARENT_LENGTH || !has_form(value)) {
        return SC_TRACE_MALFORMED;
    }
    if (all_zeros(value.at + TRACE_ID_AT, SC_TRACE_ID_LENGTH) ||
        all_zeros(value.at + PARENT_ID_AT, SC_SPAN_ID_LENGTH)) {
        return SC_TRACE_ZEROS;
    }
    memcpy(out->trace_id, value.at + TRACE_ID_AT, SC_TRACE_ID_LENGTH);
    memcpy(out->parent_id, value.at + PARENT_ID_AT, SC_SPAN_ID_LENGTH);
    /* The known flags are in the second digit. */
    out->flags =
        (unsigned char)(hex_value(value.at[FLAGS_AT + 1]) & SC_TRACE_FLAGS);
    return SC_TRACE_OK;
}

void
sc_traceparent_write(const ScTraceContext *context, char *out)
{
    out[0] = out[1] = '0';
    out[TRACE_ID_AT - 1] = '-';
    memcpy(out + TRACE_ID_AT, context->trace_id, SC_TRACE_ID_LENGTH);
    out[PARENT_ID_AT - 1] = '-';
    memcpy(out + PARENT_ID_AT, context->parent_id, SC_SPAN_ID_LENGTH);
    out[FLAGS_AT - 1] = '-';
    out[FLAGS_AT] = '0';
    out[FLAGS_AT + 1] = (char)('0' + (context->flags & SC_TRACE_FLAGS));
}

/* An id of `length` digits, at most 32.  One of all zeros, which is none,
 * gets a 1 on the left: on the right each value is as likely as another. */
static void
id_make(char *out, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[SC_TRACE_ID_LENGTH / 2];
    sc_entropy_fill(bytes, length / 2);
    for (size_t i = 0; i < length / 2; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    if (all_zeros(out, length)) {
        out[0] = '1';
    }
}

void
sc_span_id_make(char *out)
{
    id_make(out, SC_SPAN_ID_LENGTH);
}

void
sc_trace_start(ScTraceContext *out, bool sampled)
{
    id_make(out->trace_id, SC_TRACE_ID_LENGTH);
    id_make(out->parent_id, SC_SPAN_ID_LENGTH);
    out->flags = SC_TRACE_RANDOM | (sampled ? SC_TRACE_SAMPLED : 0);
}

void
sc_trace_continue(const ScTraceContext *from, ScTraceContext *out)
{
    char before[SC_SPAN_ID_LENGTH];
    memcpy(before, from->parent_id, SC_SPAN_ID_LENGTH);
    *out = *from;
    do {
        sc_span_id_make(out->parent_id);
    } while (memcmp(before, out->parent_id, SC_SPAN_ID_LENGTH) == 0);
}

/* -- tracestate --------------------------------------------------------- */

typedef struct {
    ScText whole; /* key=value */
    size_t key_length;
    bool dropped;
} Member;

typedef struct {
    Member members[SC_TRACESTATE_MEMBERS];
    unsigned count;
} List;

static bool
is_key_char(char byte)
{
    return sc_is_lower(byte) || sc_is_digit(byte) || byte == '_' ||
           byte == '-' || byte == '*' || byte == '/';
}

/* The key has an '@' at `at_sign` and nothing but key characters around. */
static bool
is_tenant_key(ScText key, size_t at_sign)
{
    size_t system_length = key.length - at_sign - 1;
    return at_sign <= TENANT_LIMIT && system_length > 0 &&
           system_length <= SYSTEM_LIMIT && sc_is_lower(key.at[at_sign + 1]);
}

static bool
is_key(ScText key, unsigned grammar)
{
    if (key.length == 0 || key.length > KEY_LIMIT ||
        !(sc_is_lower(key.at[0]) || sc_is_digit(key.at[0]))) {
        return false;
    }
    size_t at_sign = 0, at_signs = 0;
    for (size_t i = 0; i < key.length; i++) {
        if (key.at[i] == '@') {
            at_sign = i;
            at_signs++;
        }
        else if (!is_key_char(key.at[i])) {
            return false;
        }
    }
    if (at_signs == 0) {
        return sc_is_lower(key.at[0]) || grammar & SC_TRACESTATE_DIGIT_FIRST;
    }
    return grammar & SC_TRACESTATE_ANY_AT ||
           (at_signs == 1 && is_tenant_key(key, at_sign));
}

/* White space after it has been trimmed: it ends with no space. */
static bool
is_value(ScText value)
{
    if (value.length == 0 || value.length > VALUE_LIMIT) {
        return false;
    }
    for (size_t i = 0; i < value.length; i++) {
        char byte = value.at[i];
        if (byte < ' ' || byte > '~' || byte == '=') {
            return false;
        }
    }
    return true;
}

static bool
has_key(const List *list, ScText key)
{
    for (unsigned i = 0; i < list->count; i++) {
        const Member *member = &list->members[i];
        if (member->key_length == key.length &&
            memcmp(member->whole.at, key.at, key.length) == 0) {
            return true;
        }
    }
    return false;
}

static ScTraceStatus
add_member(List *list, ScText whole, unsigned grammar)
{
    ScText value = whole, key;
    sc_text_split(&value, '=', &key);
    if (value.at == NULL || !is_key(key, grammar)) {
        return SC_TRACE_KEY;
    }
    if (!is_value(value)) {
        return SC_TRACE_VALUE;
    }
    if (has_key(list, key)) {
        return SC_TRACE_DUPLICATE;
    }
    if (list->count == SC_TRACESTATE_MEMBERS) {
        return SC_TRACE_MEMBERS;
    }
    list->members[list->count++] = (Member){whole, key.length, false};
    return SC_TRACE_OK;
}

static ScTraceStatus
list_parse(List *list, const ScText *lines, size_t count, unsigned grammar)
{
    list->count = 0;
    for (size_t i = 0; i < count; i++) {
        ScText rest = lines[i], piece;
        while (sc_text_split(&rest, ',', &piece)) {
            piece = sc_text_trim(piece);
            if (piece.length == 0) {
                continue;
            }
            ScTraceStatus status = add_member(list, piece, grammar);
            if (status != SC_TRACE_OK) {
                return status;
            }
        }
    }
    return list->count > 0 ? SC_TRACE_OK : SC_TRACE_ABSENT;
}

/* Drop members longer than `longer_than`, from the right, until the others
 * and a comma after each fit; the length of what is left. */
static size_t
drop_members(List *list, size_t length, size_t size, size_t longer_than)
{
    for (unsigned i = list->count; i > 0 && length > size; i--) {
        Member *member = &list->members[i - 1];
        if (!member->dropped && member->whole.length > longer_than) {
            member->dropped = true;
            length -= member->whole.length + 1;
        }
    }
    return length;
}

static void
list_write(List *list, char *out, size_t size, ScTracestate *result)
{
    size_t length = 0;
    for (unsigned i = 0; i < list->count; i++) {
        length += list->members[i].whole.length + 1;
    }
    /* No comma comes after the last one. */
    length = drop_members(list, length, size + 1, LONG_MEMBER);
    drop_members(list, length, size + 1, 0);
    for (unsigned i = 0; i < list->count; i++) {
        ScText whole = list->members[i].whole;
        if (list->members[i].dropped) {
            result->dropped++;
            continue;
        }
        if (result->members++ > 0) {
            out[result->length++] = ',';
        }
        memcpy(out + result->length, whole.at, whole.length);
        result->length += whole.length;
    }
}

ScTracestate
sc_tracestate_parse(const ScText *lines, size_t count, unsigned grammar,
                    char *out, size_t size)
{
    ScTracestate result = {SC_TRACE_OK, 0, 0, 0};
    List list;
    result.status = list_parse(&list, lines, count, grammar);
    if (result.status == SC_TRACE_OK) {
        list_write(&list, out, size, &result);
    }
    return result;
}
