/* The hash map against an array of flags, under random operations. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/map.h"
#include "base/random.h"

enum { THINGS = 3000 };

struct thing {
    char name[24];
    bool is_in, was_seen;
};

static struct thing things[THINGS];
static struct map map;
static size_t count_in;

static struct slice
key_of(const void *value)
{
    const struct thing *thing = value;

    return slice_from(thing->name);
}

static void
set_up(void)
{
    for (int i = 0; i < THINGS; i++) {
        things[i] = (struct thing){0};
        snprintf(things[i].name, sizeof(things[i].name), "%.*sthing %d", i % 3, "..", i);
    }
    map_init(&map, key_of);
    count_in = 0;
}

static void
tear_down(void)
{
    map_fini(&map);
}

static void
insert(struct thing *thing)
{
    ck_assert_int_eq(map_insert(&map, thing), thing->is_in ? -EEXIST : 0);
    count_in += !thing->is_in;
    thing->is_in = true;
}

static void
remove_thing(struct thing *thing)
{
    ck_assert_ptr_eq(map_remove(&map, key_of(thing)), thing->is_in ? thing : NULL);
    count_in -= thing->is_in;
    thing->is_in = false;
}

static void
check_all(void)
{
    struct thing *thing;
    size_t cursor = 0, seen = 0, used = 0;

    ck_assert_uint_eq(map_count(&map), count_in);
    for (size_t i = 0; i < map.capacity; i++)
        used += map.slots[i].value != NULL;
    ck_assert_uint_eq(map.used, used);
    ck_assert_uint_le(used, map.capacity / 4 * 3);
    for (int i = 0; i < THINGS; i++) {
        things[i].was_seen = false;
        ck_assert_ptr_eq(map_find(&map, key_of(&things[i])), things[i].is_in ? &things[i] : NULL);
    }
    while ((thing = map_next(&map, &cursor)) != NULL) {
        ck_assert(thing->is_in && !thing->was_seen);
        thing->was_seen = true;
        seen++;
    }
    ck_assert_uint_eq(seen, count_in);
}

START_TEST(random_operations_agree_with_a_model)
{
    struct random random;

    random_init_with(&random, (uint64_t)_i);
    for (int phase = 0; phase < 12; phase++) {
        /* Phases that mostly fill, mostly empty, and hold the balance among few or many keys. */
        uint64_t keys = phase % 2 == 0 ? THINGS : 20 + random_below(&random, 200);
        uint64_t inserts_in_8 = 1 + random_below(&random, 7);

        for (int step = 0; step < 6000; step++) {
            struct thing *thing = &things[random_below(&random, keys)];

            if (random_below(&random, 8) < inserts_in_8)
                insert(thing);
            else
                remove_thing(thing);
        }
        check_all();
    }
}
END_TEST

START_TEST(values_may_be_removed_while_one_iterates)
{
    struct thing *thing;
    size_t cursor = 0, seen = 0;

    for (int i = 0; i < THINGS; i++)
        insert(&things[i]);
    while ((thing = map_next(&map, &cursor)) != NULL) {
        ck_assert(!thing->was_seen);
        thing->was_seen = true;
        seen++;
        if (seen % 4 != 0)
            remove_thing(thing);
    }
    ck_assert_uint_eq(seen, THINGS);
    check_all();
    cursor = 0;
    while ((thing = map_next(&map, &cursor)) != NULL)
        remove_thing(thing);
    check_all();
}
END_TEST

START_TEST(as_long_as_its_layout_stays_the_values_stay_where_they_are)
{
    struct thing *thing;
    size_t cursor = 0, seen = 0, next = 600;

    for (int i = 0; i < 600; i++)
        insert(&things[i]);
    size_t layout = map.layout;
    while ((thing = map_next(&map, &cursor)) != NULL) {
        if (thing < &things[600] && thing >= &things[20]) {
            ck_assert(!thing->was_seen);
            thing->was_seen = true;
            seen++;
        }
        if (next < 620) { /* 20 come, and 20 go */
            remove_thing(&things[next - 600]);
            insert(&things[next++]);
        }
        ck_assert_uint_eq(map.layout, layout);
    }
    ck_assert_uint_eq(seen, 580);
    while (map.capacity < 4096)
        insert(&things[next++]);
    ck_assert_uint_ne(map.layout, layout);
    layout = map.layout;
    for (int i = 0; i < THINGS; i++)
        remove_thing(&things[i]);
    ck_assert_uint_ne(map.layout, layout);
}
END_TEST

START_TEST(an_empty_map_holds_no_memory)
{
    ck_assert_ptr_null(map_find(&map, SLICE("nothing")));
    ck_assert_ptr_null(map_remove(&map, SLICE("nothing")));
    ck_assert_ptr_null(map.slots);
    insert(&things[0]);
    remove_thing(&things[0]);
    ck_assert_ptr_null(map.slots);
}
END_TEST

START_TEST(a_map_that_was_large_shrinks)
{
    size_t large;

    for (int i = 0; i < THINGS; i++)
        insert(&things[i]);
    large = map.capacity;
    for (int i = 10; i < THINGS; i++)
        remove_thing(&things[i]);
    insert(&things[10]);
    ck_assert_uint_le(map.capacity, large / 64);
    check_all();
}
END_TEST

START_TEST(keys_with_zero_bytes_and_no_bytes_differ)
{
    static struct slice keys[] = {{"", 0}, {"\0", 1}, {"\0\0", 2}, {"a\0b", 3}, {"a\0c", 3}};

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(keys); j++)
            ck_assert_int_eq(hash_slice(keys[i]) == hash_slice(keys[j]), i == j);
    }
}
END_TEST

/* Computed by an independent implementation of SipHash-1-3 (see hash.c for the key), of the bytes
 * 0, 1, 2 ... */
START_TEST(the_hash_with_a_seed_is_the_same_everywhere)
{
    static const struct {
        size_t size;
        uint64_t hash;
    } expected[] = {
        {0, 0x0c5a1e66b55bfe99},  {1, 0x69e57ab0430c5b07},  {7, 0x1e3d2edfd3a7f4aa},
        {8, 0x5ff012d0f0bb9576},  {9, 0x649fc7681c0d3601},  {15, 0xb2cdfaac931a01e7},
        {16, 0x6670fbbbd00cfc65}, {63, 0xb92105fd3cef06f5},
    };
    uint8_t bytes[64];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
        ck_assert_uint_eq(hash_bytes(bytes, expected[i].size, 42), expected[i].hash);
    ck_assert_uint_ne(hash_bytes(bytes, 8, 42), hash_bytes(bytes, 8, 43));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/map");
    TCase *tests = tcase_create("map");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, random_operations_agree_with_a_model, 0, 8);
    tcase_add_test(tests, values_may_be_removed_while_one_iterates);
    tcase_add_test(tests, as_long_as_its_layout_stays_the_values_stay_where_they_are);
    tcase_add_test(tests, an_empty_map_holds_no_memory);
    tcase_add_test(tests, a_map_that_was_large_shrinks);
    tcase_add_test(tests, keys_with_zero_bytes_and_no_bytes_differ);
    tcase_add_test(tests, the_hash_with_a_seed_is_the_same_everywhere);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
