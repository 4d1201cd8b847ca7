/* Socket addresses: from the text an operator writes, and to the text a log line shows. */
#ifndef NET_ADDRESS_H
#define NET_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/compiler.h"

enum {
    ADDRESS_TEXT_MAX = 128,  /* "[address%scope]:port" or the path of a Unix socket, with its 0 */
    ADDRESS_ERROR_MAX = 256, /* texts that say what went wrong */
};

struct address {
    struct sockaddr_storage storage;
    socklen_t size;
    bool is_elsewhere; /* as another machine sees it: its 127.0.0.1 is not ours */
};

/* Where to listen: "ADDRESS:PORT", "[::1]:5672", "NAME:PORT" (all its addresses), "PORT" or
 * "*:PORT" (all of the machine, IPv4 and IPv6). Port 0 lets the kernel choose. Fills up to
 * `capacity` addresses and *count. Asks the resolver for names, so it may block. -1 with a text for
 * people in error. */
MUST_CHECK int address_resolve_listen(const char *text, struct address *addresses, size_t capacity,
                                      size_t *count, char error[ADDRESS_ERROR_MAX]);

/* "127.0.0.1:5672", "[::1]:5672", "unix:/path". Returns out. */
const char *address_text(const struct address *address, char out[ADDRESS_TEXT_MAX]);

/* The same without port and brackets: "127.0.0.1", "::1". Returns out. */
const char *address_host_text(const struct address *address, char out[ADDRESS_TEXT_MAX]);

/* 0 when it has none. */
uint16_t address_port(const struct address *address);
void address_set_port(struct address *address, uint16_t port);

/* Of a socket: its own end, and the other one. -errno. */
MUST_CHECK int address_of_socket(int fd, struct address *address);
MUST_CHECK int address_of_peer(int fd, struct address *address);

/* Is it 127.0.0.0/8, ::1 or a Unix socket, and of this machine? */
bool address_is_loopback(const struct address *address);

#endif
