/* Baggage: percent-encoding and UTF-8, limits, and lists that are written.
 * Sections are those of https://www.w3.org/TR/baggage/; test_* are the W3C's
 * own tests. */
#include "field_lines.h"
#include "middleware/baggage.h"

#define FFFD "\xEF\xBF\xBD"
#define ODD "\t \"';=asdf!@#$%^&*()"

/* -- UTF-8 -------------------------------------------------------------- */

/* What comes of the bytes, each percent-encoded: the sequences of Unicode's
 * tables 3-8 to 3-11, and the borders of table 3-7. */
static void
test_utf8(void)
{
    static const struct {
        const char *bytes, *decoded;
    } utf8[] = {
        {"\xC0\xAF", FFFD FFFD},
        {"\xE0\x80\xBF\xF0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD "\x41"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41",
         FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "\x41"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
         FFFD FFFD FFFD FFFD FFFD "\x41" FFFD FFFD "\x42"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", FFFD FFFD FFFD FFFD "\x41"},
        {"\xC2\x80", "\xC2\x80"},
        {"\xDF\xBF", "\xDF\xBF"},
        {"\xE0\xA0\x80", "\xE0\xA0\x80"},
        {"\xE0\x9F\x80", FFFD FFFD FFFD},
        {"\xED\x9F\xBF", "\xED\x9F\xBF"},
        {"\xEE\x80\x80", "\xEE\x80\x80"},
        {"\xEF\xBF\xBF", "\xEF\xBF\xBF"},
        {"\xF0\x90\x80\x80", "\xF0\x90\x80\x80"},
        {"\xF0\x8F\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
        {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xF5\x80\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xC1\xBF", FFFD FFFD},
        {"\xFE\xFF", FFFD FFFD},
        {"\xF0\x9F\x98", FFFD},
        {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
        {"\xC3\xC3\xA9", FFFD "\xC3\xA9"},
    };
    for (unsigned i = 0; i < sizeof(utf8) / sizeof(*utf8); i++) {
        char encoded[100] = "";
        for (const char *at = utf8[i].bytes; *at != '\0'; at++) {
            sprintf(encoded + strlen(encoded), "%%%02X",
                    (unsigned)(unsigned char)*at);
        }
        char *out = malloc(strlen(encoded));
        size_t length = sc_baggage_decode(text_of(encoded), out);
        check_same((int)i, encoded, (ScText){out, length},
                   text_of(utf8[i].decoded));
        free(out);
    }
    /* A byte that is not encoded ends a sequence. */
    char out[20];
    size_t length = sc_baggage_decode(text_of("%C3a%E2%82z"), out);
    check_same(__LINE__, "cut", (ScText){out, length},
               text_of(FFFD "a" FFFD "z"));
    /* NUL is a code point. */
    length = sc_baggage_decode(text_of("a%00b"), out);
    check_same(__LINE__, "NUL", (ScText){out, length}, (ScText){"a\0b", 3});
}

/* 3.3.1.3: what MUST be encoded is, and comes back. */
static void
test_encode(void)
{
    char bytes[256], encoded[3 * 256], back[3 * 256];
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
    }
    size_t length = sc_baggage_encode((ScText){bytes, 128}, encoded);
    check_same(__LINE__, "ASCII", (ScText){encoded, length},
               text_of("%00%01%02%03%04%05%06%07%08%09%0A%0B%0C%0D%0E%0F%10%11"
                       "%12%13%14%15%16%17%18%19%1A%1B%1C%1D%1E%1F%20!%22#$%25"
                       "&'()*+%2C-./0123456789:%3B<=>?@"
                       "ABCDEFGHIJKLMNOPQRSTUVWXYZ[%5C]^_`"
                       "abcdefghijklmnopqrstuvwxyz{|}~%7F"));
    length = sc_baggage_decode((ScText){encoded, length}, back);
    check_same(__LINE__, "ASCII again", (ScText){back, length},
               (ScText){bytes, 128});
    length =
        sc_baggage_encode(text_of("Am\xC3\xA9lie \xF0\x9F\x98\x80"), encoded);
    check_same(__LINE__, "UTF-8", (ScText){encoded, length},
               text_of("Am%C3%A9lie%20%F0%9F%98%80"));
    CHECK_EQ(sc_baggage_encode((ScText){bytes, 256}, encoded),
             256 * 3 - 2 * (26 + 26 + 10 + 27));
}

/* -- Limits ------------------------------------------------------------- */

static ScBaggage limited;
static ScBaggageText written;

static void
parse_and_write(const char *at, size_t length)
{
    Lines lines = {0};
    lines_add(&lines, at, length);
    sc_baggage_parse(lines.lines, 1, &limited);
    written.count = 0;
    written.length = 0;
    CHECK_EQ(sc_baggage_put_list(&written, &limited), SC_BAGGAGE_OK);
    CHECK_EQ(written.length, limited.length);
    CHECK(limited.count <= SC_BAGGAGE_MEMBERS);
    CHECK(limited.length <= SC_BAGGAGE_LENGTH);
    lines_free(&lines);
}

/* test_serialize_at_least_64; 3.3.2, condition 1. */
static void
test_64_members(void)
{
    char text[2000] = "";
    for (int i = 0; i < 64; i++) {
        sprintf(text + strlen(text), "%skey%d=value", i ? "," : "", i);
    }
    parse_and_write(text, strlen(text));
    CHECK_EQ(limited.count, 64);
    CHECK_EQ(limited.dropped, 0);
    check_same(__LINE__, "64", (ScText){written.text, written.length},
               text_of(text));
    size_t before = strlen(text);
    strcat(text, ",b d=1,key64=value,key65=value");
    parse_and_write(text, strlen(text));
    CHECK_EQ(limited.count, 64);
    CHECK_EQ(limited.dropped, 2);
    CHECK_EQ(limited.invalid, 1);
    check_same(__LINE__, "65", (ScText){written.text, written.length},
               (ScText){text, before});
    CHECK_EQ(sc_baggage_put(&written, text_of("k"), text_of("v")),
             SC_BAGGAGE_LIMIT);
}

/* test_serialize_long_entry; 3.3.2, condition 2. */
static void
test_8192_bytes(void)
{
    static char text[SC_BAGGAGE_LENGTH + 100];
    memset(text, '0', sizeof(text));
    memcpy(text, "a=", 2);
    parse_and_write(text, SC_BAGGAGE_LENGTH);
    CHECK_EQ(limited.count, 1);
    check_same(__LINE__, "8192", (ScText){written.text, written.length},
               (ScText){text, SC_BAGGAGE_LENGTH});
    CHECK_EQ(sc_baggage_put(&written, text_of("k"), text_of("")),
             SC_BAGGAGE_LIMIT);
    CHECK_EQ(written.length, SC_BAGGAGE_LENGTH);
    /* White space is not of the resulting string. */
    text[SC_BAGGAGE_LENGTH] = ' ';
    text[SC_BAGGAGE_LENGTH + 1] = ',';
    parse_and_write(text, SC_BAGGAGE_LENGTH + 2);
    CHECK_EQ(limited.count, 1);
    text[SC_BAGGAGE_LENGTH] = '0';
    /* "MUST NOT propagate any partial list-members": the next one fits. */
    memcpy(text + SC_BAGGAGE_LENGTH + 1, ",b=2", 4);
    parse_and_write(text, SC_BAGGAGE_LENGTH + 5);
    CHECK_EQ(limited.dropped, 1);
    check_same(__LINE__, "8193", (ScText){written.text, written.length},
               text_of("b=2"));
    /* A comma counts. */
    memcpy(text + SC_BAGGAGE_LENGTH - 4, ",b=2", 4);
    parse_and_write(text, SC_BAGGAGE_LENGTH);
    CHECK_EQ(limited.count, 2);
    CHECK_EQ(limited.length, SC_BAGGAGE_LENGTH);
    memcpy(text + SC_BAGGAGE_LENGTH - 4, "0,b=2", 5);
    parse_and_write(text, SC_BAGGAGE_LENGTH + 1);
    CHECK_EQ(limited.count, 1);
    CHECK_EQ(limited.dropped, 1);
    /* What is written for a bare '%' counts. */
    memset(text + 2, '%', SC_BAGGAGE_LENGTH);
    parse_and_write(text, 2 + 2730);
    CHECK_EQ(limited.length, 2 + 3 * 2730);
    parse_and_write(text, 2 + 2731);
    CHECK_EQ(limited.count, 0);
    CHECK_EQ(limited.dropped, 1);
}

/* test_serialize_many_entries: 512 of 15 bytes, a comma after each but the
 * last, are 8,191; the first 64 of them stay. */
static void
test_many_members(void)
{
    static char text[SC_BAGGAGE_LENGTH + 1];
    for (int i = 0; i < 512; i++) {
        sprintf(text + 16 * i, "%03d=0123456789a%s", i, i < 511 ? "," : "");
    }
    CHECK_EQ(strlen(text), 8191);
    parse_and_write(text, strlen(text));
    CHECK_EQ(limited.count, 64);
    CHECK_EQ(limited.dropped, 448);
    check_same(__LINE__, "512", (ScText){written.text, written.length},
               (ScText){text, 64 * 16 - 1});
}

/* 3.3.2: "all limits apply to the combination of all baggage headers". */
static void
test_limits_of_several_headers(void)
{
    static char text[5000];
    memset(text, 'x', sizeof(text));
    memcpy(text, "a=", 2);
    ScText lines[3] = {{text, 5000}, {text, 4000}, {text, 3000}};
    sc_baggage_parse(lines, 3, &limited);
    CHECK_EQ(limited.count, 2);
    CHECK_EQ(limited.dropped, 1);
    CHECK_EQ(limited.length, 8001);
}

static void
test_a_megabyte(void)
{
    size_t length = 1 << 20;
    char *text = malloc(length);
    CHECK(text != NULL);
    memset(text, ',', length);
    parse_and_write(text, length);
    CHECK_EQ(limited.invalid, 0);
    memset(text, ';', length);
    text[0] = 'a';
    text[1] = '=';
    parse_and_write(text, length);
    CHECK_EQ(limited.invalid, 1);
    for (size_t i = 0; i < length; i++) {
        text[i] = "a=,"[i % 3];
    }
    parse_and_write(text, length);
    CHECK_EQ(limited.count, 64);
    CHECK_EQ(limited.dropped, length / 3 - 64);
    CHECK_EQ(limited.invalid, 1);
    free(text);
}

/* -- Writing ------------------------------------------------------------ */

static void
test_put(void)
{
    written.count = 0;
    written.length = 0;
    CHECK_EQ(sc_baggage_put(&written, text_of("SomeKey"), text_of(ODD)),
             SC_BAGGAGE_OK);
    CHECK_EQ(
        sc_baggage_put(&written, text_of("userId"), text_of("Am\xC3\xA9lie")),
        SC_BAGGAGE_OK);
    CHECK_EQ(sc_baggage_put(&written, text_of("empty"), text_of("")),
             SC_BAGGAGE_OK);
    CHECK_EQ(sc_baggage_put(&written, text_of(""), text_of("1")),
             SC_BAGGAGE_KEY);
    CHECK_EQ(sc_baggage_put(&written, text_of("a b"), text_of("1")),
             SC_BAGGAGE_KEY);
    CHECK_EQ(sc_baggage_put(&written, (ScText){"a\0", 2}, text_of("1")),
             SC_BAGGAGE_KEY);
    const char *text = "SomeKey=%09%20%22'%3B=asdf!@#$%25^&*(),"
                       "userId=Am%C3%A9lie,empty=";
    check_same(__LINE__, "put", (ScText){written.text, written.length},
               text_of(text));
    /* A list after them. */
    ScText line = text_of("a=1 ; b , c = %");
    sc_baggage_parse(&line, 1, &limited);
    CHECK_EQ(sc_baggage_put_list(&written, &limited), SC_BAGGAGE_OK);
    check_same(
        __LINE__, "list",
        (ScText){written.text + strlen(text), written.length - strlen(text)},
        text_of(",a=1;b,c=%25"));
    CHECK_EQ(written.count, 5);
    /* Of a list that goes too far, the members that fit. */
    static char big[SC_BAGGAGE_LENGTH];
    memset(big, 'x', sizeof(big));
    memcpy(big, "d=", 2);
    memcpy(big + 8186, ",e=2", 4);
    ScText more = {big, 8190};
    sc_baggage_parse(&more, 1, &limited);
    CHECK_EQ(limited.count, 2);
    CHECK_EQ(sc_baggage_put_list(&written, &limited), SC_BAGGAGE_LIMIT);
    CHECK_EQ(written.count, 6);
    check_same(__LINE__, "the last",
               (ScText){written.text + written.length - 4, 4},
               text_of(",e=2"));
}

/* A text takes 8,192 characters, and not one more. */
static void
test_put_to_the_limit(void)
{
    static char value[SC_BAGGAGE_LENGTH];
    memset(value, 'x', sizeof(value));
    written.count = 0;
    written.length = 0;
    ScText key = text_of("a");
    CHECK_EQ(sc_baggage_put(&written, key, (ScText){value, 8191}),
             SC_BAGGAGE_LIMIT);
    CHECK_EQ(written.count, 0);
    CHECK_EQ(sc_baggage_put(&written, key, (ScText){value, 8187}),
             SC_BAGGAGE_OK);
    CHECK_EQ(sc_baggage_put(&written, key, (ScText){value, 1}),
             SC_BAGGAGE_LIMIT);
    CHECK_EQ(sc_baggage_put(&written, key, (ScText){value, 0}), SC_BAGGAGE_OK);
    CHECK_EQ(written.length, SC_BAGGAGE_LENGTH);
}

int
main(void)
{
    test_utf8();
    test_encode();
    test_64_members();
    test_8192_bytes();
    test_many_members();
    test_limits_of_several_headers();
    test_a_megabyte();
    test_put();
    test_put_to_the_limit();
    return 0;
}
