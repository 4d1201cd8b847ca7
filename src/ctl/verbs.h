/* What whippetctl can do: one table, from which --help follows. */
#ifndef CTL_VERBS_H
#define CTL_VERBS_H

#include <stdbool.h>

#include "ctl/client.h"

enum { VERB_ARGUMENTS_ANY = 64 };

struct verb_call {
    struct client *client;
    const char *vhost;    /* of -p */
    const char *apply_to; /* of --apply-to; NULL: not given */
    int priority;         /* of --priority */
    bool wants_json;
    const char *const *arguments; /* as many as the verb takes, and a NULL */
    int count;
};

/* None; -p; -p, --priority and --apply-to. */
enum verb_options { VERB_PLAIN, VERB_VHOST, VERB_POLICY };

struct verb {
    const char *name, *arguments, *summary;
    int min, max; /* arguments */
    enum verb_options options;
    int (*run)(const struct verb_call *call); /* 0, or -1 after one line on standard error */
};

/* The verb; NULL: there is none of this name. */
const struct verb *verb_find(const char *name);

/* In the order of the help; NULL after the last. */
const struct verb *verb_at(int index);

#endif
