/* Topic exchanges: binding keys in a trie of words, '*' for one word, '#' for any number.
 *
 * Matching walks the words of a routing key through all nodes of the trie that they may lead to at
 * once, each node at most once per word. So its time is bounded by the words times the nodes
 * whatever the binding keys are; a search with backtracking is not: keys such as "#.a.#.a.#.a" make
 * it exponential. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"

struct topic_node {
    struct topic_node *parent;
    struct topic_node *star, *hash; /* children for '*' and '#' */
    struct map words;               /* children for words */
    struct list bindings;           /* whose key ends here */
    uint64_t mark;                  /* the last step of a matching that reached it */
    bool is_hash;
    size_t size;
    char word[];
};

static struct slice
word_of_node(const void *value)
{
    const struct topic_node *node = value;
    return (struct slice){node->word, node->size};
}

static struct topic_node *
node_new(struct topic_node *parent, struct slice word)
{
    struct topic_node *node = malloc(sizeof(*node) + word.size);
    if (node == NULL)
        return NULL;
    *node = (struct topic_node){.parent = parent, .size = word.size};
    map_init(&node->words, word_of_node);
    list_init(&node->bindings);
    memcpy(node->word, word.data, word.size);
    return node;
}

/* Takes the first word off the key: false when the key was exhausted. An empty key has no words. */
static bool
next_word(struct slice *key, struct slice *word, bool *is_done)
{
    if (*is_done)
        return false;
    const char *dot = key->size == 0 ? NULL : memchr(key->data, '.', key->size);
    if (dot == NULL) {
        *word = *key;
        *is_done = true;
        return true;
    }
    *word = (struct slice){key->data, (size_t)(dot - key->data)};
    key->size -= word->size + 1;
    key->data = dot + 1;
    return true;
}

static struct topic_node *
child(struct topic_node *node, struct slice word)
{
    if (slice_is(word, "*"))
        return node->star;
    if (slice_is(word, "#"))
        return node->hash;
    return map_find(&node->words, word);
}

static struct topic_node *
child_add(struct topic_node *node, struct slice word)
{
    struct topic_node *added = node_new(node, word);
    if (added == NULL)
        return NULL;
    if (slice_is(word, "*")) {
        node->star = added;
    } else if (slice_is(word, "#")) {
        node->hash = added;
        added->is_hash = true;
    } else if (map_insert(&node->words, added) != 0) {
        free(added);
        return NULL;
    }
    return added;
}

/* Frees the node and those above it for as long as they lead nowhere; the root stays. */
static void
prune(struct topic_node *node)
{
    while (node->parent != NULL && node->star == NULL && node->hash == NULL
           && map_count(&node->words) == 0 && list_is_empty(&node->bindings)) {
        struct topic_node *parent = node->parent;
        if (parent->star == node)
            parent->star = NULL;
        else if (parent->hash == node)
            parent->hash = NULL;
        else
            map_remove(&parent->words, word_of_node(node));
        map_fini(&node->words);
        free(node);
        node = parent;
    }
}

static int
topic_add(struct exchange *exchange, struct binding *binding)
{
    if (exchange->topic == NULL)
        exchange->topic = node_new(NULL, SLICE(""));
    if (exchange->topic == NULL)
        return -ENOMEM;
    struct topic_node *node = exchange->topic;
    struct slice key = binding->routing_key, word;
    bool is_done = key.size == 0;
    while (next_word(&key, &word, &is_done)) {
        struct topic_node *next = child(node, word);
        if (next == NULL)
            next = child_add(node, word);
        if (next == NULL) {
            prune(node);
            return -ENOMEM;
        }
        node = next;
    }
    binding->match_group = node;
    list_push_back(&node->bindings, &binding->match_link);
    return 0;
}

static void
topic_remove(struct exchange *exchange, struct binding *binding)
{
    (void)exchange;
    list_remove(&binding->match_link);
    prune(binding->match_group);
}

static void
topic_free(struct exchange *exchange)
{
    if (exchange->topic != NULL) {
        map_fini(&exchange->topic->words);
        free(exchange->topic);
    }
}

/* The set of nodes that the words so far lead to. */
struct states {
    struct catalogue *catalogue;
    struct router *router;
    int current; /* which of the catalogue's two arrays */
    size_t count[2];
};

static void
reach(struct states *states, int set, struct topic_node *node)
{
    struct catalogue *catalogue = states->catalogue;
    /* '#' also stands for no word: whoever reaches a node reaches its '#' child. */
    for (; node != NULL && node->mark != catalogue->state_mark; node = node->hash) {
        node->mark = catalogue->state_mark;
        if (states->count[set] == catalogue->state_capacity[set]) {
            size_t capacity = states->count[set] == 0 ? 64 : 2 * states->count[set];
            struct topic_node **grown =
                realloc(catalogue->states[set], capacity * sizeof(struct topic_node *));
            if (grown == NULL) {
                states->router->is_out_of_memory = true;
                return;
            }
            catalogue->states[set] = grown;
            catalogue->state_capacity[set] = capacity;
        }
        catalogue->states[set][states->count[set]++] = node;
    }
}

static void
topic_route(struct exchange *exchange, struct router *router)
{
    if (exchange->topic == NULL)
        return;
    struct catalogue *catalogue = router->catalogue;
    struct states states = {.catalogue = catalogue, .router = router};
    struct slice key = router->routing_key, word;
    bool is_done = key.size == 0;
    int current = 0;

    catalogue->state_mark++;
    reach(&states, current, exchange->topic);
    while (next_word(&key, &word, &is_done)) {
        int next = 1 - current;
        states.count[next] = 0;
        catalogue->state_mark++;
        for (size_t i = 0; i < states.count[current]; i++) {
            struct topic_node *node = catalogue->states[current][i];
            reach(&states, next, map_find(&node->words, word));
            reach(&states, next, node->star);
            if (node->is_hash)
                reach(&states, next, node);
        }
        current = next;
    }
    for (size_t i = 0; i < states.count[current]; i++)
        LIST_FOR_EACH (node, &catalogue->states[current][i]->bindings)
            router_add(router, LIST_ENTRY(node, struct binding, match_link));
}

const struct exchange_type exchange_type_topic = {
    .name = "topic",
    .add = topic_add,
    .remove = topic_remove,
    .route = topic_route,
    .free = topic_free,
};
