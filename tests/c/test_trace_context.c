/* Trace context, traceparent and ids: the examples and requirements of W3C
 * Trace Context, level 1 and level 2, and the cases of the W3C's own harness
 * (named test_*).  Sections are those of level 2. */
#include "entropy_check.h"
#include "field_lines.h"
#include "middleware/trace_context.h"

#define TRACE "12345678901234567890123456789012"
#define SPAN "1234567890123456"
#define PARENT "00-" TRACE "-" SPAN "-01"

#define OK SC_TRACE_OK
#define ABSENT SC_TRACE_ABSENT
#define SEVERAL SC_TRACE_SEVERAL
#define MALFORMED SC_TRACE_MALFORMED
#define ZEROS SC_TRACE_ZEROS

typedef struct {
    int line;
    const char *what;
    const char *lines[3];
    ScTraceStatus status;
    const char *written; /* NULL: what is on the only line */
} ParentRow;

#define ROW(what, ...)              \
    {                               \
        __LINE__, what, __VA_ARGS__ \
    }

static const ParentRow parent_rows[] = {
    /* 3.1, 3.2.3: the examples. */
    ROW("3.1", {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, OK,
        NULL),
    ROW("3.1", {"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}, OK,
        NULL),
    ROW("3.1", {"00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"}, OK,
        NULL),
    ROW("3.2.3, sampled",
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, OK, NULL),
    ROW("3.2.3, not sampled",
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}, OK, NULL),

    /* 3.2.2.5.2: the random flag is passed on as it came. */
    ROW("random", {"00-" TRACE "-" SPAN "-02"}, OK, NULL),
    ROW("random and sampled", {"00-" TRACE "-" SPAN "-03"}, OK, NULL),
    /* 3.2.2.5.3: "Vendors MUST set those to zero."  09 is 3.2.2.5's example
     * of a flag beside another. */
    ROW("other flags", {"00-" TRACE "-" SPAN "-09"}, OK,
        "00-" TRACE "-" SPAN "-01"),
    ROW("other flags", {"00-" TRACE "-" SPAN "-fc"}, OK,
        "00-" TRACE "-" SPAN "-00"),
    ROW("all flags", {"00-" TRACE "-" SPAN "-ff"}, OK,
        "00-" TRACE "-" SPAN "-03"),
    ROW("of the first digit", {"00-" TRACE "-" SPAN "-f0"}, OK,
        "00-" TRACE "-" SPAN "-00"),
    ROW("0c", {"00-" TRACE "-" SPAN "-0c"}, OK, "00-" TRACE "-" SPAN "-00"),

    /* 3.2.2: the forms of the fields. */
    ROW("uppercase trace id",
        {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"}, MALFORMED,
        NULL),
    ROW("one uppercase digit",
        {"00-4bf92f3577b34da6a3ce929d0e0e473A-00f067aa0ba902b7-01"}, MALFORMED,
        NULL),
    ROW("uppercase parent id",
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01"}, MALFORMED,
        NULL),
    ROW("uppercase flags", {"00-" TRACE "-" SPAN "-0A"}, MALFORMED, NULL),
    ROW("uppercase version", {"CC-" TRACE "-" SPAN "-01"}, MALFORMED, NULL),
    ROW("underscores for dashes", {"00_" TRACE "_" SPAN "_01"}, MALFORMED,
        NULL),
    ROW("second dash", {"00-" TRACE "+" SPAN "-01"}, MALFORMED, NULL),
    ROW("third dash", {"00-" TRACE "-" SPAN "+01"}, MALFORMED, NULL),
    ROW("below '0'", {"00-" TRACE "-123456789012345/-01"}, MALFORMED, NULL),
    ROW("above '9'", {"00-" TRACE "-123456789012345:-01"}, MALFORMED, NULL),
    ROW("above 'f'", {"00-" TRACE "-123456789012345g-01"}, MALFORMED, NULL),
    ROW("below 'a'", {"00-" TRACE "-123456789012345`-01"}, MALFORMED, NULL),
    ROW("no header", {NULL}, ABSENT, NULL),
    ROW("empty", {""}, ABSENT, NULL),
    ROW("white space", {" \t "}, ABSENT, NULL),
    ROW("a line end before", {"\n" PARENT}, MALFORMED, NULL),
    ROW("a line end after", {PARENT "\n"}, MALFORMED, NULL),
    ROW("a carriage return after", {PARENT "\r"}, MALFORMED, NULL),
    ROW("quoted", {"\"" PARENT "\""}, MALFORMED, NULL),
    ROW("54 characters", {"00-" TRACE "-" SPAN "-0"}, MALFORMED, NULL),
    ROW("not ASCII", {"00-" TRACE "-" SPAN "-\xC3\xBC"}, MALFORMED, NULL),

    /* 3.2.4: higher versions. */
    ROW("version 01", {"01-" TRACE "-" SPAN "-01"}, OK, PARENT),
    ROW("version fe", {"fe-" TRACE "-" SPAN "-01"}, OK, PARENT),
    ROW("shorter than 55", {"01-" TRACE "-" SPAN "-0"}, MALFORMED, NULL),
    ROW("more fields", {"01-" TRACE "-" SPAN "-01-"}, OK, PARENT),
    ROW("more fields", {"01-" TRACE "-" SPAN "-01-x_Y=\x7F\xFF;"}, OK, PARENT),
    ROW("longer flags", {"01-" TRACE "-" SPAN "-010"}, MALFORMED, NULL),
    ROW("flags are hex", {"01-" TRACE "-" SPAN "-0x"}, MALFORMED, NULL),
    ROW("its flags", {"01-" TRACE "-" SPAN "-ff"}, OK,
        "00-" TRACE "-" SPAN "-03"),
    ROW("trace id MUST be hex",
        {"01-1234567890123456789012345678901x-" SPAN "-01"}, MALFORMED, NULL),
    ROW("MUST be followed by a dash", {"01-" TRACE "0" SPAN "-01"}, MALFORMED,
        NULL),
    ROW("parent id MUST be hex", {"01-" TRACE "-123456789012345x-01"},
        MALFORMED, NULL),
    ROW("MUST be followed by a dash", {"01-" TRACE "-" SPAN "001"}, MALFORMED,
        NULL),
    ROW("all zeros", {"01-00000000000000000000000000000000-" SPAN "-01"},
        ZEROS, NULL),
    ROW("all zeros", {"01-" TRACE "-0000000000000000-01"}, ZEROS, NULL),

    /* The harness. */
    ROW("test_both_traceparent_and_tracestate_missing", {NULL}, ABSENT, NULL),
    ROW("test_traceparent_included_tracestate_missing", {PARENT}, OK, NULL),
    ROW("test_traceparent_duplicated",
        {"00-12345678901234567890123456789011-" SPAN "-01", PARENT}, SEVERAL,
        NULL),
    ROW("test_traceparent_duplicated, joined by the server",
        {"00-12345678901234567890123456789011-" SPAN "-01," PARENT}, SEVERAL,
        NULL),
    ROW("test_traceparent_duplicated, joined by the server",
        {"cc-" TRACE "-" SPAN "-01-x, " PARENT}, SEVERAL, NULL),
    ROW("twice the same", {PARENT, PARENT}, SEVERAL, NULL),
    ROW("with an empty one", {"", PARENT}, SEVERAL, NULL),
    ROW("test_traceparent_version_0x00", {PARENT "."}, MALFORMED, NULL),
    ROW("test_traceparent_version_0x00",
        {PARENT "-what-the-future-will-be-like"}, MALFORMED, NULL),
    ROW("test_traceparent_version_0xcc", {"cc-" TRACE "-" SPAN "-01"}, OK,
        PARENT),
    ROW("test_traceparent_version_0xcc",
        {"cc-" TRACE "-" SPAN "-01-what-the-future-will-be-like"}, OK, PARENT),
    ROW("test_traceparent_version_0xcc",
        {"cc-" TRACE "-" SPAN "-01.what-the-future-will-be-like"}, MALFORMED,
        NULL),
    ROW("test_traceparent_version_0xff", {"ff-" TRACE "-" SPAN "-01"},
        MALFORMED, NULL),
    ROW("ff with more", {"ff-" TRACE "-" SPAN "-01-x"}, MALFORMED, NULL),
    ROW("test_traceparent_version_illegal_characters",
        {".0-" TRACE "-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_version_illegal_characters",
        {"0.-" TRACE "-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_version_too_long", {"000-" TRACE "-" SPAN "-01"},
        MALFORMED, NULL),
    ROW("test_traceparent_version_too_long", {"0000-" TRACE "-" SPAN "-01"},
        MALFORMED, NULL),
    ROW("test_traceparent_version_too_short", {"0-" TRACE "-" SPAN "-01"},
        MALFORMED, NULL),
    ROW("test_traceparent_trace_id_all_zero",
        {"00-00000000000000000000000000000000-" SPAN "-01"}, ZEROS, NULL),
    ROW("test_traceparent_trace_id_illegal_characters",
        {"00-.2345678901234567890123456789012-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_trace_id_illegal_characters",
        {"00-1234567890123456789012345678901.-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_trace_id_too_long",
        {"00-123456789012345678901234567890123-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_trace_id_too_short",
        {"00-1234567890123456789012345678901-" SPAN "-01"}, MALFORMED, NULL),
    ROW("test_traceparent_parent_id_all_zero",
        {"00-" TRACE "-0000000000000000-01"}, ZEROS, NULL),
    ROW("test_traceparent_parent_id_illegal_characters",
        {"00-" TRACE "-.234567890123456-01"}, MALFORMED, NULL),
    ROW("test_traceparent_parent_id_illegal_characters",
        {"00-" TRACE "-123456789012345.-01"}, MALFORMED, NULL),
    ROW("test_traceparent_parent_id_too_long",
        {"00-" TRACE "-12345678901234567-01"}, MALFORMED, NULL),
    ROW("test_traceparent_parent_id_too_short",
        {"00-" TRACE "-123456789012345-01"}, MALFORMED, NULL),
    ROW("test_traceparent_trace_flags_illegal_characters",
        {"00-" TRACE "-" SPAN "-.0"}, MALFORMED, NULL),
    ROW("test_traceparent_trace_flags_illegal_characters",
        {"00-" TRACE "-" SPAN "-0."}, MALFORMED, NULL),
    ROW("test_traceparent_trace_flags_too_long", {"00-" TRACE "-" SPAN "-001"},
        MALFORMED, NULL),
    ROW("test_traceparent_trace_flags_too_short", {"00-" TRACE "-" SPAN "-1"},
        MALFORMED, NULL),
    ROW("test_traceparent_ows_handling", {" " PARENT}, OK, PARENT),
    ROW("test_traceparent_ows_handling", {"\t" PARENT}, OK, PARENT),
    ROW("test_traceparent_ows_handling", {PARENT " "}, OK, PARENT),
    ROW("test_traceparent_ows_handling", {PARENT "\t"}, OK, PARENT),
    ROW("test_traceparent_ows_handling", {"\t " PARENT " \t"}, OK, PARENT),
    ROW("test_multiple_requests_with_illegal_traceparent",
        {"00-00000000000000000000000000000000-" SPAN "-01"}, ZEROS, NULL),

    /* The harness's own parser of traceparent. */
    ROW("BaseTraceparentTest.test_from_string",
        {"00-ffffffffffffffffffffffffffffffff-" SPAN "-00"}, OK, NULL),
    ROW("BaseTraceparentTest.test_from_string",
        {"00-" TRACE "-ffffffffffffffff-00"}, OK, NULL),
    ROW("BaseTraceparentTest.test_from_string", {"02-" TRACE "-" SPAN "-00"},
        OK, "00-" TRACE "-" SPAN "-00"),
    ROW("BaseTraceparentTest.test_repr", {"12-" TRACE "-" SPAN "-ff"}, OK,
        "00-" TRACE "-" SPAN "-03"),
};

static void
check_parent(const ParentRow *row)
{
    Lines lines;
    lines_make(&lines, row->lines, 3);
    ScTraceContext context, before;
    memset(&context, '?', sizeof(context));
    before = context;
    ScTraceStatus status =
        sc_traceparent_parse(lines.lines, lines.count, &context);
    check_number(row->line, row->what, status, row->status);
    if (status != OK) {
        CHECK(memcmp(&context, &before, sizeof(context)) == 0);
    }
    else {
        char written[SC_TRACEPARENT_LENGTH];
        sc_traceparent_write(&context, written);
        check_same(row->line, row->what,
                   (ScText){written, SC_TRACEPARENT_LENGTH},
                   text_of(row->written ? row->written : row->lines[0]));
    }
    lines_free(&lines);
}

static void
test_parents(void)
{
    for (size_t i = 0; i < sizeof(parent_rows) / sizeof(*parent_rows); i++) {
        check_parent(&parent_rows[i]);
    }
}

/* Each byte in turn is each other byte: what is taken has the form, and every
 * place has its own. */
static void
test_each_byte_of_a_parent(void)
{
    static const char hex[] = "0123456789abcdef";
    for (unsigned place = 0; place < SC_TRACEPARENT_LENGTH; place++) {
        bool dash = place == 2 || place == 35 || place == 52;
        for (int byte = 0; byte < 256; byte++) {
            char value[] = PARENT;
            value[place] = (char)byte;
            bool good =
                dash ? byte == '-' : byte != 0 && strchr(hex, byte) != NULL;
            ScTraceContext context;
            ScText line = {value, SC_TRACEPARENT_LENGTH};
            check_number(byte, value,
                         sc_traceparent_parse(&line, 1, &context) == OK, good);
        }
    }
}

static void
test_a_parent_with_nul(void)
{
    Lines lines = {0};
    ScTraceContext context;
    lines_add(&lines, PARENT "\0", SC_TRACEPARENT_LENGTH + 1);
    lines_add(&lines, "cc-" TRACE "-" SPAN "-01-\0",
              SC_TRACEPARENT_LENGTH + 2);
    CHECK_EQ(sc_traceparent_parse(&lines.lines[0], 1, &context), MALFORMED);
    CHECK_EQ(sc_traceparent_parse(&lines.lines[1], 1, &context), OK);
    lines_free(&lines);
}

static void
test_a_parent_of_a_megabyte(void)
{
    size_t length = 1 << 20;
    char *text = malloc(length);
    CHECK(text != NULL);
    memset(text, '-', length);
    ScText line = {text, length};
    ScTraceContext context;
    CHECK_EQ(sc_traceparent_parse(&line, 1, &context), MALFORMED);
    memcpy(text, "cc-" TRACE "-" SPAN "-01", SC_TRACEPARENT_LENGTH);
    CHECK_EQ(sc_traceparent_parse(&line, 1, &context), OK);
    memset(text, ' ', length);
    CHECK_EQ(sc_traceparent_parse(&line, 1, &context), ABSENT);
    free(text);
}

/* -- A trace of ours ---------------------------------------------------- */

/* 3.2.2.3: what is started is valid and says that it is random; 3.2.2.5.1: it
 * is not sampled unless somebody decided. */
static void
test_start(void)
{
    ScTraceContext context, parsed;
    char written[SC_TRACEPARENT_LENGTH];
    ScText line = {written, SC_TRACEPARENT_LENGTH};
    sc_trace_start(&context, false);
    sc_traceparent_write(&context, written);
    CHECK(memcmp(written + 52, "-02", 3) == 0);
    CHECK_EQ(sc_traceparent_parse(&line, 1, &parsed), OK);
    CHECK(memcmp(&context, &parsed, sizeof(context)) == 0);
    sc_trace_start(&context, true);
    sc_traceparent_write(&context, written);
    CHECK(memcmp(written + 52, "-03", 3) == 0);
    CHECK(memcmp(context.trace_id, parsed.trace_id, SC_TRACE_ID_LENGTH) != 0);
}

/* 3.2.2.5.2: "set in the incoming ... MUST also be set in all outgoing", and
 * unset likewise; 3.4: a new parent id, all else the same. */
static void
test_continue(void)
{
    for (unsigned flags = 0; flags <= SC_TRACE_FLAGS; flags++) {
        ScTraceContext from, to;
        memcpy(from.trace_id, TRACE, SC_TRACE_ID_LENGTH);
        memcpy(from.parent_id, SPAN, SC_SPAN_ID_LENGTH);
        from.flags = (unsigned char)flags;
        sc_trace_continue(&from, &to);
        CHECK(memcmp(to.trace_id, TRACE, SC_TRACE_ID_LENGTH) == 0);
        CHECK(memcmp(to.parent_id, SPAN, SC_SPAN_ID_LENGTH) != 0);
        CHECK_EQ(to.flags, flags);
        ScTraceContext again = to;
        sc_trace_continue(&again, &again);
        CHECK(memcmp(again.parent_id, to.parent_id, SC_SPAN_ID_LENGTH) != 0);
        CHECK(memcmp(again.trace_id, TRACE, SC_TRACE_ID_LENGTH) == 0);
    }
}

/* Level 2, "randomness of trace-id": each bit is as likely as not.  20,000
 * tosses of a coin are outside 9,400 to 10,600 once in 10^16. */
static void
test_ids_are_random(void)
{
    enum { IDS = 20000 };
    static unsigned char bytes[IDS][16];
    for (unsigned i = 0; i < IDS; i++) {
        ScTraceContext context;
        sc_trace_start(&context, false);
        CHECK(hex_bytes(bytes[i], context.trace_id, SC_TRACE_ID_LENGTH));
    }
    check_bits(bytes[0], IDS, 16);
    for (unsigned i = 0; i < IDS; i++) {
        char span[SC_SPAN_ID_LENGTH];
        sc_span_id_make(span);
        CHECK(hex_bytes(bytes[0] + 8 * i, span, SC_SPAN_ID_LENGTH));
    }
    check_bits(bytes[0], IDS, 8);
}

int
main(void)
{
    test_parents();
    test_each_byte_of_a_parent();
    test_a_parent_with_nul();
    test_a_parent_of_a_megabyte();
    test_start();
    test_continue();
    test_ids_are_random();
    return 0;
}
