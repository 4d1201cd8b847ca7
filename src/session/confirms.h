/* Publisher confirms of one channel: which published messages are still on their way, and which
 * are to be reported to the client.
 *
 * A message that nobody has to answer for is done at once, and as long as all before it are done
 * costs an increment. Others take a slot in a ring, from the oldest that is not done. */
#ifndef SESSION_CONFIRMS_H
#define SESSION_CONFIRMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

enum confirm_state { CONFIRM_PENDING = 0, CONFIRM_DONE, CONFIRM_REPORTED };

struct confirm_slot {
    uint32_t answers; /* still awaited */
    uint8_t state;
    bool is_refused;
    bool awaits_disk; /* one of the answers is that it is durable */
};

struct confirms {
    uint64_t next;              /* number of the next publish; 0: confirms are not selected */
    uint64_t base;              /* number of the first slot; all before it are done */
    uint64_t reported;          /* all up to this one are reported */
    struct confirm_slot *slots; /* ring */
    uint32_t capacity;
    uint64_t on_disk; /* all up to this one are durable as far as they have to be */
    uint64_t *early;  /* done before others that came before them */
    uint32_t early_count, early_capacity;
};

void confirms_init(struct confirms *confirms);
void confirms_fini(struct confirms *confirms);

/* The next message is published; so many answers of queues are awaited for it, and that it is
 * durable. Its number, or 0: out of memory. */
uint64_t confirms_add(struct confirms *confirms, uint32_t answers, bool awaits_disk);

/* All messages up to this number are durable. -ENOMEM. */
MUST_CHECK int confirms_durable(struct confirms *confirms, uint64_t number);

/* One answer for that message came. -ENOMEM: it cannot be noted, so the channel is useless. */
MUST_CHECK int confirms_answer(struct confirms *confirms, uint64_t number, bool is_accepted);

/* The message is lost although nobody was asked about it: it is reported as refused, unless it is
 * reported already. -ENOMEM: that cannot be noted. */
MUST_CHECK int confirms_lost(struct confirms *confirms, uint64_t number);

/* What to tell the client next: true with basic.ack or basic.nack for `number` (and, if multiple,
 * all before it that were not reported); false when there is nothing. */
struct confirm_report {
    uint64_t number;
    bool multiple, is_refused;
};
bool confirms_report(struct confirms *confirms, struct confirm_report *report);

#endif
