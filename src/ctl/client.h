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

struct client_question {
    const char *method;
    const char *const *parts; /* of the path, up to a NULL, each escaped as it needs */
    const char *columns;      /* what to tell of each thing, with commas between; NULL: all */
    json_t *body;             /* sent as JSON, and given up; NULL: none */
    bool only_new;            /* what is there is not changed */
};

/* 0 with *answer, which the caller owns (NULL: there is none); or -1, after one line on standard
 * error. */
MUST_CHECK int client_ask(struct client *client, const struct client_question *question,
                          json_t **answer);

#endif
