/* amqp://user:password@host:port/vhost, or amqps:// for TLS, as RabbitMQ's URI specification reads
 * it. */
#ifndef PERF_URI_H
#define PERF_URI_H

#include <stdbool.h>
#include <stddef.h>

enum { URI_PART_SIZE = 256 };

struct uri {
    char user[URI_PART_SIZE], password[URI_PART_SIZE];
    char host[URI_PART_SIZE], port[8];
    char vhost[URI_PART_SIZE];
    bool is_tls;
    const char *ca_file; /* of the authorities that are trusted; NULL: whoever answers is. Not part
                          * of the address: the caller's to set */
};

/* Every part may be left out: guest, guest, 127.0.0.1, 5672 (with TLS 5671) and "/" stand for them.
 * A vhost that is there but empty ("amqp://host/") is the one whose name is empty, as the
 * specification says. Parts may be percent-encoded; an IPv6 address stands in brackets. 0, or -1
 * with a text. */
int uri_parse(struct uri *uri, const char *text, char *error, size_t error_size);

#endif
