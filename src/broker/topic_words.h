/* Matching the words of one routing key with many binding keys, one after the other.
 *
 * The trie of a topic exchange (exchange_topic.c) matches all binding keys at once, and that is
 * fast unless very many of its nodes are alive at the same time: behind a '#', with words that the
 * routing key has again and again, all of them can be, at each word. Then it is cheaper to ask each
 * binding. Its key is a machine whose state, how many of its words may be behind us, is a set of
 * bits: a word of the routing key moves them all by one. So a binding costs the words of both keys,
 * and not their product. */
#ifndef BROKER_TOPIC_WORDS_H
#define BROKER_TOPIC_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"

enum {
    TOPIC_WORDS_MAX = 256, /* of a short string: all empty, with 255 dots between */
    TOPIC_LIMBS = TOPIC_WORDS_MAX / 64 + 1,
    TOPIC_SLOTS = 2 * TOPIC_WORDS_MAX,
};

/* A set of numbers from 0 to TOPIC_WORDS_MAX. */
struct topic_set {
    uint64_t limbs[TOPIC_LIMBS];
};

struct topic_words {
    size_t count;
    uint16_t numbers[TOPIC_WORDS_MAX]; /* word by word: equal words have the same number */
    size_t distinct_count;
    struct slice distinct[TOPIC_WORDS_MAX];   /* by number */
    struct topic_set places[TOPIC_WORDS_MAX]; /* by number: where it is in a binding key */
    uint16_t slots[TOPIC_SLOTS];              /* by hash: number + 1; 0 is free */
};

/* Takes the next word off the key; false: there was none left. *is_done is at first whether the key
 * is empty, which has no words. */
bool topic_next_word(struct slice *key, struct slice *word, bool *is_done);

/* The routing key is borrowed as long as it is matched; at most 255 bytes. */
void topic_words_read(struct topic_words *words, struct slice routing_key);

/* At most 255 bytes of binding key, in which '*' stands for a word and '#' for any number. */
bool topic_words_match(struct topic_words *words, struct slice binding_key);

#endif
