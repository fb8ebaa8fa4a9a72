/* Trust: policies, what is wrong with bad ones, and who is trusted. */
#include <arpa/inet.h>

#include "field_lines.h"
#include "middleware/trust.h"

static bool
parse(ScTrust *trust, const char *at, size_t length, char *error)
{
    Lines lines = {0};
    lines_add(&lines, at, length);
    bool good = sc_trust_parse(trust, lines.lines[0], error);
    lines_free(&lines);
    return good;
}

static bool
matches(const ScTrust *trust, const char *address)
{
    Lines lines = {0};
    lines_add(&lines, address, strlen(address));
    bool trusted = sc_trust_match(trust, lines.lines[0]);
    lines_free(&lines);
    return trusted;
}

/* -- Who is trusted ----------------------------------------------------- */

typedef struct {
    int line;
    const char *policy;
    const char *trusted[8];
    const char *others[8];
} Row;

#define ROW(...)              \
    {                         \
        __LINE__, __VA_ARGS__ \
    }
#define NO_ADDRESS "", "unix:", "/run/app.sock", "localhost", "unknown"

static const Row rows[] = {
    ROW("untrusted", {NULL}, {"127.0.0.1", "::1", NO_ADDRESS}),
    ROW("always", {"127.0.0.1", "::1", NO_ADDRESS}, {NULL}),
    ROW(" always\n", {"127.0.0.1"}, {NULL}),
    ROW("192.0.2.7", {"192.0.2.7"},
        {"192.0.2.6", "192.0.2.8", "192.0.3.7", NO_ADDRESS}),
    ROW("192.0.2.7/32", {"192.0.2.7"}, {"192.0.2.6"}),
    ROW("10.0.0.0/8", {"10.0.0.0", "10.255.255.255", "10.1.2.3"},
        {"9.255.255.255", "11.0.0.0", "::10.1.2.3", "::1", "a00::"}),
    ROW("172.16.0.0/12", {"172.16.0.0", "172.31.255.255"},
        {"172.15.255.255", "172.32.0.0"}),
    ROW("192.0.2.128/25", {"192.0.2.128", "192.0.2.255"},
        {"192.0.2.127", "192.0.3.128"}),
    ROW("192.0.2.6/31", {"192.0.2.6", "192.0.2.7"}, {"192.0.2.8"}),
    ROW("0.0.0.0/0", {"0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"},
        {"::", "::1", "2001:db8::1", NO_ADDRESS}),
    ROW("::/0", {"::", "::1", "ffff::", "::1.2.3.4"},
        {"1.2.3.4", "::ffff:1.2.3.4", NO_ADDRESS}),
    ROW("0.0.0.0/0,::/0", {"1.2.3.4", "::1", "::ffff:1.2.3.4"}, {NO_ADDRESS}),
    ROW("::1", {"::1", "0:0:0:0:0:0:0:1", "[::1]"}, {"::", "::2", "0.0.0.1"}),
    ROW("2001:db8::/32", {"2001:db8::", "2001:DB8:ffff::1"},
        {"2001:db7:ffff::", "2001:db9::"}),
    ROW("fd00::/8", {"fd00::1", "fdff::"}, {"fc00::", "fe00::"}),
    ROW("fe80::/10", {"fe80::1", "febf::"},
        {"fec0::", "fe80::1%eth0", "[fe80::1%1]:80"}),
    ROW("2001:db8::8/125", {"2001:db8::8", "2001:db8::f"},
        {"2001:db8::7", "2001:db8::10"}),
    /* RFC 4291, section 2.5.5.2. */
    ROW("::ffff:10.0.0.0/104", {"10.1.2.3", "::ffff:10.1.2.3"},
        {"11.0.0.0", "::10.1.2.3"}),
    ROW("::ffff:192.0.2.7", {"192.0.2.7", "::FFFF:c000:207"}, {"192.0.2.8"}),
    ROW("192.0.2.7", {"::ffff:192.0.2.7", "[::ffff:192.0.2.7]:80"},
        {"::fffe:192.0.2.7", "::1:ffff:192.0.2.7", "::192.0.2.7"}),
    ROW(" 10.0.0.0/8 ,\t192.0.2.7\r\n, fd00::/8 ",
        {"10.1.2.3", "192.0.2.7", "fd00::1"}, {"192.0.2.8", "fc00::1"}),
    ROW("192.0.2.7,192.0.2.7", {"192.0.2.7"}, {"192.0.2.8"}),
    /* What servers write. */
    ROW("192.0.2.7",
        {"192.0.2.7:0", "192.0.2.7:80", "192.0.2.7:65535", " 192.0.2.7 "},
        {"192.0.2.7:", "192.0.2.7:65536", "192.0.2.7:80:1", "192.0.2.7:8a",
         "192.0.2.7:000080", "[192.0.2.7]", "192.0.2.7]", "192.0.2.7/32"}),
    ROW("2001:db8::7", {"2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:80"},
        {"[2001:db8::7", "[2001:db8::7]80", "[2001:db8::7]:",
         "[2001:db8::7]:x", "2001:db8::7:80", "[[2001:db8::7]]", "[]", "["}),
    ROW("192.0.2.7", {"192.0.2.7"},
        {"192.0.2.07", "192.0.2", "192.0.2.7.1", "192.0.2.7, 10.0.0.1",
         "0xc0000207", "3221226503", ":", "192.0.2.7\n"}),
};

static void
check_row(const Row *row)
{
    ScTrust trust;
    char error[SC_TRUST_ERROR_SIZE] = "no error";
    bool good = parse(&trust, row->policy, strlen(row->policy), error);
    check_same(row->line, row->policy, text_of(error), text_of("no error"));
    CHECK(good);
    for (unsigned i = 0; i < 8 && row->trusted[i] != NULL; i++) {
        check_number(row->line, row->trusted[i],
                     matches(&trust, row->trusted[i]), true);
    }
    for (unsigned i = 0; i < 8 && row->others[i] != NULL; i++) {
        check_number(row->line, row->others[i],
                     matches(&trust, row->others[i]), false);
    }
}

static void
test_rows(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        check_row(&rows[i]);
    }
    ScTrust zeros = {0};
    CHECK(!matches(&zeros, "127.0.0.1"));
}

/* Each prefix of each length: the network's own addresses, and the one whose
 * last bit within the prefix is another. */
static void
test_each_prefix(void)
{
    for (int family = 4; family <= 6; family += 2) {
        int most = family == 4 ? 32 : 128;
        for (int bits = 0; bits <= most; bits++) {
            unsigned char bytes[16] = {0};
            for (int i = 0; i < bits; i++) {
                bytes[i / 8] |= (unsigned char)(0x80 >> i % 8);
            }
            int af = family == 4 ? AF_INET : AF_INET6;
            char host[64], policy[80], error[SC_TRUST_ERROR_SIZE];
            ScTrust trust;
            CHECK(inet_ntop(af, bytes, host, sizeof(host)) != NULL);
            sprintf(policy, "%s/%d", host, bits);
            CHECK(parse(&trust, policy, strlen(policy), error));
            CHECK(matches(&trust, host));
            if (bits < most) {
                bytes[most / 8 - 1] |= 1;
                CHECK(inet_ntop(af, bytes, host, sizeof(host)) != NULL);
                CHECK(matches(&trust, host));
            }
            if (bits > 0) {
                bytes[(bits - 1) / 8] ^=
                    (unsigned char)(0x80 >> (bits - 1) % 8);
                CHECK(inet_ntop(af, bytes, host, sizeof(host)) != NULL);
                CHECK(!matches(&trust, host));
            }
        }
    }
}

/* -- What is wrong ------------------------------------------------------ */

static void
test_errors(void)
{
#define NO_ADDRESS_TEXT                                         \
    " is neither untrusted nor always, and no address such as " \
    "192.0.2.7, 10.0.0.0/8 or fd00::/8"
    static const struct {
        const char *policy, *error;
    } errors[] = {
        {"", "'' says nothing; untrusted, always, or addresses such as "
             "10.0.0.0/8, fd00::/8 would be right"},
        {" \n", "'' says nothing; untrusted, always, or addresses such as "
                "10.0.0.0/8, fd00::/8 would be right"},
        {"10.0.0.0/8,", "'10.0.0.0/8,' has nothing where an address should "
                        "be; one comma between two addresses would be right"},
        {",", "',' has nothing where an address should be; one comma between "
              "two addresses would be right"},
        {"10.0.0.0/8, always", "'always' stands alone, or not at all; remove "
                               "it or the addresses beside it"},
        {"untrusted,10.0.0.0/8",
         "'untrusted' stands alone, or not at all; remove it or the addresses "
         "beside it"},
        {"Always", "'Always'" NO_ADDRESS_TEXT},
        {"trusted", "'trusted'" NO_ADDRESS_TEXT},
        {"localhost", "'localhost'" NO_ADDRESS_TEXT},
        {"10.0.0.0/8 192.0.2.7", "'10.0.0.0/8 192.0.2.7' has no good prefix; "
                                 "IPv4 takes /0 to /32"},
        {"::1, 10.0.0", "'10.0.0'" NO_ADDRESS_TEXT},
        {"10.0.0.256", "'10.0.0.256'" NO_ADDRESS_TEXT},
        {"010.0.0.1", "'010.0.0.1'" NO_ADDRESS_TEXT},
        {"10.0.0.1:80", "'10.0.0.1:80'" NO_ADDRESS_TEXT},
        {"[::1]", "'[::1]'" NO_ADDRESS_TEXT},
        {":::", "':::'" NO_ADDRESS_TEXT},
        {"/8", "'/8'" NO_ADDRESS_TEXT},
        {"fe80::1%eth0", "'fe80::1%eth0' has a zone id; an address without % "
                         "and what follows would be right"},
        {"10.0.0.0/33", "'10.0.0.0/33' has no good prefix; IPv4 takes /0 to "
                        "/32"},
        {"::/129", "'::/129' has no good prefix; IPv6 takes /0 to /128"},
        {"10.0.0.0/", "'10.0.0.0/' has no good prefix; IPv4 takes /0 to /32"},
        {"10.0.0.0/08", "'10.0.0.0/08' has no good prefix; IPv4 takes /0 to "
                        "/32"},
        {"10.0.0.0/-1", "'10.0.0.0/-1' has no good prefix; IPv4 takes /0 to "
                        "/32"},
        {"10.0.0.0/ 8", "'10.0.0.0/ 8' has no good prefix; IPv4 takes /0 to "
                        "/32"},
        {"10.0.0.0/8/8", "'10.0.0.0/8/8' has no good prefix; IPv4 takes /0 to "
                         "/32"},
        {"10.0.0.0/4294967304", "'10.0.0.0/4294967304' has no good prefix; "
                                "IPv4 takes /0 to /32"},
        {"10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0' has no good prefix; "
                               "IPv4 takes /0 to /32"},
        {"10.1.2.3/8", "'10.1.2.3/8' has bits set after its prefix; "
                       "10.0.0.0/8 is the network, 10.1.2.3 the one address"},
        {"::1, 2001:db8::1/64",
         "'2001:db8::1/64' has bits set after its prefix; 2001:db8::/64 is "
         "the network, 2001:db8::1 the one address"},
        {"::ffff:10.1.0.0/104",
         "'::ffff:10.1.0.0/104' has bits set after its prefix; "
         "::ffff:10.0.0.0/104 is the network, ::ffff:10.1.0.0 the one "
         "address"},
        {"\x1B[31m\xC3\xBC", "'?[31m\?\?'" NO_ADDRESS_TEXT},
        {"0123456789012345678901234567890123456789012345678901234567890123456",
         "'0123456789012345678901234567890123456789012345678901234567890123"
         "...'" NO_ADDRESS_TEXT},
    };
    for (unsigned i = 0; i < sizeof(errors) / sizeof(*errors); i++) {
        ScTrust trust;
        char error[SC_TRUST_ERROR_SIZE] = "no error";
        const char *policy = errors[i].policy;
        CHECK(!parse(&trust, policy, strlen(policy), error));
        check_same((int)i, policy, text_of(error), text_of(errors[i].error));
        CHECK(!matches(&trust, "10.1.2.3") && !matches(&trust, "::1"));
    }
}

static void
test_nul(void)
{
    ScTrust trust;
    char error[SC_TRUST_ERROR_SIZE];
    CHECK(!parse(&trust, "10.0.0.1\0", 9, error));
    CHECK(!parse(&trust, "always\0", 7, error));
    CHECK(parse(&trust, "10.0.0.1", 8, error));
    CHECK(!sc_trust_match(&trust, (ScText){"10.0.0.1\0", 9}));
    CHECK(!sc_trust_match(&trust, (ScText){NULL, 0}));
    CHECK(!sc_trust_parse(&trust, (ScText){NULL, 0}, error));
}

static void
test_many_networks(void)
{
    static char policy[20 * (SC_TRUST_NETWORKS + 1)];
    static ScTrust trust;
    char error[SC_TRUST_ERROR_SIZE];
    for (int i = 0; i < SC_TRUST_NETWORKS; i++) {
        sprintf(policy + strlen(policy), "%s10.%d.0.0/16", i ? "," : "", i);
    }
    CHECK(parse(&trust, policy, strlen(policy), error));
    CHECK_EQ(trust.count, SC_TRUST_NETWORKS);
    CHECK(matches(&trust, "10.255.1.1") && !matches(&trust, "11.0.0.0"));
    strcat(policy, ",::1");
    CHECK(!parse(&trust, policy, strlen(policy), error));
    check_same(__LINE__, "257", text_of(error),
               text_of("'::1' is one too many; up to 256 addresses would be "
                       "right"));
    CHECK(!matches(&trust, "10.255.1.1"));
}

static void
test_a_megabyte(void)
{
    size_t length = 1 << 20;
    char *text = malloc(length);
    CHECK(text != NULL);
    ScTrust trust;
    char error[SC_TRUST_ERROR_SIZE];
    CHECK(parse(&trust, "::/0", 4, error));
    for (unsigned i = 0; i < 5; i++) {
        memset(text, "[:, 1"[i], length);
        CHECK(!sc_trust_match(&trust, (ScText){text, length}));
        ScTrust other;
        CHECK(!sc_trust_parse(&other, (ScText){text, length}, error));
        CHECK(strlen(error) < SC_TRUST_ERROR_SIZE - 1);
    }
    free(text);
}

int
main(void)
{
    test_rows();
    test_each_prefix();
    test_errors();
    test_nul();
    test_many_networks();
    test_a_megabyte();
    return 0;
}
