/* What the librabbitmq steps share: connecting, declaring, publishing, taking, and failing.
 *
 * Every step runs in a process of its own, so a failure simply prints its line and ends the
 * process; nothing here returns an error. Strings are NUL-terminated and stay the caller's. */
#ifndef CLIENTS_CLIENT_H
#define CLIENTS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else /* before librabbitmq 0.12 */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

/* One channel of a connection; several may share the connection. */
struct client {
    const char *host;
    int port;
    amqp_connection_state_t connection;
    amqp_channel_t channel;
};

/* A message in memory of its own, for the life of the process. */
struct received {
    char *body; /* NUL-terminated, though it may contain NULs */
    size_t size_bytes;
    uint64_t delivery_tag;
    bool is_redelivered;
    uint32_t messages_left; /* of basic.get */
    amqp_channel_t channel;
    amqp_basic_properties_t properties;
};

/* The name of the step that runs, which its failure is printed with. */
extern const char *step_name;

/* Prints `not ok STEP: text` and ends the process. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void expect(bool is_true, const char *what);
void expect_number(uint64_t got, uint64_t wanted, const char *what);
void expect_text(const char *got, const char *wanted, const char *what);
void expect_bytes(amqp_bytes_t got, const char *wanted, const char *what);

/* Opens a connection that knows consumer cancellation, and channel 1 on it. Returns false, with
 * nothing left open, if there is no broker: that is what recovery asks. */
bool client_try_connect(struct client *client);
void client_connect(struct client *client);

/* Opens the next channel on the connection of client, which must have been the last one opened. */
struct client client_open_channel(const struct client *client);
void client_close(struct client *client);

/* Ends the process unless the last call on the connection was answered as it should be. */
void client_check(struct client *client, const char *what);

/* Demands that the last call closed the channel with this code and a text that begins so. */
void client_refused(struct client *client, int code, const char *text);

/* A server-named exclusive queue; the name stays valid for the life of the process. */
const char *client_queue(struct client *client, amqp_table_t arguments);
const char *client_exchange(struct client *client, const char *type);
void client_bind(struct client *client, const char *queue, const char *exchange, const char *key,
                 amqp_table_t arguments);
uint32_t client_count(struct client *client, const char *queue);

/* properties may be NULL. */
void client_publish(struct client *client, const char *exchange, const char *key, const char *body,
                    const amqp_basic_properties_t *properties);

/* Returns the consumer's tag, which the broker chose. */
const char *client_consume(struct client *client, const char *queue, bool no_ack);
void client_cancel(struct client *client, const char *tag);

/* The next delivery to any consumer of the connection. */
struct received client_next(struct client *client);
bool client_get(struct client *client, const char *queue, bool no_ack, struct received *received);

/* Waits for a method other than a delivery on client's channel; its decoded fields belong to the
 * connection. */
void *client_wait_method(struct client *client, amqp_method_number_t id, const char *what);

/* The value of a table's field, or NULL. */
const amqp_field_value_t *table_find(const amqp_table_t *table, const char *key);
amqp_table_entry_t text_entry(const char *key, const char *value);
amqp_table_entry_t number_entry(const char *key, int value);

#endif
