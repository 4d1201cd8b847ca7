/* What holds for a queue, by its arguments and by policies, and what another policy changes in it.
 *
 * The catalogue says which policies apply; the queue has a copy of what they make of its arguments,
 * which its shard reads without the mutex. */
#include "broker/policy_internal.h"
#include "broker/queue_internal.h"

void
queue_read_policies(struct queue *queue)
{
    policies_copy(queue->policies, queue->record->policies);
    queue->options = queue->record->options;
    policies_apply(queue->policies, &queue->options);
}

/* The time begins with the policy, however long nobody has used the queue before. */
static void
restart_unused_timer(struct queue *queue)
{
    struct wheel *wheel = &queue->shard->wheel;
    queue_use(queue);
    if (queue->options.expires_ms == OPTION_NONE)
        wheel_cancel(wheel, &queue->unused_timer);
    else
        wheel_set(wheel, &queue->unused_timer, queue->used_ms + queue->options.expires_ms);
}

void
queue_on_policy(struct queue *queue)
{
    struct catalogue *catalogue = queue->shard->broker->catalogue;
    int64_t expires_ms = queue->options.expires_ms;
    int64_t message_ttl_ms = queue->options.message_ttl_ms;
    catalogue_lock(catalogue);
    queue_read_policies(queue);
    catalogue_unlock(catalogue);
    if (queue->options.expires_ms != expires_ms)
        restart_unused_timer(queue);
    if (queue->options.message_ttl_ms != message_ttl_ms && !queue->record->is_internal)
        queue_retime(queue);
    queue_keep_limit(queue);
    queue_publish_statistics(queue);
}
