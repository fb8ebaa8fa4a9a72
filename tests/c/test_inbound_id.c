/* Inbound ids: one value of [A-Za-z0-9._-]{1,128}, or none. */
#include <ctype.h>

#include "field_lines.h"
#include "middleware/inbound_id.h"

typedef struct {
    int line;
    const char *lines[3];
    const char *id; /* NULL: none */
} Row;

#define ROW(...)              \
    {                         \
        __LINE__, __VA_ARGS__ \
    }

static const Row rows[] = {
    ROW({"a"}, "a"),
    ROW({"0192abcd-ef01-7000-8000-000000000000"},
        "0192abcd-ef01-7000-8000-000000000000"),
    ROW({"Root.1_67891233-abcdef012345678912345678"},
        "Root.1_67891233-abcdef012345678912345678"),
    ROW({"..."}, "..."),
    ROW({"-_."}, "-_."),
    /* RFC 9110, section 5.5: white space around is not of the value. */
    ROW({" a"}, "a"),
    ROW({"\ta \t"}, "a"),
    ROW({NULL}, NULL),
    ROW({""}, NULL),
    ROW({" \t"}, NULL),
    ROW({"a", "a"}, NULL),
    ROW({"a", "b"}, NULL),
    ROW({"a", ""}, NULL),
    ROW({"a,b"}, NULL),
    ROW({"a, a"}, NULL),
    ROW({"a,"}, NULL),
    ROW({"a b"}, NULL),
    ROW({"a\tb"}, NULL),
    ROW({"a\r\nSet-Cookie: b"}, NULL),
    ROW({"a\n"}, NULL),
    ROW({"\ra"}, NULL),
    ROW({"\x0B"
         "a"},
        NULL),
    ROW({"\"a\""}, NULL),
    ROW({"a=1"}, NULL),
    ROW({"<script>"}, NULL),
    ROW({"../../etc/passwd"}, NULL),
    ROW({"$(reboot)"}, NULL),
    ROW({"%00"}, NULL),
    ROW({"\xC3\xBC"}, NULL),
    ROW({"a\xFF"}, NULL),
    ROW({"a\xA0"}, NULL),
};

static void
check_row(const Row *row)
{
    Lines lines;
    lines_make(&lines, row->lines, 3);
    ScText id = text_of("untouched");
    bool taken = sc_inbound_id_parse(lines.lines, lines.count, &id);
    const char *what = row->lines[0] ? row->lines[0] : "(absent)";
    check_number(row->line, what, taken, row->id != NULL);
    check_same(row->line, what, id, text_of(taken ? row->id : "untouched"));
    lines_free(&lines);
}

static bool
takes(const char *at, size_t length)
{
    Lines lines = {0};
    lines_add(&lines, at, length);
    ScText id;
    bool taken = sc_inbound_id_parse(lines.lines, 1, &id);
    lines_free(&lines);
    return taken;
}

static void
test_each_byte(void)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[3] = {'a', (char)byte, 'b'};
        bool good = byte < 128 && (isalnum(byte) || byte == '.' ||
                                   byte == '_' || byte == '-');
        CHECK_EQ(takes(text, 3), good);
        CHECK_EQ(takes(text + 1, 1), good);
    }
}

static void
test_lengths(void)
{
    char text[SC_INBOUND_ID_LIMIT + 1];
    memset(text, 'x', sizeof(text));
    for (size_t length = 1; length <= SC_INBOUND_ID_LIMIT; length++) {
        CHECK(takes(text, length));
    }
    CHECK(!takes(text, SC_INBOUND_ID_LIMIT + 1));
    char *megabyte = malloc(1 << 20);
    CHECK(megabyte != NULL);
    memset(megabyte, 'x', 1 << 20);
    CHECK(!takes(megabyte, 1 << 20));
    memset(megabyte, ' ', 1 << 20);
    megabyte[1 << 19] = 'x';
    CHECK(takes(megabyte, 1 << 20));
    free(megabyte);
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        check_row(&rows[i]);
    }
    test_each_byte();
    test_lengths();
    return 0;
}
