/* A channel: its consumers, what they have been given and not settled, what was published. */
#ifndef SESSION_CHANNEL_H
#define SESSION_CHANNEL_H

#include "session/confirms.h"
#include "session/connection.h"
#include "session/unacked.h"

enum {
    CONSUMER_SLOT_BITS = 20,
    /* Consumers of one channel. */
    CHANNEL_CONSUMERS_MAX = 1 << 16,
    /* Bytes of deliveries that may be under way for a consumer: less for each of many, as they
     * share one socket and it may not be read. */
    CONSUMER_WINDOW = 512 * 1024,
    CONSUMER_WINDOW_OF_MANY = 32 * 1024,
    CONSUMERS_FEW = 16, /* of a connection */
};

struct consumer {
    struct list owing_link; /* in connection->owing */
    struct list want_link;  /* in channel->wanting */
    struct channel *channel;
    uint32_t number; /* slot and generation */
    struct ref queue, subscription;
    uint32_t window;     /* CONSUMER_WINDOW, or of many */
    uint32_t granted;    /* its part of channel->granted */
    uint32_t owed_bytes; /* delivered, and not yet reported to the queue */
    int64_t timeout_ms;  /* its deliveries are to be settled within; 0: no limit */
    bool no_ack, is_cancelling, is_reply_to;
    uint8_t tag_size;
    char tag[]; /* consumer tag */
};

struct consumer_slot {
    struct consumer *consumer;
    uint16_t generation;
};

enum channel_mode { CHANNEL_PLAIN, CHANNEL_CONFIRMS, CHANNEL_TRANSACTIONAL };

/* The publish under way. */
struct publish {
    struct slice exchange, routing_key; /* in the input, or in `kept` */
    char *kept;
    struct message *message; /* its body is filled by the body frames */
    uint32_t body_received;
    bool is_expecting_header, is_expecting_body, mandatory;
    bool is_counted_as_it_comes; /* a large body: memory is counted by what has come of it */
    bool is_bad; /* its properties are wrong: the channel is closed when it is complete */
};

/* The request whose answer the connection awaits. */
struct pending {
    uint32_t method_id; /* enum amqp_method_id, for errors */
    bool no_wait;
    struct consumer *consumer;
    struct slice queue_name;            /* owned copy, for the answer and errors; may be none */
    struct amqp_queue_declare *declare; /* owned: makes the queue if it has gone; may be none */
    int64_t timeout_ms; /* basic.get: within which its message is to be settled; 0: no limit */
};

struct transaction;

struct channel {
    struct connection *connection;
    uint16_t number;
    uint8_t mode;
    bool is_closing;          /* channel.close is sent; all but its answer is ignored */
    bool is_full_noted;       /* that it has too much unsettled has been logged */
    struct ref ref;           /* as a client of queues */
    struct list confirm_link; /* in connection->confirming */
    struct list written_link; /* in host->written */
    struct list publish_link; /* in connection->half_published */
    struct publish publish;
    struct route_hint route_hint;
    struct pending pending;
    struct slice last_queue; /* declared last; owned */
    /* Consumers. */
    struct consumer_slot *consumers;
    uint32_t consumer_capacity, consumer_count;
    uint32_t next_consumer_slot;
    uint16_t prefetch;        /* for consumers to come */
    uint16_t global_prefetch; /* 0: none */
    uint32_t granted;         /* leave given to metered subscriptions and not used */
    uint32_t got;             /* unsettled messages of basic.get: no consumer's */
    struct list wanting;      /* consumers whose queue asked for leave */
    char *reply_to;           /* the name for direct replies, or NULL: no consumer for them */
    struct unacked unacked;
    struct timer settle_timer; /* set: it is looked whether deliveries are past their deadline */
    struct confirms confirms;
    struct transaction *transaction;
};

/* --- Life (channel.c) ------------------------------------------------------------------------- */

/* channel.open. NULL: out of memory. */
struct channel *channel_new(struct connection *connection, uint16_t number);

/* Ends it for the core: consumers go, what is unsettled returns to its queues. Frees it. */
void channel_free(struct channel *channel);

/* A channel error: tells the client and awaits channel.close-ok. */
void channel_fail(struct channel *channel, const struct amqp_error *error);

/* A method for the channel. -1 with the error, which closes the channel or the connection. */
int channel_method(struct channel *channel, const struct amqp_method_info *info,
                   const union amqp_method *method, struct amqp_error *error);

/* Mail from queues. */
void channel_receive(void *client, const struct mail *mail);

/* Sends confirms that are due: at the end of the turn. */
void channel_flush_confirms(struct channel *channel);

/* 406 and the like, for the method under way: sets the error and returns -1. */
PRINTF_LIKE(3, 4)
int channel_error(struct amqp_error *error, uint16_t code, const char *format, ...);

/* --- Publishing (publish.c) ------------------------------------------------------------------- */

int publish_begin(struct channel *channel, const struct amqp_basic_publish *method,
                  struct amqp_error *error);
int publish_header(struct channel *channel, struct slice payload, struct amqp_error *error);
int publish_body(struct channel *channel, struct slice bytes, struct amqp_error *error);

/* Copies what points into the input, which goes away. -ENOMEM. */
MUST_CHECK int publish_keep(struct channel *channel);
void publish_drop(struct channel *channel);

/* Bytes of body that the content under way has yet to bring. */
uint64_t publish_left(const struct channel *channel);

/* Routes and sends a complete message (owned); its properties are those that it holds. -1 with the
 * error. */
int publish_message(struct channel *channel, struct message *message,
                    const struct amqp_properties *properties, bool mandatory,
                    struct amqp_error *error);

/* Is there the exchange to which the message is published? -1 with the error. */
int publish_check_exchange(struct channel *channel, const struct message *message,
                           struct amqp_error *error);

/* --- Methods by class ------------------------------------------------------------------------- */

typedef int channel_handler(struct channel *channel, const union amqp_method *method,
                            struct amqp_error *error);

channel_handler exchange_declare_method, exchange_delete_method, exchange_bind_method,
    exchange_unbind_method, queue_declare_method, queue_bind_method, queue_unbind_method,
    queue_purge_method, queue_delete_method, basic_qos_method, basic_consume_method,
    basic_cancel_method, basic_get_method, basic_ack_method, basic_nack_method, basic_reject_method,
    basic_recover_method, basic_recover_async_method, confirm_select_method, tx_select_method,
    tx_commit_method, tx_rollback_method;

/* Sends mail that is answered; the connection waits until then. The pending request is filled by
 * the caller before. */
void channel_ask(struct channel *channel, struct mail *mail);

/* The answer came: the connection goes on. */
void channel_answered(struct channel *channel);

/* The answer is this error. */
void channel_fail_pending(struct channel *channel, struct amqp_error *error);

/* --- Queues (channel_queue.c) ----------------------------------------------------------------- */

/* Finds a queue for an operation: an empty name is the one declared last. The result is its address
 * and a copy of what is needed. */
struct found_queue {
    struct ref ref;
    uint64_t id;
    int64_t consumer_timeout_ms; /* OPTION_NONE: the broker's */
    enum queue_type type;
    bool durable;
};
int channel_find_queue(struct channel *channel, struct slice *name, struct found_queue *found,
                       struct amqp_error *error);

/* The same, after the user was found to have the permission on it. */
int channel_find_permitted(struct channel *channel, struct slice *name,
                           enum access_permission permission, struct found_queue *found,
                           struct amqp_error *error);

/* A name as RabbitMQ takes it in what declares, binds and deletes: without carriage returns and
 * line feeds. (Not so in what publishes, consumes, gets and purges.) It is in `room`, or empty. */
struct slice channel_strip_name(struct slice name, char room[256]);

/* A name for what the client left unnamed: prefix and 22 random characters. `name` holds 64. */
struct slice channel_make_name(struct channel *channel, const char *prefix, char name[64]);

void queue_replied(struct channel *channel, const struct mail *mail);
int no_queue(struct channel *channel, struct slice name, struct amqp_error *error);

/* --- Consuming (consumer.c, deliver.c) -------------------------------------------------------- */

/* After consumer_take_place. NULL: out of memory, and the place is given back. */
struct consumer *consumer_new(struct channel *channel, struct slice tag);
struct consumer *channel_consumer(struct channel *channel, uint32_t number);
void consumer_replied(struct channel *channel, const struct mail *mail);
void consumer_cancelled(struct channel *channel, const struct mail *mail);
void consumers_free(struct channel *channel);
void consumer_report(struct consumer *consumer);
void deliver_message(struct channel *channel, const struct mail *mail);
void get_replied(struct channel *channel, const struct mail *mail);
void send_return(struct channel *channel, const struct message *message, uint16_t code,
                 const char *text);

/* The time within which a delivery is to be settled: the consumer's, else the queue's, else the
 * broker's. 0: no limit. OPTION_NONE stands for what was not given. */
int64_t settle_timeout(const struct channel *channel, const struct found_queue *found,
                       int64_t consumer_timeout_ms);

/* Looks for deliveries that were not settled in time: with one, the channel is closed. */
void on_settle_timer(struct timer *timer, int64_t now_ms);

/* Global prefetch: gives leave to the consumers that asked for it. */
void channel_grant(struct channel *channel);

/* Has it so many unsettled deliveries that its queues get no credit? Says so in the log, once. */
bool channel_is_full(struct channel *channel);

/* May the channel have one more consumer, of this queue? -1 with the error; else its place in the
 * vhost is taken, and consumer_new, which is to be called next, has it. */
MUST_CHECK int consumer_take_place(struct channel *channel, struct slice queue,
                                   struct amqp_error *error);

/* So much of the consumer's leave was used, or came back. */
void consumer_ungrant(struct consumer *consumer, uint32_t messages);

/* Settles one entry at its queue. */
void channel_settle(struct channel *channel, struct unacked_entry *entry,
                    enum settle_outcome outcome);

/* --- Transactions (transaction.c) ------------------------------------------------------------- */

int transaction_publish(struct channel *channel, struct message *message, bool mandatory,
                        struct amqp_error *error);
int transaction_settle(struct channel *channel, uint64_t delivery_tag, bool multiple,
                       enum settle_outcome outcome, struct amqp_error *error);
/* So many answers of queues are still to come for an operation of the commit. */
void transaction_expects(struct channel *channel, uint32_t answers);
/* A message of the commit went to the log: the commit waits for it. */
void transaction_writes(struct channel *channel);
bool transaction_is_committing(const struct channel *channel);
/* A queue has answered (MAIL_CONFIRM). */
void transaction_confirmed(struct channel *channel, const struct mail *mail);
/* A message of the commit was lost. */
void transaction_lost(struct channel *channel);
/* What the commit wrote is on disk. */
void transaction_durable(struct channel *channel);
void transaction_free(struct channel *channel);

/* --- Direct reply-to (reply_to.c) ------------------------------------------------------------- */

#define REPLY_TO_NAME "amq.rabbitmq.reply-to"

/* Is it the pseudo queue's name, or one made from it? */
bool is_reply_to_name(struct slice name);

/* Is the channel that waits for replies under this name still there? */
bool reply_to_exists(struct channel *channel, struct slice name);

/* Sends a reply (one reference is given away). False: nobody waits under that name; the reference
 * is then still the caller's. */
bool reply_to_publish(struct channel *channel, struct slice name, struct message *message);

/* basic.consume on the pseudo queue. */
int reply_to_consume(struct channel *channel, const struct amqp_basic_consume *method,
                     struct amqp_error *error);

/* No more replies. */
void reply_to_end(struct channel *channel);

#endif
