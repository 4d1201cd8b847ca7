/* Lists with columns: see the header. */
#include "admin/listing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "admin/json_table.h"

enum {
    AT_ONCE = 256,    /* rows that are copied in one go, which takes some ten microseconds */
    PAUSE_NS = 50000, /* between them, for others: as long as a thread takes to wake up */
    RESTARTS_MAX = 8, /* then all are copied in one go */
};

struct listing {
    const struct listing_form *form;
    struct catalogue *catalogue;
    void **rows;
    size_t count, capacity;
    bool is_out_of_memory;
};

/* --- Rows ------------------------------------------------------------------------------------- */

/* Keeps the first rows only. */
static void
shorten(struct listing *listing, size_t count)
{
    while (listing->count > count)
        free(listing->rows[--listing->count]);
}

static void
listing_fini(struct listing *listing)
{
    shorten(listing, 0);
    free(listing->rows);
}

/* The column of the row where it is bytes; NULL: it is something else. */
static struct slice *
bytes_of(const struct listing_column *column, void *row)
{
    if (column->kind == LISTING_BOOL || column->kind == LISTING_NUMBER)
        return NULL;
    return (struct slice *)(void *)((char *)row + column->offset);
}

static void *
copy_row(const struct listing_form *form, const void *from)
{
    size_t size = form->row_size;
    for (size_t i = 0; i < form->column_count; i++) {
        const struct slice *bytes = bytes_of(&form->columns[i], (void *)(uintptr_t)from);
        size += bytes == NULL ? 0 : bytes->size;
    }
    char *row = malloc(size);
    if (row == NULL)
        return NULL;
    char *at = row + form->row_size;
    memcpy(row, from, form->row_size);
    for (size_t i = 0; i < form->column_count; i++) {
        struct slice *bytes = bytes_of(&form->columns[i], row);
        if (bytes != NULL)
            *bytes = slice_keep(&at, *bytes);
    }
    return row;
}

static int
reserve(struct listing *listing)
{
    if (listing->count < listing->capacity)
        return 0;
    size_t capacity = listing->capacity == 0 ? 64 : 2 * listing->capacity;
    void **grown = realloc(listing->rows, capacity * sizeof(*grown));
    if (grown == NULL)
        return -ENOMEM;
    listing->rows = grown;
    listing->capacity = capacity;
    return 0;
}

void
listing_add(struct listing *listing, const void *row)
{
    void *copy = reserve(listing) == 0 ? copy_row(listing->form, row) : NULL;
    if (copy != NULL)
        listing->rows[listing->count++] = copy;
    else
        listing_fail(listing);
}

void
listing_fail(struct listing *listing)
{
    listing->is_out_of_memory = true;
}

/* --- Columns ---------------------------------------------------------------------------------- */

/* A bit for each column that is asked for: "name,arguments.x-expires" is the first parts. All, if
 * the request does not say. */
static uint64_t
wanted_columns(const struct listing_form *form, const struct admin_request *request)
{
    uint64_t wanted = 0;
    if (request->columns.size == 0)
        return UINT64_MAX;
    for (const char *at = request->columns.data, *end = at + request->columns.size; at < end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        struct slice name = {at, (size_t)((comma != NULL ? comma : end) - at)};
        const char *point = memchr(name.data, '.', name.size);
        at += name.size + 1;
        if (point != NULL)
            name.size = (size_t)(point - name.data);
        for (size_t i = 0; i < form->column_count; i++)
            if (slice_is(name, form->columns[i].name))
                wanted |= UINT64_C(1) << i;
    }
    return wanted;
}

/* The value; NULL, with *is_absent: there is none; else NULL is short memory. */
static json_t *
json_of_column(const struct listing_column *column, void *row, bool *is_absent)
{
    const void *member = (char *)row + column->offset;
    const struct slice *bytes = bytes_of(column, row);
    *is_absent = false;
    switch (column->kind) {
    case LISTING_BOOL:
        return json_boolean(*(const bool *)member);
    case LISTING_NUMBER:
        return json_integer((json_int_t) * (const uint64_t *)member);
    case LISTING_TABLE:
        return json_of_table(*bytes);
    case LISTING_TEXT:
        return admin_text(*bytes);
    case LISTING_TEXT_OR_NULL:
        return bytes->size == 0 ? json_null() : admin_text(*bytes);
    case LISTING_TEXT_IF_ANY:
        *is_absent = bytes->size == 0;
        return *is_absent ? NULL : admin_text(*bytes);
    }
    return NULL;
}

static json_t *
json_of_row(const struct listing_form *form, void *row, uint64_t wanted)
{
    json_t *object = json_object();
    for (size_t i = 0; i < form->column_count && object != NULL; i++) {
        bool is_absent;
        if ((wanted >> i & 1) == 0)
            continue;
        json_t *value = json_of_column(&form->columns[i], row, &is_absent);
        if (is_absent || json_object_set_new(object, form->columns[i].name, value) == 0)
            continue;
        json_decref(object);
        return NULL;
    }
    return object;
}

/* --- Printing --------------------------------------------------------------------------------- */

/* How a row begins. */
struct order {
    struct slice vhost, name;
};

static int
compare_rows(const void *a, const void *b)
{
    const struct order *first = *(void *const *)a, *second = *(void *const *)b;
    int order = admin_compare(first->vhost, second->vhost);
    return order != 0 ? order : admin_compare(first->name, second->name);
}

struct printing {
    struct buffer *text;
    bool is_out_of_memory; /* the library does not always tell */
};

static int
append(const char *text, size_t size, void *context)
{
    struct printing *printing = context;
    printing->is_out_of_memory |= buffer_append(printing->text, text, size) != 0;
    return printing->is_out_of_memory ? -1 : 0;
}

static int
append_row(const struct listing *listing, size_t index, uint64_t wanted, struct buffer *text)
{
    json_t *object = json_of_row(listing->form, listing->rows[index], wanted);
    if (object == NULL)
        return -ENOMEM;
    struct printing printing = {.text = text};
    int status = json_dump_callback(object, append, &printing, JSON_COMPACT);
    json_decref(object);
    return status == 0 && !printing.is_out_of_memory ? 0 : -ENOMEM;
}

static int
print(struct listing *listing, uint64_t wanted, struct buffer *text)
{
    int status = buffer_append_slice(text, SLICE("["));
    if (listing->count > 1)
        qsort(listing->rows, listing->count, sizeof(*listing->rows), compare_rows);
    for (size_t i = 0; i < listing->count && status == 0; i++) {
        if (i > 0)
            status = buffer_append_slice(text, SLICE(","));
        if (status == 0)
            status = append_row(listing, i, wanted, text);
        free(listing->rows[i]); /* so that rows and text are not both there as a whole */
        listing->rows[i] = NULL;
    }
    return status == 0 ? buffer_append_slice(text, SLICE("]")) : status;
}

/* The rows, a list or the only one of them, are the answer. */
static void
answer(struct listing *listing, const struct admin_request *request, bool is_one,
       struct admin_reply *reply)
{
    uint64_t wanted = wanted_columns(listing->form, request);
    struct buffer text = {0};
    int status = listing->is_out_of_memory ? -ENOMEM
                 : is_one                  ? append_row(listing, 0, wanted, &text)
                                           : print(listing, wanted, &text);
    if (status == 0) {
        reply->status = HTTP_OK;
        reply->text = text;
        return;
    }
    buffer_free(&text);
    admin_refuse(reply, HTTP_INTERNAL_SERVER_ERROR, "out of memory");
}

/* --- Gathering -------------------------------------------------------------------------------- */

/* A mutex that is given back and taken again at once does not come to who waits for it: a waiter
 * has to wake up first. This thread has the time. */
static void
let_others(void)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    (void)nanosleep(&pause, NULL); /* a signal makes it shorter, which does no harm */
}

static void
gather(void *context, struct vhost *vhost)
{
    struct listing *listing = context;
    const size_t before = listing->count;
    for (int restarts = 0; restarts <= RESTARTS_MAX; restarts++) {
        struct catalogue_cursor cursor = {0};
        size_t count = restarts < RESTARTS_MAX ? AT_ONCE : SIZE_MAX;
        int status;
        shorten(listing, before);
        while (
            (status = listing->form->add_next(listing->catalogue, vhost, &cursor, count, listing))
            == 1)
            let_others();
        if (status == 0)
            return;
    }
}

void
listing_of_all(const struct listing_form *form, const struct admin_request *request,
               struct admin_reply *reply)
{
    struct catalogue *catalogue = request->subject->server->broker->catalogue;
    struct listing listing = {.form = form, .catalogue = catalogue};
    if (admin_each_vhost(request, gather, &listing) != 0)
        listing_fail(&listing);
    answer(&listing, request, false, reply);
    listing_fini(&listing);
}

void
listing_of_vhost(const struct listing_form *form, const struct admin_request *request,
                 struct admin_reply *reply)
{
    struct catalogue *catalogue = request->subject->server->broker->catalogue;
    struct listing listing = {.form = form, .catalogue = catalogue};
    struct vhost *vhost = admin_vhost(request, request->names[0], reply);
    if (vhost == NULL)
        return;
    gather(&listing, vhost);
    vhost_unref(vhost);
    answer(&listing, request, false, reply);
    listing_fini(&listing);
}

void
listing_of_one(const struct listing_form *form, const struct admin_request *request,
               struct admin_reply *reply)
{
    struct catalogue *catalogue = request->subject->server->broker->catalogue;
    struct listing listing = {.form = form};
    struct vhost *vhost = admin_vhost(request, request->names[0], reply);
    if (vhost == NULL)
        return;
    catalogue_lock(catalogue);
    form->add_one(catalogue, vhost, request->names[1], &listing);
    catalogue_unlock(catalogue);
    vhost_unref(vhost);
    if (listing.count > 0 || listing.is_out_of_memory)
        answer(&listing, request, true, reply);
    else
        admin_refuse(reply, HTTP_NOT_FOUND, "no %s '%.*s' in vhost '%.*s'", form->one,
                     SLICE_ARGS(request->names[1]), SLICE_ARGS(request->names[0]));
    listing_fini(&listing);
}
