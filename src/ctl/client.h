/* The broker's HTTP API, as whippetctl asks it: over its Unix socket, one request at a time. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/compiler.h"

struct client;

/* A client of the socket, which is not looked for before the first request. NULL: out of memory. */
struct client *client_new(const char *socket);
void client_free(struct client *client);

/* Asks for a path of these parts, up to a NULL, each escaped as it needs; body (NULL: none) is sent
 * as JSON, and given up. only_new: what is there is not changed. 0 with *answer, which the caller
 * owns (NULL: there is none); or -1, after one line on standard error. */
MUST_CHECK int client_ask(struct client *client, const char *method, const char *const *parts,
                          json_t *body, bool only_new, json_t **answer);

#endif
