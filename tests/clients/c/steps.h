/* The steps, a file for each subject, and what several of them need.
 *
 * A step is given an open connection of its own, in a process of its own; it returns when the
 * broker did what it should, and ends the process when not (client.h). */
#ifndef CLIENTS_STEPS_H
#define CLIENTS_STEPS_H

#include "client.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Demands that exactly these bodies are in the queue, in this order; wanted ends with NULL. */
void expect_bodies(struct client *client, const char *queue, const char *const *wanted);
void ack(struct client *client, uint64_t delivery_tag);
void refused_passive_declare(struct client *client, const char *queue, int code, const char *text);
void requeue_unacknowledged(struct client *client);

/* In steps_connection.c. */
void close_connection(struct client *client);
void recovery(struct client *client);

/* In steps_consume.c. */
void hello(struct client *client);
void work_queue(struct client *client);
void get(struct client *client);
void requeue(struct client *client);
void recover(struct client *client);
void cancel_notify(struct client *client);

/* In steps_dead_letter.c. */
void dead_letter(struct client *client);
void ttl(struct client *client);

/* In steps_publish.c. */
void confirms(struct client *client);
void mandatory_return(struct client *client);
void transaction(struct client *client);
void large_body(struct client *client);

/* In steps_queue.c. */
void priority(struct client *client);
void exclusive(struct client *client);
void missing_queue(struct client *client);
void redeclare(struct client *client);

/* In steps_routing.c. */
void publish_subscribe(struct client *client);
void routing(struct client *client);
void topics(struct client *client);
void headers(struct client *client);

/* In steps_rpc.c. */
void rpc(struct client *client);
void direct_reply_to(struct client *client);

#endif
