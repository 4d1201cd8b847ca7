/* The expressions of a user in a vhost, compiled, and sorted lists of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "auth/access_internal.h"
#include "base/buffer.h"

static const char *const permission_names[ACCESS_PERMISSIONS] = {
    [ACCESS_CONFIGURE] = "configure",
    [ACCESS_WRITE] = "write",
    [ACCESS_READ] = "read",
};

/* --- Making ----------------------------------------------------------------------------------- */

/* Appends a name so that it stands for itself in an expression. */
static int
append_literal(struct buffer *buffer, struct slice name)
{
    int status = 0;
    for (size_t i = 0; i < name.size && status == 0; i++) {
        unsigned char byte = (unsigned char)name.data[i];
        bool is_plain = byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z')
                        || (byte >= 'A' && byte <= 'Z') || byte == '_';
        if (!is_plain)
            status = buffer_append(buffer, "\\", 1);
        if (status == 0)
            status = buffer_append(buffer, &name.data[i], 1);
    }
    return status;
}

/* The expression of a topic permission, with the variables filled in. -ENOMEM. */
static int
expand(struct buffer *out, struct slice text, struct slice user, struct slice vhost)
{
    const struct {
        struct slice name, value;
    } variables[] = {{SLICE("{username}"), user}, {SLICE("{vhost}"), vhost}};
    int status = 0;
    while (text.size > 0 && status == 0) {
        size_t taken = 0;
        for (size_t i = 0; i < ARRAY_SIZE(variables) && taken == 0; i++) {
            if (!slice_starts_with(text, variables[i].name))
                continue;
            status = append_literal(out, variables[i].value);
            taken = variables[i].name.size;
        }
        if (taken == 0) {
            status = buffer_append(out, text.data, 1);
            taken = 1;
        }
        text = (struct slice){text.data + taken, text.size - taken};
    }
    return status;
}

static struct pattern *
compile(struct slice text, struct slice user, struct slice vhost, bool is_topic,
        char error[PATTERN_ERROR_MAX])
{
    if (!is_topic)
        return pattern_new(text, error);
    struct buffer expanded;
    struct pattern *pattern = NULL;
    buffer_init(&expanded);
    snprintf(error, PATTERN_ERROR_MAX, "out of memory");
    if (expand(&expanded, text, user, vhost) == 0)
        pattern = pattern_new(buffer_slice(&expanded), error);
    buffer_free(&expanded);
    return pattern;
}

int
rights_new(struct rights **out, const struct access_expressions *expressions, struct slice user,
           bool is_topic, char error[ACCESS_ERROR_MAX])
{
    size_t size = expressions->vhost.size + expressions->exchange.size;
    for (int i = 0; i < ACCESS_PERMISSIONS; i++)
        size += expressions->texts[i].size;
    struct rights *rights = calloc(1, sizeof(*rights) + size);
    if (rights == NULL)
        return access_no_memory(error);
    char *at = rights->bytes;
    rights->references = 1;
    rights->texts.vhost = slice_keep(&at, expressions->vhost);
    rights->texts.exchange = slice_keep(&at, expressions->exchange);
    for (int i = is_topic ? ACCESS_WRITE : ACCESS_CONFIGURE; i < ACCESS_PERMISSIONS; i++) {
        char reason[PATTERN_ERROR_MAX];
        rights->texts.texts[i] = slice_keep(&at, expressions->texts[i]);
        rights->patterns[i] =
            compile(rights->texts.texts[i], user, rights->texts.vhost, is_topic, reason);
        if (rights->patterns[i] != NULL)
            continue;
        snprintf(error, ACCESS_ERROR_MAX, "the expression '%.*s' for %s of user '%.*s': %s",
                 expressions->texts[i].size > 200 ? 200 : (int)expressions->texts[i].size,
                 expressions->texts[i].data, permission_names[i], SLICE_ARGS(user), reason);
        rights_unref(rights);
        return strcmp(reason, PATTERN_NO_MEMORY) == 0 ? -ENOMEM : -EINVAL;
    }
    *out = rights;
    return 0;
}

void
rights_unref(struct rights *rights)
{
    if (atomic_fetch_sub_explicit(&rights->references, 1, memory_order_acq_rel) > 1)
        return;
    for (int i = 0; i < ACCESS_PERMISSIONS; i++)
        pattern_free(rights->patterns[i]);
    free(rights);
}

/* --- Lists ------------------------------------------------------------------------------------ */

static int
compare(struct slice a, struct slice b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

/* Where it is, or would have to be. */
static size_t
place_of(const struct rights_list *list, struct slice vhost, struct slice exchange, bool *is_there)
{
    size_t low = 0, high = list->count;
    *is_there = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct access_expressions *texts = &list->items[middle]->texts;
        int order = compare(texts->vhost, vhost);
        if (order == 0)
            order = compare(texts->exchange, exchange);
        if (order == 0) {
            *is_there = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct rights *
rights_find(const struct rights_list *list, struct slice vhost, struct slice exchange)
{
    bool is_there;
    size_t place = place_of(list, vhost, exchange, &is_there);
    return is_there ? list->items[place] : NULL;
}

int
rights_list_copy(struct rights_list *to, const struct rights_list *from)
{
    *to = (struct rights_list){0};
    if (from->count == 0)
        return 0;
    to->items = calloc(from->count, sizeof(struct rights *));
    if (to->items == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < from->count; i++) {
        to->items[i] = from->items[i];
        atomic_fetch_add_explicit(&to->items[i]->references, 1, memory_order_relaxed);
    }
    to->count = from->count;
    return 0;
}

int
rights_list_set(struct rights_list *list, struct rights *rights)
{
    bool is_there;
    size_t place = place_of(list, rights->texts.vhost, rights->texts.exchange, &is_there);
    if (is_there) {
        rights_unref(list->items[place]);
        list->items[place] = rights;
        return 0;
    }
    struct rights **grown = realloc(list->items, (list->count + 1) * sizeof(struct rights *));
    if (grown == NULL)
        return -ENOMEM;
    list->items = grown;
    memmove(grown + place + 1, grown + place, (list->count - place) * sizeof(struct rights *));
    grown[place] = rights;
    list->count++;
    return 0;
}

bool
rights_list_remove(struct rights_list *list, struct slice vhost, struct slice exchange)
{
    bool is_there;
    size_t place = place_of(list, vhost, exchange, &is_there);
    if (!is_there)
        return false;
    rights_unref(list->items[place]);
    list->count--;
    memmove(list->items + place, list->items + place + 1,
            (list->count - place) * sizeof(struct rights *));
    return true;
}

void
rights_list_fini(struct rights_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        rights_unref(list->items[i]);
    free(list->items);
    *list = (struct rights_list){0};
}
