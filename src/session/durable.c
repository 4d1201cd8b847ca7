/* What waits for the disk: confirms and commits for the log, answers to declarations for the
 * definitions. */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "session/channel.h"
#include "store/definitions.h"
#include "store/log.h"

/* What a channel wrote in one turn. The queues that it went to may be new: it is safe when their
 * definitions are, too. */
struct durable_wait {
    uint64_t ticket;   /* of the log */
    uint64_t sequence; /* of the definitions */
    struct ref channel;
    uint64_t number; /* confirms: of the last publish; 0: a commit */
};

static struct durable_wait *
wait_at(struct session_host *host, uint32_t i)
{
    return &host->waits[(host->wait_first + i) & (host->wait_capacity - 1)];
}

static int
grow(struct session_host *host)
{
    uint32_t capacity = host->wait_capacity == 0 ? 64 : 2 * host->wait_capacity;
    struct durable_wait *waits = malloc(capacity * sizeof(*waits));
    if (waits == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < host->wait_count; i++)
        waits[i] = *wait_at(host, i);
    free(host->waits);
    host->waits = waits;
    host->wait_first = 0;
    host->wait_capacity = capacity;
    return 0;
}

void
session_host_submit(struct session_host *host)
{
    if (host->log_writer == NULL)
        return;
    uint64_t ticket = log_submit(host->log_writer);
    uint64_t sequence = host->definitions == NULL ? 0 : definitions_submitted(host->definitions);
    struct list *node;
    while ((node = list_pop_front(&host->written)) != NULL) {
        struct channel *channel = LIST_ENTRY(node, struct channel, written_link);
        if (host->wait_count == host->wait_capacity && grow(host) != 0) {
            connection_break(channel->connection, "out of memory");
            continue;
        }
        *wait_at(host, host->wait_count++) = (struct durable_wait){
            .ticket = ticket,
            .sequence = sequence,
            .channel = channel->ref,
            .number = channel->mode == CHANNEL_CONFIRMS ? channel->confirms.next - 1 : 0,
        };
    }
}

static bool
is_durable(const struct session_host *host, const struct durable_wait *wait)
{
    return wait->ticket <= log_durable(host->log_writer)
           && (host->definitions == NULL
               || wait->sequence <= definitions_durable(host->definitions));
}

static void
tell(struct session_host *host, const struct durable_wait *wait)
{
    struct channel *channel = ref_table_find(&host->shard->clients, wait->channel);
    if (channel == NULL)
        return;
    struct connection *connection = channel->connection;
    if (wait->number == 0) {
        transaction_durable(channel);
        return;
    }
    if (confirms_durable(&channel->confirms, wait->number) != 0)
        connection_break(connection, "out of memory");
    if (!list_is_linked(&channel->confirm_link))
        list_push_back(&connection->confirming, &channel->confirm_link);
    connection_dirty(connection);
}

void
session_host_durable(struct session_host *host)
{
    while (host->wait_count > 0 && is_durable(host, wait_at(host, 0))) {
        struct durable_wait wait = *wait_at(host, 0);
        host->wait_first = (host->wait_first + 1) & (host->wait_capacity - 1);
        host->wait_count--;
        tell(host, &wait);
    }
    if (!list_is_empty(&host->gated)) {
        uint64_t durable = definitions_durable(host->definitions);
        LIST_FOR_EACH_SAFE (node, &host->gated) {
            struct connection *connection = LIST_ENTRY(node, struct connection, dirty_link);
            if (connection->gate <= durable)
                list_move_back(&host->dirty, node);
        }
    }
}

bool
session_host_has_durable(const struct session_host *host)
{
    if (host->wait_count > 0
        && is_durable(host, &host->waits[host->wait_first & (host->wait_capacity - 1)]))
        return true;
    if (list_is_empty(&host->gated))
        return false;
    /* Gates are not in order; that any change became durable is reason enough to look. */
    const struct list *first = list_first(&host->gated);
    return LIST_ENTRY(first, const struct connection, dirty_link)->gate
           <= definitions_durable(host->definitions);
}
