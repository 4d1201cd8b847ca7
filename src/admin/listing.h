/* Lists of what a vhost has, with many columns, such as queues: gathered as rows, which are plain
 * structs, a piece at a time while the catalogue is locked, and made JSON of when it is not, sorted
 * by vhost and name as RabbitMQ does. There is never JSON of more than one of them in memory, but
 * their text. */
#ifndef ADMIN_LISTING_H
#define ADMIN_LISTING_H

#include "admin/request.h"
#include "broker/catalogue_list.h"

/* What a column is in the row, and in JSON. */
enum listing_kind {
    LISTING_TEXT,         /* struct slice */
    LISTING_TEXT_OR_NULL, /* struct slice; null if it is empty */
    LISTING_TEXT_IF_ANY,  /* struct slice; not there if it is empty */
    LISTING_BOOL,         /* bool */
    LISTING_NUMBER,       /* uint64_t */
    LISTING_TABLE,        /* struct slice: the content of a validated field table; an object */
};

struct listing_column {
    const char *name;
    enum listing_kind kind;
    size_t offset; /* in the row */
};

struct listing;

/* What is listed. A row begins with the slices of vhost and name. */
struct listing_form {
    const char *one; /* "queue" */
    const struct listing_column *columns;
    size_t column_count; /* at most 64 */
    size_t row_size;
    /* Adds the next of the vhost, as catalogue_next_queues. */
    int (*add_next)(struct catalogue *catalogue, struct vhost *vhost,
                    struct catalogue_cursor *cursor, size_t count, struct listing *listing);
    /* Adds the one of that name, if there is one. With the catalogue's mutex held. */
    void (*add_one)(struct catalogue *catalogue, struct vhost *vhost, struct slice name,
                    struct listing *listing);
};

/* Copies the row with the bytes of its slices; a failure is noted, and becomes the answer. */
void listing_add(struct listing *listing, const void *row);

/* As if a listing_add had failed. */
void listing_fail(struct listing *listing);

/* The answers: all, those of the vhost names[0], the one names[1] in it; of each the columns that
 * the request asks for. */
void listing_of_all(const struct listing_form *form, const struct admin_request *request,
                    struct admin_reply *reply);
void listing_of_vhost(const struct listing_form *form, const struct admin_request *request,
                      struct admin_reply *reply);
void listing_of_one(const struct listing_form *form, const struct admin_request *request,
                    struct admin_reply *reply);

#endif
