/* Packed messages in chunks: see the header. An entry is a row of variable-length numbers; ids and
 * times are differences to those of the chunk's first entry, ordinals to what they would be if all
 * messages since then were here, so that each entry can be read alone, which sorting needs. */
#include "store/log_found.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "store/log_internal.h"

enum {
    CHUNK_SIZE = 1024 * 1024, /* with its head */
    ENTRY_MAX = (8 + LOG_PIECES_MAX) * VARINT_MAX,
};

struct found_chunk {
    uint64_t id, published_wall_ms, ordinal;
    size_t size;
    char bytes[CHUNK_SIZE - 3 * sizeof(uint64_t) - sizeof(size_t)];
};

struct found_place {
    uint64_t id;
    uint32_t chunk, offset;
};

/* Mapped, so that what is freed goes back to the system at once: in the heap it would lie between
 * what stays, the index and the queues. */
static struct found_chunk *
chunk_new(void)
{
    void *pages = mmap(NULL, sizeof(struct found_chunk), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

static void
chunk_free(struct found_chunk *chunk)
{
    if (chunk != NULL)
        munmap(chunk, sizeof(*chunk));
}

static struct found_chunk *
add_chunk(struct found_list *list, const struct found *first)
{
    if (log_room(&list->chunks, &list->chunk_capacity, list->chunk_count, sizeof(*list->chunks))
        != 0)
        return NULL;
    struct found_chunk *chunk = chunk_new();
    if (chunk == NULL)
        return NULL;
    chunk->id = first->id;
    chunk->published_wall_ms = first->published_wall_ms;
    chunk->ordinal = first->ordinal;
    list->chunks[list->chunk_count++] = chunk;
    return chunk;
}

int
found_add(struct found_list *list, const struct found *found)
{
    assert(found->piece_count <= LOG_PIECES_MAX); /* reading records and summaries checks it */
    struct found_chunk *chunk = list->chunk_count > 0 ? list->chunks[list->chunk_count - 1] : NULL;
    if (chunk == NULL || sizeof(chunk->bytes) - chunk->size < ENTRY_MAX)
        chunk = add_chunk(list, found);
    if (chunk == NULL)
        return -ENOMEM;
    char *at = chunk->bytes + chunk->size;
    at = varint_put(at, varint_fold(found->id, chunk->id));
    at = varint_put(at, varint_fold(found->published_wall_ms, chunk->published_wall_ms));
    at = varint_put(at, found->expires_wall_ms);
    at = varint_put(at, found->queue_id);
    at = varint_put(at, found->flags);
    at = varint_put(at, found->slot);
    at = varint_put(at, varint_fold(found->ordinal, chunk->ordinal + (found->id - chunk->id)));
    at = varint_put(at, found->piece_count);
    for (uint32_t i = 0; i < found->piece_count; i++)
        at = varint_put(at, found->piece_sizes[i]);
    chunk->size = (size_t)(at - chunk->bytes);
    list->is_unordered = list->is_unordered || found->id < list->last_id;
    list->last_id = found->id;
    list->count++;
    return 0;
}

/* Reads the entry there and returns the offset of the next. */
static size_t
unpack(const struct found_chunk *chunk, size_t offset, struct found *found)
{
    struct record_reader reader = {chunk->bytes + offset, chunk->bytes + chunk->size, false};
    *found = (struct found){0};
    found->id = varint_unfold(read_varint(&reader), chunk->id);
    found->published_wall_ms = varint_unfold(read_varint(&reader), chunk->published_wall_ms);
    found->expires_wall_ms = read_varint(&reader);
    found->queue_id = read_varint(&reader);
    found->flags = read_varint32(&reader);
    found->slot = read_varint32(&reader);
    found->ordinal =
        (uint32_t)varint_unfold(read_varint(&reader), chunk->ordinal + (found->id - chunk->id));
    found->piece_count = read_varint32(&reader);
    for (uint32_t i = 0; i < found->piece_count; i++)
        found->piece_sizes[i] = read_varint32(&reader);
    return (size_t)(reader.at - chunk->bytes);
}

static bool
next_as_added(struct found_list *list, struct found_cursor *cursor, struct found *found)
{
    if (cursor->chunk == list->chunk_count)
        return false;
    struct found_chunk *chunk = list->chunks[cursor->chunk];
    cursor->offset = unpack(chunk, cursor->offset, found);
    if (cursor->offset < chunk->size)
        return true;
    if (cursor->is_last) {
        chunk_free(chunk);
        list->chunks[cursor->chunk] = NULL;
    }
    cursor->chunk++;
    cursor->offset = 0;
    return true;
}

bool
found_next(struct found_list *list, struct found_cursor *cursor, struct found *found)
{
    if (list->order == NULL)
        return next_as_added(list, cursor, found);
    if (cursor->index == list->count)
        return false;
    const struct found_place *place = &list->order[cursor->index++];
    unpack(list->chunks[place->chunk], place->offset, found);
    return true;
}

/* A message that was moved is there twice; which comes first does not matter. */
static int
compare_places(const void *a, const void *b)
{
    const struct found_place *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

int
found_sort(struct found_list *list)
{
    if (!list->is_unordered)
        return 0;
    struct found_place *order = calloc(list->count, sizeof(*order));
    if (order == NULL)
        return -ENOMEM;
    struct found_cursor cursor = {0};
    for (size_t i = 0; i < list->count; i++) {
        struct found found;
        order[i].chunk = (uint32_t)cursor.chunk;
        order[i].offset = (uint32_t)cursor.offset;
        next_as_added(list, &cursor, &found);
        order[i].id = found.id;
    }
    qsort(order, list->count, sizeof(*order), compare_places);
    list->order = order;
    return 0;
}

size_t
found_memory(const struct found_list *list)
{
    size_t memory = list->chunk_capacity * sizeof(*list->chunks);
    for (size_t i = 0; i < list->chunk_count; i++)
        memory += list->chunks[i] == NULL
                      ? 0
                      : sizeof(struct found_chunk) - sizeof(list->chunks[i]->bytes)
                            + list->chunks[i]->size;
    return memory;
}

void
found_free(struct found_list *list)
{
    for (size_t i = 0; i < list->chunk_count; i++)
        chunk_free(list->chunks[i]);
    free(list->chunks);
    free(list->order);
    *list = (struct found_list){0};
}
