/* Networks of IP addresses, as "10.0.0.0/8", "2001:db8::/32" or a single address. */
#ifndef NET_NETWORK_H
#define NET_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "net/address.h"

enum {
    NETWORKS_MAX = 32,
    NETWORK_TEXT_MAX = 64, /* with its 0 */
};

/* IPv4 stands in it as in an IPv6 address that maps it (::ffff:0:0/96). Equal networks are equal
 * bytes. */
struct network {
    uint8_t address[16]; /* the bits after the prefix are 0 */
    uint8_t prefix;      /* bits: 0 to 128 */
};

struct networks {
    struct network items[NETWORKS_MAX];
    size_t count;
};

/* false when it is none: also when bits are set after the prefix, which is a slip. */
MUST_CHECK bool network_parse(const char *text, struct network *network);

/* As it is written. Returns out. */
const char *network_text(const struct network *network, char out[NETWORK_TEXT_MAX]);

/* Is the address, of IPv4, IPv6 or IPv6 that maps IPv4, in one of them? */
bool networks_contain(const struct networks *networks, const struct address *address);

#endif
