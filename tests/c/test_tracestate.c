/* Trace context, tracestate: the examples and requirements of W3C Trace
 * Context, level 1 and level 2, and the cases of the W3C's own harness (named
 * test_*) and of its own parser (TestTracestate).  Sections are those of level
 * 2. */
#include "field_lines.h"
#include "middleware/trace_context.h"

#define OK SC_TRACE_OK
#define ABSENT SC_TRACE_ABSENT
#define KEY SC_TRACE_KEY
#define VALUE SC_TRACE_VALUE
#define DUPLICATE SC_TRACE_DUPLICATE
#define MEMBERS SC_TRACE_MEMBERS

#define ROW(what, ...)              \
    {                               \
        __LINE__, what, __VA_ARGS__ \
    }

/* Where levels 1 and 2 agree, `level_2` is the same status. */
typedef struct {
    int line;
    const char *what;
    const char *lines[5];
    ScTraceStatus level_1, level_2;
    const char *written; /* NULL: what is on the first line */
} StateRow;

#define KEY_CHARS "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
#define VALUE_CHARS                                                     \
    " !\"#$%&'()*+-./0123456789:;<>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`" \
    "abcdefghijklmnopqrstuvwxyz{|}~"

#define TEN(n)                                                          \
    "bar" n "1=" n "1,bar" n "2=" n "2,bar" n "3=" n "3,bar" n "4=" n   \
    "4,bar" n "5=" n "5,bar" n "6=" n "6,bar" n "7=" n "7,bar" n "8=" n \
    "8,bar" n "9=" n "9,bar" n "0=" n "0"

static const StateRow state_rows[] = {
    /* 3.1, 3.3: the examples. */
    ROW("3.1", {"congo=t61rcWkgMzE"}, OK, OK, NULL),
    ROW("3.1", {"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}, OK, OK, NULL),
    ROW("3.1", {"congo=ucfJifl5GOE,rojo=00f067aa0ba902b7"}, OK, OK, NULL),
    ROW("3.3.2.1", {"vendorname1=opaqueValue1,vendorname2=opaqueValue2"}, OK,
        OK, NULL),
    ROW("3.3.3, would not be",
        {"congo=congosFirstPosition,rojo=rojosFirstPosition,"
         "congo=congosSecondPosition"},
        DUPLICATE, DUPLICATE, NULL),
    ROW("3.3.3, would be",
        {"congo=congosSecondPosition,rojo=rojosFirstPosition"}, OK, OK, NULL),
    ROW("3.3.4", {"rojo=00f067aa0ba902b7"}, OK, OK, NULL),
    ROW("level 1, 3.3.1.3.1", {"fw529a3039@dt=FfAwNjBh"}, OK, OK, NULL),

    /* 3.3.2: "MUST accept empty tracestate headers". */
    ROW("absent", {NULL}, ABSENT, ABSENT, NULL),
    ROW("empty", {""}, ABSENT, ABSENT, NULL),
    ROW("empty ones", {"", " ", ",", "\t,, \t"}, ABSENT, ABSENT, NULL),
    ROW("empty members", {",a=1,, \t ,b=2,"}, OK, OK, "a=1,b=2"),

    /* 3.3.2.2.1, and level 1's 3.3.1.3.1: keys. */
    ROW("one character", {"a=1"}, OK, OK, NULL),
    ROW("begins with a digit", {"1a=1"}, KEY, OK, NULL),
    ROW("is a digit", {"0=1"}, KEY, OK, NULL),
    ROW("begins with an underscore", {"_a=1"}, KEY, KEY, NULL),
    ROW("begins with a dash", {"-a=1"}, KEY, KEY, NULL),
    ROW("begins with an asterisk", {"*a=1"}, KEY, KEY, NULL),
    ROW("begins with a slash", {"/a=1"}, KEY, KEY, NULL),
    ROW("is empty", {"=1"}, KEY, KEY, NULL),
    ROW("has no =", {"foobarbaz"}, KEY, KEY, NULL),
    ROW("has no =, beside a good one", {"a=1,foobarbaz"}, KEY, KEY, NULL),
    ROW("uppercase in it", {"aB=1"}, KEY, KEY, NULL),
    ROW("a tab in it", {"a\tb=1"}, KEY, KEY, NULL),
    ROW("below 'a'", {"a`=1"}, KEY, KEY, NULL),
    ROW("above 'z'", {"a{=1"}, KEY, KEY, NULL),
    ROW("not ASCII", {"\xC3\xBC=1"}, KEY, KEY, NULL),
    ROW("tenant begins with a digit", {"1a@b=1"}, OK, OK, NULL),
    ROW("system begins with a digit", {"a@1b=1"}, KEY, OK, NULL),
    ROW("system begins with a dash", {"a@-=1"}, KEY, OK, NULL),
    ROW("TestTracestate.test_setitem", {"special@vendor=abracadabra"}, OK, OK,
        NULL),
    ROW("TestTracestate.test_setitem", {"special@=abracadabra"}, KEY, OK,
        NULL),
    ROW("TestTracestate.test_setitem", {"special@@vendor=abracadabra"}, KEY,
        OK, NULL),
    ROW("TestTracestate.test_setitem", {"special@vendor@tenant=abracadabra"},
        KEY, OK, NULL),
    ROW("TestTracestate.test_setitem", {"1special=abracadabra"}, KEY, OK,
        NULL),
    ROW("TestTracestate.test_setitem", {"@vendor=abracadabra"}, KEY, KEY,
        NULL),
    ROW("TestTracestate.test_setitem", {"special.vendor=abracadabra"}, KEY,
        KEY, NULL),
    ROW("TestTracestate.test_setitem", {"foo="}, VALUE, VALUE, NULL),
    ROW("TestTracestate.test_setitem", {"foo=bar=baz"}, VALUE, VALUE, NULL),
    ROW("TestTracestate.test_all_allowed_chars", {KEY_CHARS "@=" VALUE_CHARS},
        KEY, OK, NULL),
    ROW("TestTracestate.test_delimiter", {"foo=1, \t bar=2"}, OK, OK,
        "foo=1,bar=2"),
    ROW("TestTracestate.test_delimiter", {"foo=1,\t \tbar=2"}, OK, OK,
        "foo=1,bar=2"),
    ROW("TestTracestate.test_method_from_string", {"foo=1", "bar=2", "baz=3"},
        OK, OK, "foo=1,bar=2,baz=3"),
    ROW("TestTracestate.test_method_from_string", {"baz=3", "bar=2", "foo=1"},
        OK, OK, "baz=3,bar=2,foo=1"),

    /* 3.3.2.2.2: values.  "All leading spaces MUST be preserved as part of
     * the value", trailing ones are not. */
    ROW("leading spaces", {"a=  1"}, OK, OK, NULL),
    ROW("trailing spaces", {"a=1  "}, OK, OK, "a=1"),
    ROW("both", {" a= 1 ,b= 2 "}, OK, OK, "a= 1,b= 2"),
    ROW("spaces within", {"a=1 2"}, OK, OK, NULL),
    ROW("spaces alone", {"a=  ,b=1"}, VALUE, VALUE, NULL),
    ROW("a tab", {"a=1\t2"}, VALUE, VALUE, NULL),
    ROW("a leading tab", {"a=\t1"}, VALUE, VALUE, NULL),
    ROW("a line end", {"a=1\n"}, VALUE, VALUE, NULL),
    ROW("a carriage return", {"a=1\r\nb=2"}, VALUE, VALUE, NULL),
    ROW("DEL", {"a=1\x7F"}, VALUE, VALUE, NULL),
    ROW("not ASCII", {"a=\xC3\xBC"}, VALUE, VALUE, NULL),
    ROW("= first", {"a==1"}, VALUE, VALUE, NULL),

    /* The harness. */
    ROW("test_tracestate_included_traceparent_included", {"foo=1,bar=2"}, OK,
        OK, NULL),
    ROW("test_tracestate_empty_header", {"foo=1", ""}, OK, OK, NULL),
    ROW("test_tracestate_empty_header", {"", "foo=1"}, OK, OK, "foo=1"),
    ROW("test_tracestate_multiple_headers_different_keys",
        {"foo=1,bar=2", "rojo=1,congo=2", "baz=3"}, OK, OK,
        "foo=1,bar=2,rojo=1,congo=2,baz=3"),
    ROW("test_tracestate_duplicated_keys", {"foo=1,foo=1"}, DUPLICATE,
        DUPLICATE, NULL),
    ROW("test_tracestate_duplicated_keys", {"foo=1,foo=2"}, DUPLICATE,
        DUPLICATE, NULL),
    ROW("test_tracestate_duplicated_keys", {"foo=1", "foo=1"}, DUPLICATE,
        DUPLICATE, NULL),
    ROW("test_tracestate_duplicated_keys", {"foo=1", "foo=2"}, DUPLICATE,
        DUPLICATE, NULL),
    ROW("one key begins with another", {"foo=1,foo1=1,fo=1"}, OK, OK, NULL),
    ROW("test_tracestate_all_allowed_characters", {KEY_CHARS "=" VALUE_CHARS},
        OK, OK, NULL),
    ROW("test_tracestate_all_allowed_characters",
        {KEY_CHARS "@a-z0-9_-*/=" VALUE_CHARS}, OK, OK, NULL),
    ROW("test_tracestate_ows_handling", {"foo=1 \t , \t bar=2, \t baz=3"}, OK,
        OK, "foo=1,bar=2,baz=3"),
    ROW("test_tracestate_ows_handling", {"foo=1\t \t,\t \tbar=2,\t \tbaz=3"},
        OK, OK, "foo=1,bar=2,baz=3"),
    ROW("test_tracestate_ows_handling", {" foo=1"}, OK, OK, "foo=1"),
    ROW("test_tracestate_ows_handling", {"\tfoo=1"}, OK, OK, "foo=1"),
    ROW("test_tracestate_ows_handling", {"foo=1 "}, OK, OK, "foo=1"),
    ROW("test_tracestate_ows_handling", {"foo=1\t"}, OK, OK, "foo=1"),
    ROW("test_tracestate_ows_handling", {"\t foo=1 \t"}, OK, OK, "foo=1"),
    ROW("test_tracestate_key_illegal_characters", {"foo =1"}, KEY, KEY, NULL),
    ROW("test_tracestate_key_illegal_characters", {"FOO=1"}, KEY, KEY, NULL),
    ROW("test_tracestate_key_illegal_characters", {"foo.bar=1"}, KEY, KEY,
        NULL),
    /* Of level 1: level 2 dropped the difference between tenant and system,
     * the harness at its strict level did not. */
    ROW("test_tracestate_key_illegal_vendor_format", {"foo@=1,bar=2"}, KEY, OK,
        NULL),
    ROW("test_tracestate_key_illegal_vendor_format", {"@foo=1,bar=2"}, KEY,
        KEY, NULL),
    ROW("test_tracestate_key_illegal_vendor_format", {"foo@@bar=1,bar=2"}, KEY,
        OK, NULL),
    ROW("test_tracestate_key_illegal_vendor_format", {"foo@bar@baz=1,bar=2"},
        KEY, OK, NULL),
    ROW("test_tracestate_member_count_limit",
        {TEN("0"), TEN("1"), TEN("2"), "bar31=31,bar32=32"}, OK, OK,
        TEN("0") "," TEN("1") "," TEN("2") ",bar31=31,bar32=32"),
    ROW("test_tracestate_member_count_limit",
        {TEN("0"), TEN("1"), TEN("2"), "bar31=31,bar32=32,bar33=33"}, MEMBERS,
        MEMBERS, NULL),
    ROW("empty ones do not count",
        {TEN("0"), TEN("1"), TEN("2"), ", ,bar31=31,", "bar32=32,,"}, OK, OK,
        TEN("0") "," TEN("1") "," TEN("2") ",bar31=31,bar32=32"),
    ROW("test_tracestate_value_illegal_characters", {"foo=bar=baz"}, VALUE,
        VALUE, NULL),
    ROW("test_tracestate_value_illegal_characters", {"foo=,bar=3"}, VALUE,
        VALUE, NULL),
};

static void
check_state(const StateRow *row, unsigned grammar, ScTraceStatus status)
{
    Lines lines;
    lines_make(&lines, row->lines, 5);
    char *out = malloc(SC_TRACESTATE_LONGEST);
    ScTracestate state = sc_tracestate_parse(lines.lines, lines.count, grammar,
                                             out, SC_TRACESTATE_LONGEST);
    check_number(row->line, row->what, state.status, status);
    CHECK_EQ(state.dropped, 0);
    const char *written = row->written ? row->written : row->lines[0];
    if (status != OK) {
        written = "";
        CHECK_EQ(state.members, 0);
    }
    check_same(row->line, row->what, (ScText){out, state.length},
               text_of(written));
    free(out);
    lines_free(&lines);
}

static void
test_states(void)
{
    for (size_t i = 0; i < sizeof(state_rows) / sizeof(*state_rows); i++) {
        const StateRow *row = &state_rows[i];
        check_state(row, SC_TRACESTATE_LEVEL_1, row->level_1);
        check_state(row, SC_TRACESTATE_LEVEL_2, row->level_2);
    }
}

/* Each of the two differences alone. */
static void
test_the_grammars_apart(void)
{
    static const struct {
        const char *text;
        unsigned needs;
    } rows[] = {
        {"1a=1", SC_TRACESTATE_DIGIT_FIRST}, {"a@=1", SC_TRACESTATE_ANY_AT},
        {"a@@b=1", SC_TRACESTATE_ANY_AT},    {"a@b@c=1", SC_TRACESTATE_ANY_AT},
        {"1@=1", SC_TRACESTATE_ANY_AT},      {"1a@b=1", 0},
    };
    char out[SC_TRACESTATE_LIMIT];
    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        for (unsigned grammar = 0; grammar <= 3; grammar++) {
            ScText line = text_of(rows[i].text);
            ScTracestate state =
                sc_tracestate_parse(&line, 1, grammar, out, sizeof(out));
            bool good = (grammar & rows[i].needs) == rows[i].needs;
            check_number((int)grammar, rows[i].text, state.status,
                         good ? OK : KEY);
        }
    }
}

typedef struct {
    int tenant, system; /* lengths; system -1: no '@' */
    ScTraceStatus level_1, level_2;
} KeyLengthRow;

/* test_tracestate_key_length_limit; 3.3.2.2.1: "up to 256 characters". */
static void
test_lengths_of_keys(void)
{
    static const KeyLengthRow rows[] = {
        {256, -1, OK, OK},  {257, -1, KEY, KEY}, {241, 14, OK, OK},
        {242, 1, KEY, OK},  {1, 15, KEY, OK},    {241, 15, KEY, KEY},
        {242, 13, KEY, OK}, {1, 1, OK, OK},      {254, 1, KEY, OK},
        {255, 1, KEY, KEY},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char text[600] = "foo=1,", out[SC_TRACESTATE_LIMIT];
        char *at = text + strlen(text);
        memset(at, 't', (size_t)rows[i].tenant);
        at += rows[i].tenant;
        if (rows[i].system >= 0) {
            *at++ = '@';
            memset(at, 'v', (size_t)rows[i].system);
            at += rows[i].system;
        }
        strcpy(at, "=1");
        ScText line = text_of(text);
        ScTracestate state = sc_tracestate_parse(
            &line, 1, SC_TRACESTATE_LEVEL_1, out, sizeof(out));
        check_number((int)i, "level 1", state.status, rows[i].level_1);
        state = sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_2, out,
                                    sizeof(out));
        check_number((int)i, "level 2", state.status, rows[i].level_2);
    }
}

/* 3.3.2.2.2: "up to 256"; a space at its end is not of it. */
static void
test_lengths_of_values(void)
{
    char text[300], out[SC_TRACESTATE_LIMIT];
    memset(text, 'x', sizeof(text));
    memcpy(text, "a=", 2);
    ScText line = {text, 2 + 256};
    ScTracestate state =
        sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
    CHECK_EQ(state.status, OK);
    CHECK_EQ(state.length, 258);
    text[2 + 256] = ' ';
    line.length++;
    state =
        sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
    CHECK_EQ(state.length, 258);
    text[2 + 256] = 'x';
    state =
        sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
    CHECK_EQ(state.status, VALUE);
}

static void
test_a_state_with_nul(void)
{
    char out[SC_TRACESTATE_LIMIT];
    Lines lines = {0};
    lines_add(&lines, "a=1\0", 4);
    lines_add(&lines, "a\0=1", 4);
    ScTracestate state = sc_tracestate_parse(
        &lines.lines[0], 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
    CHECK_EQ(state.status, VALUE);
    state = sc_tracestate_parse(&lines.lines[1], 1, SC_TRACESTATE_LEVEL_2, out,
                                sizeof(out));
    CHECK_EQ(state.status, KEY);
    lines_free(&lines);
}

/* 3.3.3.1: whole entries go, those of more than 128 characters first, then
 * from the end. */
static void
test_truncation(void)
{
    char text[1200];
    int used = sprintf(text,
                       "a=1,long1=%0123d,b=2,long2=%0122d,c=3,"
                       "long3=%0130d,d=4",
                       1, 2, 3);
    ScText line = {text, (size_t)used};
    /* Members have 3, 129, 3, 128, 3, 136 and 3 characters. */
    static const struct {
        size_t size;
        const char *keys;
    } rows[] = {
        {411, "a long1 b long2 c long3 d "}, /* all, with six commas */
        {410, "a long1 b long2 c d "},
        {274, "a long1 b long2 c d "},
        {273, "a b long2 c d "},
        {144, "a b long2 c d "},
        {143, "a b long2 c "},
        {140, "a b long2 c "},
        {139, "a b long2 "},
        {136, "a b long2 "},
        {135, "a b "},
        {7, "a b "},
        {6, "a "},
        {3, "a "},
        {2, ""},
        {0, ""},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char *out = malloc(rows[i].size > 0 ? rows[i].size : 1);
        ScTracestate state = sc_tracestate_parse(
            &line, 1, SC_TRACESTATE_LEVEL_2, out, rows[i].size);
        CHECK_EQ(state.status, OK);
        CHECK(state.length <= rows[i].size);
        CHECK_EQ(state.members + state.dropped, 7);
        char keys[100] = "";
        ScText rest = {state.length > 0 ? out : NULL, state.length};
        ScText member, key;
        while (sc_text_split(&rest, ',', &member)) {
            sc_text_split(&member, '=', &key);
            sprintf(keys + strlen(keys), "%.*s ", (int)key.length, key.at);
        }
        check_same((int)rows[i].size, "truncated", text_of(keys),
                   text_of(rows[i].keys));
        free(out);
    }
}

/* "SHOULD propagate at least 512 characters": they all are. */
static void
test_512_characters(void)
{
    char text[513], out[SC_TRACESTATE_LIMIT];
    memset(text, 'x', sizeof(text));
    memcpy(text, "foo=", 4);
    memcpy(text + 4 + 250, ",bar=", 5);
    ScText line = {text, 512};
    ScTracestate state =
        sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
    CHECK_EQ(state.status, OK);
    check_same(__LINE__, "512", (ScText){out, state.length}, line);
}

static void
test_the_longest_state(void)
{
    char *text = malloc(SC_TRACESTATE_LONGEST + 1), *at = text;
    char *out = malloc(SC_TRACESTATE_LONGEST);
    for (int i = 0; i < SC_TRACESTATE_MEMBERS; i++) {
        memset(at, 'k', 256);
        at[0] = (char)('a' + i % 26);
        at[255] = (char)('0' + i / 26);
        at[256] = '=';
        memset(at + 257, 'v', 256);
        at[513] = ',';
        at += 514;
    }
    ScText line = {text, SC_TRACESTATE_LONGEST};
    ScTracestate state = sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_1,
                                             out, SC_TRACESTATE_LONGEST);
    CHECK_EQ(state.status, OK);
    CHECK_EQ(state.members, SC_TRACESTATE_MEMBERS);
    check_same(__LINE__, "the longest", (ScText){out, state.length}, line);
    state = sc_tracestate_parse(&line, 1, SC_TRACESTATE_LEVEL_1, out,
                                SC_TRACESTATE_LONGEST - 1);
    CHECK_EQ(state.members, SC_TRACESTATE_MEMBERS - 1);
    free(text);
    free(out);
}

static void
test_a_state_of_a_megabyte(void)
{
    size_t length = 1 << 20;
    char *text = malloc(length), out[SC_TRACESTATE_LIMIT];
    ScText line = {text, length};
    static const struct {
        char byte;
        ScTraceStatus status;
    } rows[] = {{',', ABSENT}, {' ', ABSENT}, {'a', KEY}, {'=', KEY}};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        memset(text, rows[i].byte, length);
        ScTracestate state = sc_tracestate_parse(
            &line, 1, SC_TRACESTATE_LEVEL_2, out, sizeof(out));
        CHECK_EQ(state.status, rows[i].status);
    }
    free(text);
}

int
main(void)
{
    test_states();
    test_the_grammars_apart();
    test_lengths_of_keys();
    test_lengths_of_values();
    test_a_state_with_nul();
    test_truncation();
    test_512_characters();
    test_the_longest_state();
    test_a_state_of_a_megabyte();
    return 0;
}
