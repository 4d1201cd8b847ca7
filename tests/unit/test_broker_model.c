/* The model of queues: its messages, consumers, and what enters a queue. See the header. */
#include "test_broker_model.h"

struct model model;

/* --- Queues of the model ---------------------------------------------------------------------- */

uint32_t
count_in(const struct model_queue *queue, enum place place)
{
    uint32_t count = 0;
    for (const struct item *item = queue->first; item != NULL; item = item->next)
        count += item->place == place;
    return count;
}

uint64_t
bytes_in(const struct model_queue *queue, enum place place)
{
    uint64_t bytes = 0;
    for (const struct item *item = queue->first; item != NULL; item = item->next)
        if (item->place == place)
            bytes += item->story.size;
    return bytes;
}

bool
is_over(const struct model_queue *queue, uint64_t more, uint64_t more_bytes)
{
    return (queue->max_length >= 0
            && count_in(queue, IN_READY) + more > (uint64_t)queue->max_length)
           || (queue->max_bytes >= 0
               && bytes_in(queue, IN_READY) + more_bytes > (uint64_t)queue->max_bytes);
}

/* The next to be delivered: the oldest of the highest priority. */
struct item *
head_of(const struct model_queue *queue)
{
    struct item *head = NULL;
    for (struct item *item = queue->first; item != NULL; item = item->next)
        if (item->place == IN_READY && (head == NULL || item->lane > head->lane))
            head = item;
    return head;
}

static void
append(struct model_queue *queue, struct item *item)
{
    struct item **at = &queue->first;
    while (*at != NULL)
        at = &(*at)->next;
    *at = item;
}

void
remove_item(struct model_queue *queue, struct item *item)
{
    struct item **at = &queue->first;
    while (*at != item)
        at = &(*at)->next;
    *at = item->next;
    item->place = IN_NONE;
    item->next = model.free_items;
    model.free_items = item;
}

static struct item *
new_item(void)
{
    struct item *item = model.free_items;
    REQUIRE(item != NULL, "the model is full");
    model.free_items = item->next;
    *item = (struct item){0};
    return item;
}

/* Whether it is this one's turn to leave so. */
static bool
may_leave(const struct model_queue *queue, const struct item *item, int how)
{
    switch (how) {
    case DELIVERED:
        return item == head_of(queue) || item->place == IN_ARRIVING;
    case DEPARTS_EXPIRED:
        return item->place != IN_UNACKED && item->deadline_ms <= clock_now();
    case DEPARTS_MAXLEN:
        return queue->overflow == OVERFLOW_DROP_HEAD ? item == head_of(queue)
                                                     : item->place == IN_ARRIVING;
    default:
        return item->must_die && (int)item->why == how;
    }
}

struct item *
find_item(struct model_queue *queue, const struct message *message, int how)
{
    struct item *found = NULL;
    for (struct item *item = queue->first; item != NULL; item = item->next) {
        if (!model.pages && item->message == message)
            return item;
        if (!model.pages || item->story.uid != uid_of(message)
            || difference_of(&item->story, message).is_there)
            continue;
        if (may_leave(queue, item, how))
            return item;
        found = item;
    }
    return found;
}

int
queue_number(struct ref ref)
{
    for (int i = 0; i < QUEUES; i++)
        if (model.queues[i].exists && ref_equal(model.queues[i].ref, ref))
            return i;
    REQUIRE(false, "a queue that the model does not know");
    return -1;
}

/* --- Consumers of the model ------------------------------------------------------------------- */

static bool
is_active(int number)
{
    const struct consumer *consumer = &model.consumers[number];
    if (!model.queues[consumer->queue].sac)
        return true;
    for (int i = 0; i < CONSUMERS_MAX; i++)
        if (model.consumers[i].exists && model.consumers[i].queue == consumer->queue
            && model.consumers[i].age < consumer->age)
            return false;
    return true;
}

bool
is_able(int number)
{
    const struct consumer *consumer = &model.consumers[number];
    return consumer->exists && is_active(number)
           && (consumer->prefetch == 0 || consumer->unsettled < consumer->prefetch);
}

bool
has_able(int queue)
{
    for (int i = 0; i < CONSUMERS_MAX; i++)
        if (model.consumers[i].queue == queue && is_able(i))
            return true;
    return false;
}

int
consumer_count(int queue)
{
    int count = 0;
    for (int i = 0; i < CONSUMERS_MAX; i++)
        count += model.consumers[i].exists && model.consumers[i].queue == queue;
    return count;
}

/* --- Entering --------------------------------------------------------------------------------- */

/* A message that dies by itself does not go where it died before, unless it was rejected since. */
static bool
goes_in_circles(const struct story *story, int queue)
{
    for (uint32_t i = 0; i < story->death_count; i++) {
        if (story->deaths[i].reason == DEPARTS_REJECTED)
            return false;
        if (story->deaths[i].queue == queue)
            return true;
    }
    return false;
}

static bool
is_held_already(const struct model_queue *queue, uint64_t identifier)
{
    for (const struct item *item = queue->first; item != NULL && queue->dedup; item = item->next)
        if (identifier != 0 && item->story.identifier == identifier)
            return true;
    return false;
}

/* The message is about to be given to the queue. Whether a queue that may refuse it does is known
 * only from its answer: until then it is arriving. */
void
arrive(int number, const struct story *story, const struct message *message, bool by_itself)
{
    struct model_queue *queue = &model.queues[number];
    model.publishing[number] = NULL;
    if (by_itself && goes_in_circles(story, number))
        return;
    if (queue->overflow == OVERFLOW_DROP_HEAD && is_held_already(queue, story->identifier))
        return;
    struct item *item = new_item();
    item->message = message;
    item->story = *story;
    item->published_ms = clock_now();
    item->deadline_ms = deadline_of(queue, story, clock_now());
    int priority = story->priority < 0 ? 0 : story->priority;
    item->lane = (uint32_t)(priority < queue->lanes ? priority : queue->lanes - 1);
    item->place = queue->overflow == OVERFLOW_DROP_HEAD ? IN_READY : IN_ARRIVING;
    append(queue, item);
    model.publishing[number] = item;
}

/* The queue's answer to the message that is arriving. */
void
take_answer(int number, bool is_taken)
{
    struct model_queue *queue = &model.queues[number];
    struct item *item = model.publishing[number];
    TRACE("%s answers %d: %u ready, %d bytes", queue->name, is_taken, count_in(queue, IN_READY),
          (int)bytes_in(queue, IN_READY));
    model.publishing[number] = NULL;
    if (item == NULL || item->place != IN_ARRIVING) {
        /* It was delivered or has expired before the answer, or it goes in circles. A dead letter
         * that was refused has been dead-lettered again: that counts as taken. */
        REQUIRE(is_taken, "%s refuses a message that it had", queue->name);
        return;
    }
    if (is_taken) {
        for (struct item *other = queue->first; other != NULL && queue->dedup; other = other->next)
            if (other != item && item->story.identifier != 0
                && other->story.identifier == item->story.identifier) {
                remove_item(queue, item); /* a duplicate: taken, and dropped */
                return;
            }
        REQUIRE(!is_over(queue, 1, item->story.size), "%s takes more than its limit", queue->name);
        item->place = IN_READY;
        return;
    }
    model.refusals++;
    TRACE("message %" PRIu64 " is refused by %s", item->story.uid, queue->name);
    REQUIRE(is_over(queue, 1, item->story.size), "%s refuses below its limit", queue->name);
    REQUIRE(!has_able(number) || count_in(queue, IN_READY) == 0,
            "%s refuses while it could deliver", queue->name);
    remove_item(queue, item);
}
