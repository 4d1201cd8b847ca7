/* Words of a routing key: see the header. */
#include "broker/topic_words.h"

#include <string.h>

#include "base/compiler.h"
#include "base/hash.h"

bool
topic_next_word(struct slice *key, struct slice *word, bool *is_done)
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

/* --- The routing key -------------------------------------------------------------------------- */

/* The slot of the word, or the free one where it would be. */
static uint16_t *
find_slot(struct topic_words *words, struct slice word)
{
    for (size_t i = hash_slice(word);; i++) {
        uint16_t *slot = &words->slots[i % TOPIC_SLOTS];
        if (*slot == 0 || slice_equal(words->distinct[*slot - 1], word))
            return slot;
    }
}

void
topic_words_read(struct topic_words *words, struct slice routing_key)
{
    struct slice word;
    bool is_done = routing_key.size == 0;
    words->count = words->distinct_count = 0;
    memset(words->slots, 0, sizeof(words->slots));
    while (topic_next_word(&routing_key, &word, &is_done)) {
        uint16_t *slot = find_slot(words, word);
        if (*slot == 0) {
            words->distinct[words->distinct_count] = word;
            words->places[words->distinct_count] = (struct topic_set){{0}};
            *slot = (uint16_t)++words->distinct_count;
        }
        words->numbers[words->count++] = (uint16_t)(*slot - 1);
    }
}

/* --- A binding key ---------------------------------------------------------------------------- */

static void
put(struct topic_set *set, size_t number)
{
    set->limbs[number / 64] |= UINT64_C(1) << (number % 64);
}

/* Where in the binding key a '*' is, and a '#'; where its words are is in words->places. */
struct pattern_sets {
    size_t size; /* words, of several '#' in a row one */
    struct topic_set stars, hashes;
    size_t touched_count;
    uint16_t touched[TOPIC_WORDS_MAX]; /* numbers whose places are not empty */
};

static void
read_pattern(struct topic_words *words, struct slice key, struct pattern_sets *pattern)
{
    struct slice word;
    bool is_done = key.size == 0, was_hash = false;
    pattern->size = pattern->touched_count = 0;
    pattern->stars = pattern->hashes = (struct topic_set){{0}};
    while (topic_next_word(&key, &word, &is_done)) {
        bool is_hash = slice_is(word, "#");
        if (is_hash && was_hash)
            continue; /* so that none is left out at once with the next */
        was_hash = is_hash;
        if (is_hash) {
            put(&pattern->hashes, pattern->size);
        } else if (slice_is(word, "*")) {
            put(&pattern->stars, pattern->size);
        } else {
            uint16_t slot = *find_slot(words, word);
            if (slot != 0) {
                put(&words->places[slot - 1], pattern->size);
                pattern->touched[pattern->touched_count++] = (uint16_t)(slot - 1);
            }
        }
        pattern->size++;
    }
}

/* Whoever is before a '#' may be behind it, too. */
static void
skip_hashes(struct topic_set *state, const struct topic_set *hashes, size_t limbs)
{
    uint64_t carry = 0;
    for (size_t i = 0; i < limbs; i++) {
        uint64_t before = state->limbs[i] & hashes->limbs[i];
        state->limbs[i] |= before << 1 | carry;
        carry = before >> 63;
    }
}

/* A word of the routing key that is in these places of the binding key. False: no way goes on. */
static bool
step(struct topic_set *state, const struct topic_set *places, const struct pattern_sets *pattern,
     size_t limbs)
{
    uint64_t carry = 0, any = 0;
    for (size_t i = 0; i < limbs; i++) {
        uint64_t moves = state->limbs[i] & (places->limbs[i] | pattern->stars.limbs[i]);
        uint64_t stays = state->limbs[i] & pattern->hashes.limbs[i];
        state->limbs[i] = moves << 1 | carry | stays;
        carry = moves >> 63;
        any |= state->limbs[i];
    }
    skip_hashes(state, &pattern->hashes, limbs);
    return any != 0;
}

bool
topic_words_match(struct topic_words *words, struct slice binding_key)
{
    struct pattern_sets pattern;
    struct topic_set state = {{1}}; /* nothing of the binding key is behind us */
    read_pattern(words, binding_key, &pattern);
    size_t limbs = pattern.size / 64 + 1;
    skip_hashes(&state, &pattern.hashes, limbs);
    bool is_alive = true;
    for (size_t i = 0; i < words->count && is_alive; i++)
        is_alive = step(&state, &words->places[words->numbers[i]], &pattern, limbs);
    for (size_t i = 0; i < pattern.touched_count; i++)
        words->places[pattern.touched[i]] = (struct topic_set){{0}};
    return is_alive && (state.limbs[pattern.size / 64] >> (pattern.size % 64) & 1) != 0;
}
