/* The heap against a plain array, under random operations. */
#include <check.h>
#include <stdlib.h>

#include "base/heap.h"
#include "base/random.h"

enum { NODES = 500 };

static struct heap heap;
static struct heap_node nodes[NODES];

static int64_t
smallest_key(void)
{
    int64_t smallest = INT64_MAX;

    for (int i = 0; i < NODES; i++) {
        if (heap_node_is_in(&nodes[i]) && nodes[i].key < smallest)
            smallest = nodes[i].key;
    }
    return smallest;
}

START_TEST(random_operations_keep_the_smallest_first)
{
    struct random random;
    uint32_t count = 0;

    random_init_with(&random, (uint64_t)_i);
    heap_init(&heap);
    for (int i = 0; i < NODES; i++)
        heap_node_init(&nodes[i]);
    for (int step = 0; step < 20000; step++) {
        struct heap_node *node = &nodes[random_below(&random, NODES)];
        int64_t key = (int64_t)random_below(&random, 1000) - 500;

        if (!heap_node_is_in(node)) {
            ck_assert_int_eq(heap_insert(&heap, node, key), 0);
            count++;
        } else if (random_below(&random, 3) == 0) {
            heap_update(&heap, node, key);
        } else {
            heap_remove(&heap, node);
            heap_remove(&heap, node);
            count--;
        }
        ck_assert_uint_eq(heap.count, count);
        if (count != 0)
            ck_assert_int_eq(heap_first(&heap)->key, smallest_key());
    }
    for (int64_t last = INT64_MIN; heap_first(&heap) != NULL;) {
        struct heap_node *first = heap_first(&heap);

        ck_assert_int_ge(first->key, last);
        last = first->key;
        heap_remove(&heap, first);
        ck_assert(!heap_node_is_in(first));
    }
    ck_assert_ptr_null(heap.nodes);
    heap_fini(&heap);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/heap");
    TCase *tests = tcase_create("heap");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, random_operations_keep_the_smallest_first, 0, 4);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
