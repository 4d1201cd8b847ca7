/* Exchanges over HTTP: what they are, and which policy applies to them. */
#include "admin/listing.h"
#include "admin/routes.h"
#include "broker/policy.h"

struct exchange_row {
    struct slice vhost, name, type, arguments, policy;
    bool durable, auto_delete, internal;
};

#define COLUMN(name, kind)                                                                         \
    {                                                                                              \
#name, LISTING_##kind, offsetof(struct exchange_row, name)                                 \
    }
static const struct listing_column columns[] = {
    COLUMN(name, TEXT),       COLUMN(vhost, TEXT),         COLUMN(type, TEXT),
    COLUMN(durable, BOOL),    COLUMN(auto_delete, BOOL),   COLUMN(internal, BOOL),
    COLUMN(arguments, TABLE), COLUMN(policy, TEXT_IF_ANY),
};
#undef COLUMN

static void
add(void *context, const struct exchange *exchange, struct vhost *vhost)
{
    const struct exchange_declaration declaration = exchange_declaration_of(exchange);
    const struct exchange_row row = {
        .vhost = vhost_name(vhost),
        .name = declaration.name,
        .type = declaration.type,
        .durable = declaration.durable,
        .auto_delete = declaration.auto_delete,
        .internal = declaration.internal,
        .arguments = declaration.arguments,
        .policy = exchange_policy(exchange, false),
    };
    listing_add(context, &row);
}

/* The default exchange, which the catalogue need not keep. */
static void
add_default(struct listing *listing, struct vhost *vhost)
{
    const struct exchange_row row = {.vhost = vhost_name(vhost),
                                     .name = SLICE(""),
                                     .type = SLICE("direct"),
                                     .durable = true,
                                     .arguments = SLICE(""),
                                     .policy = SLICE("")};
    listing_add(listing, &row);
}

/* Where an exchange is added, and of which vhost it is. */
struct addition {
    struct listing *listing;
    struct vhost *vhost;
};

static void
visit(void *context, const struct exchange *exchange)
{
    const struct addition *addition = context;
    add(addition->listing, exchange, addition->vhost);
}

static int
add_next(struct catalogue *catalogue, struct vhost *vhost, struct catalogue_cursor *cursor,
         size_t count, struct listing *listing)
{
    struct addition addition = {listing, vhost};
    if (!cursor->has_begun)
        add_default(listing, vhost);
    return catalogue_next_exchanges(catalogue, vhost, cursor, count, visit, &addition);
}

/* The default exchange has a name here, as a path cannot end in nothing. */
static void
add_one(struct catalogue *catalogue, struct vhost *vhost, struct slice name,
        struct listing *listing)
{
    const struct exchange *exchange = exchange_find(catalogue, vhost, name);
    if (slice_is(name, "amq.default"))
        add_default(listing, vhost);
    else if (exchange != NULL)
        add(listing, exchange, vhost);
}

static const struct listing_form form = {
    .one = "exchange",
    .columns = columns,
    .column_count = ARRAY_SIZE(columns),
    .row_size = sizeof(struct exchange_row),
    .add_next = add_next,
    .add_one = add_one,
};

void
exchanges_list(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_all(&form, request, reply);
}

void
exchanges_of_vhost(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_vhost(&form, request, reply);
}

void
exchange_show(const struct admin_request *request, struct admin_reply *reply)
{
    listing_of_one(&form, request, reply);
}
