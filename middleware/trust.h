/* Trust: whose inbound ids, traces, baggage and deadlines are believed.
 *
 * A policy is text: `untrusted` (nobody), `always` (everybody), or addresses
 * of peers, separated by commas: 10.0.0.0/8, 192.0.2.7, fd00::/8 (IPv4 and
 * IPv6, CIDR of RFC 4632 and RFC 4291; a bare address is itself alone).
 * White space around an address is ignored.  It is parsed once into a table
 * of fixed size; asking it allocates nothing.
 *
 * An IPv4 peer of a socket for both families, ::ffff:192.0.2.7 (RFC 4291,
 * section 2.5.5.2), is the IPv4 address in it, in a policy and as a peer.  So
 * ::/0 is every IPv6 peer, and no IPv4 one.
 *
 * No Python.h; any thread, attached or not; a parsed policy is not changed. */
#ifndef SIDECAR_MIDDLEWARE_TRUST_H
#define SIDECAR_MIDDLEWARE_TRUST_H

#include "middleware/field.h"

#define SC_TRUST_NETWORKS 256
/* Room for every text that sc_trust_parse writes, and its terminator. */
#define SC_TRUST_ERROR_SIZE 256

typedef enum {
    SC_TRUST_UNTRUSTED, /* all zeros: nobody is trusted */
    SC_TRUST_ALWAYS,
    SC_TRUST_PEERS,
} ScTrustMode;

typedef struct {
    unsigned char family; /* 4 or 6 */
    unsigned char bits;   /* that must be equal */
    unsigned char bytes[16];
} ScTrustNetwork;

typedef struct {
    ScTrustMode mode;
    unsigned count;
    ScTrustNetwork networks[SC_TRUST_NETWORKS];
} ScTrust;

/* True; or false, and `error` says in printable ASCII what piece is wrong and
 * what would be right (a whole sentence without its full stop), and `trust`
 * trusts nobody. */
bool sc_trust_parse(ScTrust *trust, ScText policy,
                    char error[SC_TRUST_ERROR_SIZE]);

/* Whether the peer is trusted.  `address` is REMOTE_ADDR as servers give it:
 * 192.0.2.7, 192.0.2.7:80, 2001:db8::7, [2001:db8::7], [2001:db8::7]:80.
 * A peer without such an address (empty, a unix socket's name, a host name,
 * one with a zone id) is trusted by `always` alone. */
bool sc_trust_match(const ScTrust *trust, ScText address);

#endif
