/* Matching routing keys with binding keys one by one: the rules, and at random what a plain search
 * with backtracking says. */
#include "broker/topic_words.h"

#include "test_broker_support.h"

/* --- The plain search, over keys that are cut into words -------------------------------------- */

struct cut {
    size_t count;
    struct slice words[TOPIC_WORDS_MAX];
};

static void
cut(struct cut *out, struct slice key)
{
    bool is_done = key.size == 0;
    out->count = 0;
    while (topic_next_word(&key, &out->words[out->count], &is_done))
        out->count++;
}

static bool
matches_from(const struct cut *pattern, size_t p, const struct cut *key, size_t k)
{
    if (p == pattern->count)
        return k == key->count;
    if (slice_is(pattern->words[p], "#"))
        return matches_from(pattern, p + 1, key, k)
               || (k < key->count && matches_from(pattern, p, key, k + 1));
    return k < key->count
           && (slice_is(pattern->words[p], "*") || slice_equal(pattern->words[p], key->words[k]))
           && matches_from(pattern, p + 1, key, k + 1);
}

/* --- Keys ------------------------------------------------------------------------------------- */

static struct topic_words words;

static bool
matches(const char *binding_key, const char *routing_key)
{
    topic_words_read(&words, slice_from(routing_key));
    return topic_words_match(&words, slice_from(binding_key));
}

/* Up to so many words out of these. */
static struct slice
draw_key(struct random *random, char room[TOPIC_WORDS_MAX], size_t most, const char *const *from,
         size_t from_count)
{
    size_t size = 0, count = random_below(random, (uint32_t)most + 1);
    for (size_t i = 0; i < count; i++) {
        const char *word = from[random_below(random, (uint32_t)from_count)];
        if (i > 0)
            room[size++] = '.';
        memcpy(room + size, word, strlen(word));
        size += strlen(word);
    }
    return (struct slice){room, size};
}

START_TEST(stars_are_one_word_and_hashes_any_number)
{
    ck_assert(matches("a.*.c", "a.b.c"));
    ck_assert(!matches("a.*.c", "a.c"));
    ck_assert(!matches("a.*.c", "a.b.b.c"));
    ck_assert(matches("#", ""));
    ck_assert(matches("#.#", "a"));
    ck_assert(matches("a.#.c", "a.c"));
    ck_assert(matches("a.#.c", "a.c.b.c"));
    ck_assert(!matches("a.#.c", "a.c.b"));
    ck_assert(matches("", ""));
    ck_assert(!matches("", "a"));
    ck_assert(!matches("*", ""));
    ck_assert(matches("*.*", "."));
    ck_assert(!matches("a#", "ab"));
}
END_TEST

START_TEST(keys_of_the_greatest_length_match)
{
    char dots[UINT8_MAX + 1] = "", stars[UINT8_MAX + 1] = "", words_[UINT8_MAX + 1] = "";
    memset(dots, '.', UINT8_MAX);
    for (int i = 0; i < UINT8_MAX; i++) {
        stars[i] = i % 2 == 0 ? '*' : '.';
        words_[i] = i % 2 == 0 ? 'a' : '.';
    }
    ck_assert(matches(dots, dots));
    ck_assert(matches(stars, words_));
    ck_assert(!matches(stars, dots));
    stars[0] = '#';
    ck_assert(matches(stars, words_));
    words_[UINT8_MAX - 2] = '\0'; /* a word less: the '#' is none */
    ck_assert(matches(stars, words_));
    words_[UINT8_MAX - 4] = '\0';
    ck_assert(!matches(stars, words_));
}
END_TEST

START_TEST(answers_are_those_of_a_plain_search)
{
    static const char *const of_patterns[] = {"a", "b", "", "*", "#", "*", "#", "c"};
    static const char *const of_keys[] = {"a", "b", "", "a"};
    char pattern_room[TOPIC_WORDS_MAX], key_room[TOPIC_WORDS_MAX];
    struct random random;
    int found = 0;
    random_init(&random);
    for (int i = 0; i < 3000; i++) {
        struct slice key = draw_key(&random, key_room, i % 2 == 0 ? 9 : 100, of_keys, 4);
        struct cut key_words, pattern_words;
        topic_words_read(&words, key);
        cut(&key_words, key);
        for (int j = 0; j < 20; j++) {
            struct slice pattern = draw_key(&random, pattern_room, 9, of_patterns, 8);
            cut(&pattern_words, pattern);
            bool wanted = matches_from(&pattern_words, 0, &key_words, 0);
            ck_assert_msg(topic_words_match(&words, pattern) == wanted, "'%.*s' with '%.*s'",
                          SLICE_ARGS(pattern), SLICE_ARGS(key));
            found += wanted;
        }
    }
    ck_assert_int_gt(found, 1000);
}
END_TEST

static void
add(TCase *tests)
{
    tcase_add_test(tests, stars_are_one_word_and_hashes_any_number);
    tcase_add_test(tests, keys_of_the_greatest_length_match);
    tcase_add_test(tests, answers_are_those_of_a_plain_search);
}

int
main(void)
{
    return run_suite("broker/topic_words", add);
}
