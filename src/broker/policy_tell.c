/* Telling queues that other policies apply: a few at once, and of very many the rest turn by turn,
 * so that neither this shard's turn nor that of another gets long. */
#include <stdlib.h>

#include "broker/policy_internal.h"
#include "broker/shard.h"

enum { TOLD_AT_ONCE = 256 };

struct announcement {
    struct list link; /* in shard->announcements */
    struct policy_change change;
    size_t told;
};

static void
tell(struct shard *shard, const struct policy_change *change, size_t *told, size_t most)
{
    struct mail mail = {.type = MAIL_POLICY};
    for (size_t i = 0; i < most && *told < change->count; i++) {
        mail.to = change->queues[(*told)++];
        shard_send(shard, &mail);
    }
}

void
policy_tell(struct shard *shard, struct policy_change *change)
{
    size_t told = 0;
    tell(shard, change, &told, TOLD_AT_ONCE);
    struct announcement *announcement = told < change->count ? malloc(sizeof(*announcement)) : NULL;
    if (announcement != NULL) {
        *announcement = (struct announcement){.change = *change, .told = told};
        list_init(&announcement->link);
        list_push_back(&shard->announcements, &announcement->link);
    } else {
        tell(shard, change, &told, SIZE_MAX); /* nothing is left, or no memory for doing it later */
        free(change->queues);
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
    tell(shard, &announcement->change, &announcement->told, TOLD_AT_ONCE);
    if (announcement->told == announcement->change.count)
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
