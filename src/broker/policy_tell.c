/* Telling queues that other policies apply: a few at once, and of very many the rest turn by turn,
 * so that neither this shard's turn nor that of another gets long. */
#include <stdlib.h>

#include "broker/policy_internal.h"
#include "broker/shard.h"

enum { TOLD_AT_ONCE = 256 };

struct announcement {
    struct list link; /* in shard->announcements */
    struct policy_change change;
};

bool
policy_tell_some(struct shard *shard, struct policy_change *change)
{
    struct mail mail = {.type = MAIL_POLICY};
    for (size_t i = 0; i < TOLD_AT_ONCE && change->count > 0; i++) {
        mail.to = change->queues[--change->count];
        shard_send(shard, &mail);
    }
    if (change->count > 0)
        return true;
    free(change->queues);
    change->queues = NULL;
    return false;
}

void
policy_tell(struct shard *shard, struct policy_change *change)
{
    bool has_more = policy_tell_some(shard, change);
    struct announcement *announcement = has_more ? malloc(sizeof(*announcement)) : NULL;
    if (announcement != NULL) {
        announcement->change = *change;
        list_init(&announcement->link);
        list_push_back(&shard->announcements, &announcement->link);
    } else {
        while (has_more) /* no memory for doing it later */
            has_more = policy_tell_some(shard, change);
    }
    *change = (struct policy_change){0};
}

static void
announcement_free(struct announcement *announcement)
{
    list_remove(&announcement->link);
    free(announcement->change.queues);
    free(announcement);
}

void
policy_tell_more(struct shard *shard)
{
    struct list *node = list_first(&shard->announcements);
    if (node == NULL)
        return;
    struct announcement *announcement = LIST_ENTRY(node, struct announcement, link);
    if (!policy_tell_some(shard, &announcement->change))
        announcement_free(announcement);
}

void
policy_tell_rest(struct shard *shard)
{
    while (!list_is_empty(&shard->announcements))
        policy_tell_more(shard);
    shard_flush(shard);
}

void
policy_tell_end(struct shard *shard)
{
    struct list *node;
    while ((node = list_first(&shard->announcements)) != NULL)
        announcement_free(LIST_ENTRY(node, struct announcement, link));
}
