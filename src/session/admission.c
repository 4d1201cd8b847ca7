/* Counting connections: see the header. */
#include "session/admission.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "session/channel.h"

/* How many connections one user, vhost or address has. */
struct count {
    uint32_t connections;
    uint32_t size;
    char key[]; /* what it is, then its name */
};

static struct slice
key_of_count(const void *value)
{
    const struct count *count = value;
    return (struct slice){count->key, count->size};
}

void
admission_init(struct admission *admission)
{
    *admission = (struct admission){.connections = 0};
    pthread_mutex_init(&admission->mutex, NULL);
    map_init(&admission->counts, key_of_count);
}

void
admission_fini(struct admission *admission)
{
    void *value;
    for (size_t cursor = 0; (value = map_next(&admission->counts, &cursor)) != NULL;) {
        map_remove(&admission->counts, key_of_count(value));
        free(value);
    }
    map_fini(&admission->counts);
    pthread_mutex_destroy(&admission->mutex);
}

/* --- Counts: with the mutex ------------------------------------------------------------------- */

enum { KEY_MAX = 256 + 1 }; /* names are short strings */

static struct slice
make_key(char room[KEY_MAX], char kind, struct slice name)
{
    size_t size = name.size < KEY_MAX - 1 ? name.size : KEY_MAX - 1;
    room[0] = kind;
    if (size > 0)
        memcpy(room + 1, name.data, size);
    return (struct slice){room, size + 1};
}

static uint32_t
count_of(const struct admission *admission, char kind, struct slice name)
{
    char room[KEY_MAX];
    const struct count *count = map_find(&admission->counts, make_key(room, kind, name));
    return count == NULL ? 0 : count->connections;
}

static void
count_down(struct admission *admission, char kind, struct slice name)
{
    char room[KEY_MAX];
    struct slice key = make_key(room, kind, name);
    struct count *count = map_find(&admission->counts, key);
    if (count == NULL || --count->connections > 0)
        return;
    map_remove(&admission->counts, key);
    free(count);
}

/* False: out of memory. */
static bool
count_up(struct admission *admission, char kind, struct slice name)
{
    char room[KEY_MAX];
    struct slice key = make_key(room, kind, name);
    struct count *count = map_find(&admission->counts, key);
    if (count == NULL) {
        count = malloc(sizeof(*count) + key.size);
        if (count == NULL)
            return false;
        count->connections = 0;
        count->size = (uint32_t)key.size;
        memcpy(count->key, key.data, key.size);
        if (map_insert(&admission->counts, count) != 0) {
            free(count);
            return false;
        }
    }
    count->connections++;
    return true;
}

/* --- Handshakes ------------------------------------------------------------------------------- */

static void
give_way(struct session_host *host)
{
    struct connection *oldest =
        LIST_ENTRY(list_first(&host->newcomers), struct connection, handshake_link);
    if (log_rate_allows(&host->handshake_rate, host->shard->now_ms))
        log_warn("too many handshakes at a time: the oldest gives way",
                 LOG_STR("peer", oldest->peer),
                 LOG_UINT("limit", host->limits.admission.handshakes),
                 LOG_UINT("suppressed", log_rate_suppressed(&host->handshake_rate)));
    oldest->is_broken = true;
    connection_dirty(oldest);
    list_remove(&oldest->handshake_link);
    atomic_fetch_sub_explicit(&host->admission->handshakes, 1, memory_order_relaxed);
}

void
admission_begin(struct connection *connection)
{
    struct session_host *host = connection->host;
    struct admission *admission = host->admission;
    uint32_t before = atomic_fetch_add_explicit(&admission->handshakes, 1, memory_order_relaxed);
    list_push_back(&host->newcomers, &connection->handshake_link);
    bool is_only_one = list_first(&host->newcomers) == &connection->handshake_link;
    if (host->limits.admission.handshakes > 0 && before >= host->limits.admission.handshakes
        && !is_only_one)
        give_way(host);
}

void
admission_forget(struct connection *connection)
{
    if (!list_is_linked(&connection->handshake_link))
        return;
    list_remove(&connection->handshake_link);
    atomic_fetch_sub_explicit(&connection->host->admission->handshakes, 1, memory_order_relaxed);
}

/* --- Open connections ------------------------------------------------------------------------- */

/* What connections of one address have in common. */
static struct slice
key_of_address(const struct connection *connection)
{
    return (struct slice){(const char *)&connection->address_key, sizeof(connection->address_key)};
}

/* The peer's address without its port. */
static struct slice
address_of(const struct connection *connection)
{
    struct slice peer = slice_from(connection->peer);
    const char *port = strrchr(connection->peer, ':');
    if (port != NULL && !slice_starts_with(peer, SLICE("unix:")))
        peer.size = (size_t)(port - connection->peer);
    return peer;
}

static bool
is_reached(uint32_t limit, uint32_t count)
{
    return limit > 0 && count >= limit;
}

static int
check(const struct admission *admission, const struct connection *connection,
      struct amqp_error *error)
{
    const struct admission_limits *limits = &connection->host->limits.admission;
    struct slice vhost = vhost_name(connection->vhost);
    const uint16_t code = AMQP_REPLY_NOT_ALLOWED;
    if (is_reached(limits->connections, admission->connections))
        return channel_error(error, code,
                             "connection refused: node connection limit (%u) is reached",
                             limits->connections);
    if (is_reached(limits->per_vhost, count_of(admission, 'v', vhost)))
        return channel_error(error, code,
                             "access to vhost '%.*s' refused for user '%s': connection limit (%u) "
                             "is reached",
                             SLICE_ARGS(vhost), connection->user, limits->per_vhost);
    if (is_reached(limits->per_user, count_of(admission, 'u', slice_from(connection->user))))
        return channel_error(error, code,
                             "connection refused for user '%s': user connection limit (%u) is "
                             "reached",
                             connection->user, limits->per_user);
    if (is_reached(limits->per_address, count_of(admission, 'a', key_of_address(connection))))
        return channel_error(error, code,
                             "connection refused from address '%.*s': address connection limit "
                             "(%u) is reached",
                             SLICE_ARGS(address_of(connection)), limits->per_address);
    return 0;
}

static void
count_out(struct admission *admission, const struct connection *connection)
{
    count_down(admission, 'v', vhost_name(connection->vhost));
    count_down(admission, 'u', slice_from(connection->user));
    count_down(admission, 'a', key_of_address(connection));
    admission->connections--;
}

static int
count_in(struct admission *admission, const struct connection *connection, struct amqp_error *error)
{
    const struct {
        char kind;
        struct slice name;
    } counted[] = {
        {'v', vhost_name(connection->vhost)},
        {'u', slice_from(connection->user)},
        {'a', key_of_address(connection)},
    };
    for (size_t i = 0; i < ARRAY_SIZE(counted); i++) {
        if (count_up(admission, counted[i].kind, counted[i].name))
            continue;
        while (i-- > 0)
            count_down(admission, counted[i].kind, counted[i].name);
        return channel_error(error, AMQP_REPLY_RESOURCE_ERROR, "out of memory");
    }
    admission->connections++;
    return 0;
}

int
admission_open(struct connection *connection, struct amqp_error *error)
{
    struct admission *admission = connection->host->admission;
    pthread_mutex_lock(&admission->mutex);
    int status = check(admission, connection, error);
    if (status == 0)
        status = count_in(admission, connection, error);
    pthread_mutex_unlock(&admission->mutex);
    if (status != 0)
        return -1;
    connection->is_counted = true;
    admission_forget(connection); /* the handshake is over */
    return 0;
}

void
admission_end(struct connection *connection)
{
    struct admission *admission = connection->host->admission;
    if (!connection->is_counted)
        return;
    connection->is_counted = false;
    pthread_mutex_lock(&admission->mutex);
    count_out(admission, connection);
    pthread_mutex_unlock(&admission->mutex);
}
