/* Topic exchanges: binding keys in a trie of words, '*' for one word, '#' for any number.
 *
 * Matching walks the words of a routing key through all nodes of the trie that they may lead to at
 * once, each node at most once per word. So its time is bounded by the words times the nodes
 * whatever the binding keys are; a search with backtracking is not: keys such as "#.a.#.a.#.a" make
 * it exponential. Where even that is much, the bindings are asked one by one (topic_words.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/exchange.h"
#include "broker/topic_words.h"

enum {
    /* Steps from node to node, of some 50 ns, before the bindings are asked instead, for a few
     * microseconds each: always so many, and so many for each binding. Usual ones are far below. */
    STEPS_FREE = 4096,
    STEPS_PER_BINDING = 16,
};

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
    while (topic_next_word(&key, &word, &is_done)) {
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
    uint64_t steps;
};

static void
reach(struct states *states, int set, struct topic_node *node)
{
    struct catalogue *catalogue = states->catalogue;
    states->steps++;
    /* '#' also stands for no word: whoever reaches a node reaches its '#' child. */
    for (; node != NULL && node->mark != catalogue->state_mark; node = node->hash) {
        node->mark = catalogue->state_mark;
        states->steps++;
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

/* From the nodes of now to those to which the word leads. False: that is too much work. */
static bool
follow(struct states *states, struct slice word, uint64_t steps_max)
{
    struct catalogue *catalogue = states->catalogue;
    int next = 1 - states->current;
    states->count[next] = 0;
    catalogue->state_mark++;
    for (size_t i = 0; i < states->count[states->current]; i++) {
        struct topic_node *node = catalogue->states[states->current][i];
        if (states->steps > steps_max)
            return false;
        reach(states, next, map_find(&node->words, word));
        reach(states, next, node->star);
        if (node->is_hash)
            reach(states, next, node);
    }
    states->current = next;
    return true;
}

static void
ask_each(const struct exchange *exchange, struct router *router)
{
    struct topic_words words;
    topic_words_read(&words, router->routing_key);
    LIST_FOR_EACH (node, &exchange->bindings) {
        struct binding *binding = LIST_ENTRY(node, struct binding, source_link);
        if (topic_words_match(&words, binding->routing_key))
            router_add(router, binding);
    }
}

static void
topic_route(struct exchange *exchange, struct router *router)
{
    if (exchange->topic == NULL)
        return;
    struct catalogue *catalogue = router->catalogue;
    struct states states = {.catalogue = catalogue, .router = router};
    uint64_t steps_max = STEPS_FREE + STEPS_PER_BINDING * (uint64_t)exchange->binding_count;
    struct slice key = router->routing_key, word;
    bool is_done = key.size == 0;

    catalogue->state_mark++;
    reach(&states, states.current, exchange->topic);
    while (topic_next_word(&key, &word, &is_done)) {
        if (follow(&states, word, steps_max))
            continue;
        ask_each(exchange, router);
        return;
    }
    for (size_t i = 0; i < states.count[states.current]; i++)
        LIST_FOR_EACH (node, &catalogue->states[states.current][i]->bindings)
            router_add(router, LIST_ENTRY(node, struct binding, match_link));
}

const struct exchange_type exchange_type_topic = {
    .name = "topic",
    .add = topic_add,
    .remove = topic_remove,
    .route = topic_route,
    .free = topic_free,
};
