#include "trust.h"

#include <arpa/inet.h>
#include <stdio.h>

/* The longest text that inet_pton takes, with its terminator. */
#define ADDRESS_SIZE INET6_ADDRSTRLEN
/* As much of a bad piece as an error quotes. */
#define QUOTE_SIZE 64
/* Room for what is said of it. */
#define WHAT_SIZE (SC_TRUST_ERROR_SIZE - QUOTE_SIZE - 8)

typedef struct {
    unsigned char family; /* 4 or 6 */
    unsigned char bytes[16];
} Address;

static unsigned
bits_of_family(unsigned char family)
{
    return family == 4 ? 32 : 128;
}

/* ::ffff:0:0/96 */
static bool
is_mapped(const Address *address)
{
    static const unsigned char prefix[12] = {[10] = 0xFF, [11] = 0xFF};
    return address->family == 6 &&
           memcmp(address->bytes, prefix, sizeof(prefix)) == 0;
}

static void
unmap(Address *address)
{
    memmove(address->bytes, address->bytes + 12, 4);
    memset(address->bytes + 4, 0, 12);
    address->family = 4;
}

/* An address as it is written, without brackets, port, prefix or zone. */
static bool
address_parse(ScText text, Address *address)
{
    char terminated[ADDRESS_SIZE];
    if (text.length == 0 || text.length >= sizeof(terminated) ||
        memchr(text.at, '\0', text.length) != NULL) {
        return false;
    }
    memcpy(terminated, text.at, text.length);
    terminated[text.length] = '\0';
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, terminated, address->bytes) == 1) {
        address->family = 4;
        return true;
    }
    memset(address, 0, sizeof(*address));
    address->family = 6;
    return inet_pton(AF_INET6, terminated, address->bytes) == 1;
}

static bool
same_bits(const unsigned char *left, const unsigned char *right, unsigned bits)
{
    if (memcmp(left, right, bits / 8) != 0) {
        return false;
    }
    unsigned rest = bits % 8;
    return rest == 0 || (left[bits / 8] ^ right[bits / 8]) >> (8 - rest) == 0;
}

static void
clear_after(unsigned char *bytes, unsigned bits)
{
    for (unsigned i = bits; i < 128; i++) {
        bytes[i / 8] &= (unsigned char)~(0x80u >> i % 8);
    }
}

/* -- The policy --------------------------------------------------------- */

/* Write "'piece' what", as printable ASCII; false, which is the answer. */
static bool
refuse(char *error, ScText piece, const char *what)
{
    char quoted[QUOTE_SIZE + 1];
    size_t length = piece.length < QUOTE_SIZE ? piece.length : QUOTE_SIZE;
    for (size_t i = 0; i < length; i++) {
        bool printable = piece.at[i] >= ' ' && piece.at[i] <= '~';
        quoted[i] = printable ? piece.at[i] : '?';
    }
    quoted[length] = '\0';
    snprintf(error, SC_TRUST_ERROR_SIZE, "'%s%s' %s", quoted,
             length < piece.length ? "..." : "", what);
    return false;
}

static bool
is_space(char byte)
{
    return sc_is_ows(byte) || byte == '\r' || byte == '\n';
}

/* A policy may stand on several lines of a configuration file. */
static ScText
trim(ScText text)
{
    while (text.length > 0 && is_space(text.at[0])) {
        text.at++;
        text.length--;
    }
    while (text.length > 0 && is_space(text.at[text.length - 1])) {
        text.length--;
    }
    return text;
}

/* A decimal number as one writes it: 0 to 128, without a leading 0. */
static bool
prefix_parse(ScText text, unsigned *bits)
{
    if (text.length == 0 || text.length > 3 ||
        (text.length > 1 && text.at[0] == '0')) {
        return false;
    }
    *bits = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (!sc_is_digit(text.at[i])) {
            return false;
        }
        *bits = *bits * 10 + (unsigned)(text.at[i] - '0');
    }
    return true;
}

/* Nothing after the prefix: whoever writes 10.1.2.3/8 means one of two. */
static bool
refuse_host_bits(char *error, ScText piece, const Address *address,
                 unsigned bits)
{
    Address network = *address;
    clear_after(network.bytes, bits);
    int family = network.family == 4 ? AF_INET : AF_INET6;
    char whole[ADDRESS_SIZE], host[ADDRESS_SIZE], what[WHAT_SIZE];
    inet_ntop(family, network.bytes, whole, sizeof(whole));
    inet_ntop(family, address->bytes, host, sizeof(host));
    snprintf(what, sizeof(what),
             "has bits set after its prefix; %s/%u is the network, %s the one "
             "address",
             whole, bits, host);
    return refuse(error, piece, what);
}

static bool
refuse_prefix(char *error, ScText piece, const Address *address)
{
    char what[WHAT_SIZE];
    snprintf(what, sizeof(what), "has no good prefix; IPv%d takes /0 to /%u",
             address->family, bits_of_family(address->family));
    return refuse(error, piece, what);
}

static bool
network_parse(ScText piece, ScTrustNetwork *network, char *error)
{
    ScText rest = piece, host;
    sc_text_split(&rest, '/', &host);
    Address address;
    if (memchr(piece.at, '%', piece.length) != NULL) {
        return refuse(error, piece,
                      "has a zone id; an address without % and what follows "
                      "would be right");
    }
    if (!address_parse(host, &address)) {
        return refuse(error, piece,
                      "is neither untrusted nor always, and no address such "
                      "as 192.0.2.7, 10.0.0.0/8 or fd00::/8");
    }
    unsigned bits = bits_of_family(address.family);
    if (rest.at != NULL && (!prefix_parse(rest, &bits) ||
                            bits > bits_of_family(address.family))) {
        return refuse_prefix(error, piece, &address);
    }
    Address cleared = address;
    clear_after(cleared.bytes, bits);
    if (memcmp(cleared.bytes, address.bytes, sizeof(cleared.bytes)) != 0) {
        return refuse_host_bits(error, piece, &address, bits);
    }
    if (is_mapped(&address)) {
        /* 96 at least: the last bit of ffff is not after the prefix. */
        unmap(&address);
        bits -= 96;
    }
    network->family = address.family;
    network->bits = (unsigned char)bits;
    memcpy(network->bytes, address.bytes, sizeof(network->bytes));
    return true;
}

static bool
networks_parse(ScTrust *trust, ScText policy, char *error)
{
    ScText rest = policy, piece;
    while (sc_text_split(&rest, ',', &piece)) {
        piece = trim(piece);
        if (piece.length == 0) {
            return refuse(error, policy,
                          "has nothing where an address should be; one comma "
                          "between two addresses would be right");
        }
        if (sc_text_is(piece, "always") || sc_text_is(piece, "untrusted")) {
            return refuse(error, piece,
                          "stands alone, or not at all; remove it or the "
                          "addresses beside it");
        }
        if (trust->count == SC_TRUST_NETWORKS) {
            char what[WHAT_SIZE];
            snprintf(what, sizeof(what),
                     "is one too many; up to %d addresses would be right",
                     SC_TRUST_NETWORKS);
            return refuse(error, piece, what);
        }
        if (!network_parse(piece, &trust->networks[trust->count], error)) {
            return false;
        }
        trust->count++;
    }
    return true;
}

bool
sc_trust_parse(ScTrust *trust, ScText policy, char error[SC_TRUST_ERROR_SIZE])
{
    memset(trust, 0, sizeof(*trust));
    policy = trim(policy);
    if (policy.length == 0) {
        return refuse(error, policy,
                      "says nothing; untrusted, always, or addresses such as "
                      "10.0.0.0/8, fd00::/8 would be right");
    }
    if (sc_text_is(policy, "untrusted")) {
        return true;
    }
    if (sc_text_is(policy, "always")) {
        trust->mode = SC_TRUST_ALWAYS;
        return true;
    }
    if (!networks_parse(trust, policy, error)) {
        return false;
    }
    trust->mode = SC_TRUST_PEERS;
    return true;
}

/* -- The peer ----------------------------------------------------------- */

/* The text after an address is nothing, or a colon and a port. */
static bool
is_port(ScText text)
{
    if (text.length == 0) {
        return true;
    }
    unsigned long port = 0;
    for (size_t i = 1; i < text.length && i <= 6; i++) {
        if (!sc_is_digit(text.at[i])) {
            return false;
        }
        port = port * 10 + (unsigned long)(text.at[i] - '0');
    }
    return text.at[0] == ':' && text.length > 1 && port <= 65535 &&
           text.length <= 6;
}

static bool
peer_parse(ScText text, Address *address)
{
    if (text.length > 0 && text.at[0] == '[') {
        const char *end = memchr(text.at, ']', text.length);
        if (end == NULL) {
            return false;
        }
        ScText host = {text.at + 1, (size_t)(end - text.at) - 1};
        ScText port = {end + 1, text.length - host.length - 2};
        return is_port(port) && address_parse(host, address) &&
               address->family == 6;
    }
    if (address_parse(text, address)) {
        return true;
    }
    /* A colon alone is no IPv6: the host before it is IPv4. */
    ScText rest = text, host;
    if (!sc_text_split(&rest, ':', &host) || rest.at == NULL) {
        return false;
    }
    ScText port = {host.at + host.length, text.length - host.length};
    return is_port(port) && address_parse(host, address);
}

bool
sc_trust_match(const ScTrust *trust, ScText address)
{
    if (trust->mode != SC_TRUST_PEERS) {
        return trust->mode == SC_TRUST_ALWAYS;
    }
    Address peer;
    if (!peer_parse(sc_text_trim(address), &peer)) {
        return false;
    }
    if (is_mapped(&peer)) {
        unmap(&peer);
    }
    for (unsigned i = 0; i < trust->count; i++) {
        const ScTrustNetwork *network = &trust->networks[i];
        if (network->family == peer.family &&
            same_bits(network->bytes, peer.bytes, network->bits)) {
            return true;
        }
    }
    return false;
}
