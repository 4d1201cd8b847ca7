/* Messages on their way out of a queue to somewhere else: dead letters, and delayed messages whose
 * time has come.
 *
 * Departures are done one by one from the shard's turn, never from inside another queue's work, so
 * chains and circles of dead-letter routes need no stack.
 *
 * A message stays its old queue's in the journal until it has gone on. If every queue that it
 * should go to refuses it (they are full, and reject-publish), it waits here and tries again: it is
 * never lost between two queues. Very many may wait, so they do not do so in memory, and some are
 * tried for all those of the same queue. */
#ifndef BROKER_DEPARTURE_H
#define BROKER_DEPARTURE_H

#include "broker/dead_letter.h"
#include "broker/queue.h"

/* The message, which has just left the queue, goes where its death takes it. The reference is given
 * away. `id` is its entry's in the journal, settled when it has gone on: then `settler`, if it is
 * not REF_NONE, gets its MAIL_CONFIRM. It also does as soon as the message is refused everywhere:
 * nobody waits for other people's queues to have room.
 *
 * -ENOENT: there is no dead-letter route, and it is dropped and settled. -ENOMEM: it is dropped and
 * not settled, so that the journal gives it back at the next start; that is logged. */
int departure_add(struct queue *queue, struct message *message, uint64_t id,
                  enum departure_reason reason, struct ref settler);

/* Whether any message that leaves the queue for this reason may have somewhere to go. */
bool departure_may_go_on(const struct queue *queue, enum departure_reason reason);

/* What departure_add does where there is no dead-letter route, for a message that need not be read
 * for that: it is settled. */
void departure_end(struct queue *queue, uint64_t id, enum departure_reason reason,
                   struct ref settler);

/* The entry with that tag leaves the queue for this reason: it is dead-lettered where the queue (or
 * the exchange through which it came) has a dead-letter route, else dropped. */
void queue_depart(struct queue *queue, uint64_t tag, struct entry *entry,
                  enum departure_reason reason);

/* The same for one that its consumer rejected; `settler` as for departure_add. */
void queue_depart_rejected(struct queue *queue, uint64_t tag, struct entry *entry,
                           struct ref settler);

/* A message that was refused at the door (reject-publish-dlx): dead-lettered without having been in
 * the queue, or if it cannot be, just settled there. Gives no reference away. Whether it has gone
 * on. */
bool queue_depart_refused(struct queue *queue, struct message *message);

/* The queue is freed; what has departed from it goes on. */
void queue_forget_line(struct queue *queue);

/* What tells lines of departures apart, for the shard's map of them. */
struct slice departure_line_key(const void *line);

/* Does departures that are due, at most `budget`, and none while the journal is short; returns
 * whether there are more. */
bool departures_run(struct shard *shard, unsigned budget);

/* A target that may refuse has said whether it did. When all have, the departure is over, or tried
 * again later. */
void departure_answered(struct shard *shard, const struct mail *mail);

/* Drops what is left: when the broker ends. */
void departures_clear(struct shard *shard);

#endif
