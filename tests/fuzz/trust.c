/* Trust: a policy is taken or refused with a readable sentence, and a peer is
 * the same peer however it is written.
 *
 * The first line is the policy, the others are peers. */
#include <arpa/inet.h>

#include "input.h"
#include "middleware/trust.h"

static ScTrust trust;

static void
check_error(const char *error)
{
    size_t length = strnlen(error, SC_TRUST_ERROR_SIZE);
    HOLDS(length > 0 && length < SC_TRUST_ERROR_SIZE - 1);
    for (size_t i = 0; i < length; i++) {
        HOLDS(error[i] >= ' ' && error[i] <= '~');
    }
    HOLDS(!sc_trust_match(&trust, (ScText){"127.0.0.1", 9}));
}

static bool
matches(const char *before, ScText address, const char *after)
{
    char text[200];
    int length = snprintf(text, sizeof(text), "%s%.*s%s", before,
                          (int)address.length, address.at, after);
    char *copy = block_of(text, (size_t)length);
    bool trusted = sc_trust_match(&trust, (ScText){copy, (size_t)length});
    free(copy);
    return trusted;
}

/* What family the text is an address of; 0 for none. */
static int
family_of(ScText text)
{
    char terminated[INET6_ADDRSTRLEN];
    unsigned char bytes[16];
    if (text.length == 0 || text.length >= sizeof(terminated)) {
        return 0;
    }
    memcpy(terminated, text.at, text.length);
    terminated[text.length] = '\0';
    if (strlen(terminated) != text.length) {
        return 0;
    }
    return inet_pton(AF_INET, terminated, bytes) == 1    ? 4
           : inet_pton(AF_INET6, terminated, bytes) == 1 ? 6
                                                         : 0;
}

static void
check_peer(ScText address)
{
    bool trusted = sc_trust_match(&trust, address);
    if (trust.mode != SC_TRUST_PEERS) {
        HOLDS(trusted == (trust.mode == SC_TRUST_ALWAYS));
        return;
    }
    int family = family_of(address);
    if (family == 4) {
        HOLDS(matches("", address, ":65535") == trusted);
        HOLDS(matches("::ffff:", address, "") == trusted);
        HOLDS(matches("[::ffff:", address, "]:1") == trusted);
        HOLDS(!matches("[", address, "]"));
    }
    else if (family == 6) {
        HOLDS(matches("[", address, "]") == trusted);
        HOLDS(matches("[", address, "]:65535") == trusted);
        HOLDS(!matches("", address, "%eth0"));
    }
    if (family != 0) {
        HOLDS(matches(" ", address, "\t") == trusted);
        HOLDS(!matches("", address, "/8"));
    }
}

/* A network has its own address in it. */
static void
check_networks(ScText policy)
{
    ScText piece, host;
    while (trust.mode == SC_TRUST_PEERS &&
           sc_text_split(&policy, ',', &piece)) {
        while (piece.length > 0 && strchr(" \t\r\n", piece.at[0])) {
            piece.at++;
            piece.length--;
        }
        HOLDS(piece.length > 0);
        size_t length = 0;
        while (length < piece.length &&
               strchr("/ \t\r\n", piece.at[length]) == NULL) {
            length++;
        }
        host = (ScText){piece.at, length};
        HOLDS(family_of(host) != 0);
        HOLDS(sc_trust_match(&trust, host));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Lines lines;
    char *error = malloc(SC_TRUST_ERROR_SIZE);
    lines_take(&lines, data, size);
    if (lines.count > 0) {
        memset(error, 0xFF, SC_TRUST_ERROR_SIZE);
        if (sc_trust_parse(&trust, lines.lines[0], error)) {
            HOLDS(trust.count <= SC_TRUST_NETWORKS);
            check_networks(lines.lines[0]);
        }
        else {
            check_error(error);
        }
        for (size_t i = 1; i < lines.count; i++) {
            check_peer(lines.lines[i]);
        }
    }
    lines_free(&lines);
    free(error);
    return 0;
}
