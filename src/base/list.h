/* An intrusive doubly linked list: a circle through the list's head and its members.
 *
 * A member embeds a `struct list`; it can be in one list per embedded node. A node that is in no
 * list is linked to itself, so removing twice is harmless and "is it in a list" is a comparison.
 * The list owns nothing. Every node, and the head, needs list_init before its first use; a list or
 * node that is in use must not be moved in memory. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"

struct list {
    struct list *previous, *next;
};

/* Static initialiser: struct list list = LIST_INITIALISER(list); */
#define LIST_INITIALISER(name)                                                                     \
    {                                                                                              \
        &(name), &(name)                                                                           \
    }

static inline void
list_init(struct list *list)
{
    list->previous = list;
    list->next = list;
}

static inline bool
list_is_empty(const struct list *list)
{
    return list->next == list;
}

/* Is the node in some list? */
static inline bool
list_is_linked(const struct list *node)
{
    return node->next != node;
}

/* Puts a node that is in no list before `place`. */
static inline void
list_insert_before(struct list *place, struct list *node)
{
    node->previous = place->previous;
    node->next = place;
    place->previous->next = node;
    place->previous = node;
}

static inline void
list_push_back(struct list *list, struct list *node)
{
    list_insert_before(list, node);
}

static inline void
list_push_front(struct list *list, struct list *node)
{
    list_insert_before(list->next, node);
}

/* Takes the node out of the list it is in; does nothing when it is in none. */
static inline void
list_remove(struct list *node)
{
    node->previous->next = node->next;
    node->next->previous = node->previous;
    list_init(node);
}

/* Takes the node out of whatever list it is in, if any, and puts it at the end of this one. */
static inline void
list_move_back(struct list *list, struct list *node)
{
    list_remove(node);
    list_push_back(list, node);
}

/* Moves all members of `from`, in their order, to the end of `list`. `from` is empty afterwards. */
static inline void
list_splice(struct list *list, struct list *from)
{
    if (list_is_empty(from))
        return;
    from->next->previous = list->previous;
    from->previous->next = list;
    list->previous->next = from->next;
    list->previous = from->previous;
    list_init(from);
}

/* The first and the last node, or NULL when the list is empty. */
static inline struct list *
list_first(const struct list *list)
{
    return list->next != list ? list->next : NULL;
}

static inline struct list *
list_last(const struct list *list)
{
    return list->previous != list ? list->previous : NULL;
}

/* Takes the first node out and returns it; NULL when the list is empty. */
static inline struct list *
list_pop_front(struct list *list)
{
    struct list *node = list_first(list);

    if (node != NULL)
        list_remove(node);
    return node;
}

/* The struct around a node. */
#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)

/* for each `struct list *node` of the list; the list must not change meanwhile. */
#define LIST_FOR_EACH(node, head)                                                                  \
    for (struct list *node = (head)->next; node != (head); node = node->next)

/* The same, where the body may remove or free `node` (but not the one after it). */
#define LIST_FOR_EACH_SAFE(node, head)                                                             \
    for (struct list *node = (head)->next, *node##_next = node->next; node != (head);              \
         node = node##_next, node##_next = node->next)

#endif
