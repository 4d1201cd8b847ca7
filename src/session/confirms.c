/* Publisher confirms: see the header. */
#include "session/confirms.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 16, KEPT_CAPACITY = 1024 };

void
confirms_init(struct confirms *confirms)
{
    *confirms = (struct confirms){.next = 1, .base = 1};
}

void
confirms_fini(struct confirms *confirms)
{
    free(confirms->slots);
    free(confirms->early);
    *confirms = (struct confirms){0};
}

static struct confirm_slot *
slot_at(const struct confirms *confirms, uint64_t number)
{
    return &confirms->slots[number & (confirms->capacity - 1)];
}

static int
grow(struct confirms *confirms)
{
    uint32_t capacity = confirms->capacity == 0 ? FIRST_CAPACITY : 2 * confirms->capacity;
    struct confirm_slot *slots = capacity == 0 ? NULL : malloc((size_t)capacity * sizeof(*slots));
    if (slots == NULL)
        return -ENOMEM;
    for (uint64_t number = confirms->base; number < confirms->next; number++)
        slots[number & (capacity - 1)] = *slot_at(confirms, number);
    free(confirms->slots);
    confirms->slots = slots;
    confirms->capacity = capacity;
    return 0;
}

uint64_t
confirms_add(struct confirms *confirms, uint32_t answers, bool awaits_disk)
{
    answers += awaits_disk;
    if (answers == 0 && confirms->base == confirms->next) {
        confirms->base++;
        return confirms->next++;
    }
    if (confirms->next - confirms->base == confirms->capacity && grow(confirms) != 0)
        return 0;
    uint64_t number = confirms->next++;
    *slot_at(confirms, number) =
        (struct confirm_slot){.answers = answers, .awaits_disk = awaits_disk};
    if (answers == 0) { /* done, but others before it are not */
        slot_at(confirms, number)->answers = 1;
        if (confirms_answer(confirms, number, true) != 0)
            return 0;
    }
    return number;
}

static int
note_early(struct confirms *confirms, uint64_t number)
{
    if (confirms->early_count == confirms->early_capacity) {
        uint32_t capacity =
            confirms->early_capacity == 0 ? FIRST_CAPACITY : 2 * confirms->early_capacity;
        uint64_t *early = realloc(confirms->early, capacity * sizeof(*early));
        if (early == NULL)
            return -ENOMEM;
        confirms->early = early;
        confirms->early_capacity = capacity;
    }
    confirms->early[confirms->early_count++] = number;
    return 0;
}

int
confirms_answer(struct confirms *confirms, uint64_t number, bool is_accepted)
{
    if (number < confirms->base || number >= confirms->next)
        return 0;
    struct confirm_slot *slot = slot_at(confirms, number);
    if (slot->state != CONFIRM_PENDING)
        return 0;
    slot->is_refused |= !is_accepted;
    if (--slot->answers > 0)
        return 0;
    slot->state = CONFIRM_DONE;
    return note_early(confirms, number);
}

int
confirms_lost(struct confirms *confirms, uint64_t number)
{
    if (number <= confirms->reported || number >= confirms->next)
        return 0;
    if (number < confirms->base) {
        /* Done without a slot, so all after it are, too: they get theirs now. */
        while (confirms->next - number > confirms->capacity)
            if (grow(confirms) != 0)
                return -ENOMEM;
        for (uint64_t i = number; i < confirms->base; i++)
            *slot_at(confirms, i) = (struct confirm_slot){.state = CONFIRM_DONE};
        confirms->base = number;
    }
    slot_at(confirms, number)->is_refused = true;
    return 0;
}

int
confirms_durable(struct confirms *confirms, uint64_t number)
{
    uint64_t first =
        confirms->on_disk + 1 > confirms->base ? confirms->on_disk + 1 : confirms->base;
    int status = 0;
    confirms->on_disk = number;
    for (uint64_t i = first; i <= number && i < confirms->next && status == 0; i++)
        if (slot_at(confirms, i)->awaits_disk)
            status = confirms_answer(confirms, i, true);
    return status;
}

/* Reports the run of done messages at the front that share an outcome. */
static bool
report_front(struct confirms *confirms, struct confirm_report *report)
{
    uint64_t first = confirms->reported + 1;
    if (first < confirms->base) { /* done without a slot: accepted */
        *report = (struct confirm_report){.number = confirms->base - 1,
                                          .multiple = first < confirms->base - 1};
        confirms->reported = confirms->base - 1;
        return true;
    }
    uint64_t end = confirms->base;
    bool is_refused = false;
    uint32_t unreported = 0;
    while (end < confirms->next) {
        const struct confirm_slot *slot = slot_at(confirms, end);
        if (slot->state == CONFIRM_PENDING
            || (slot->state == CONFIRM_DONE && unreported > 0 && slot->is_refused != is_refused))
            break;
        if (slot->state == CONFIRM_DONE) {
            is_refused = slot->is_refused;
            unreported++;
        }
        end++;
    }
    bool is_one = end - confirms->base == 1;
    confirms->base = end;
    confirms->reported = end - 1;
    if (unreported == 0)
        return false;
    /* A run may include some that were reported early: the client has forgotten those already. */
    *report =
        (struct confirm_report){.number = end - 1, .multiple = !is_one, .is_refused = is_refused};
    return true;
}

bool
confirms_report(struct confirms *confirms, struct confirm_report *report)
{
    if (report_front(confirms, report))
        return true;
    while (confirms->early_count > 0) {
        uint64_t number = confirms->early[--confirms->early_count];
        if (number < confirms->base)
            continue;
        struct confirm_slot *slot = slot_at(confirms, number);
        if (slot->state != CONFIRM_DONE)
            continue;
        slot->state = CONFIRM_REPORTED;
        *report = (struct confirm_report){.number = number, .is_refused = slot->is_refused};
        return true;
    }
    if (confirms->base == confirms->next && confirms->capacity > KEPT_CAPACITY) {
        free(confirms->slots);
        confirms->slots = NULL;
        confirms->capacity = 0;
    }
    return false;
}
