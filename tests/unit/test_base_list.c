/* The intrusive list: order is kept, and a node knows whether it is in a list. */
#include <check.h>
#include <stdlib.h>

#include "base/list.h"

struct item {
    int number;
    struct list link;
};

static struct list list, other;
static struct item items[4];

static void
set_up(void)
{
    list_init(&list);
    list_init(&other);
    for (int i = 0; i < 4; i++) {
        items[i].number = i;
        list_init(&items[i].link);
    }
}

/* The members as a decimal number, after a leading 1 that keeps the zeros: 0, 1, 2 read 1012. On
 * the way the links are compared with those back. */
static int
digits(const struct list *of)
{
    int value = 1;

    ck_assert_ptr_eq(of->next->previous, of);
    LIST_FOR_EACH (node, of) {
        ck_assert_ptr_eq(node->next->previous, node);
        value = value * 10 + LIST_ENTRY(node, struct item, link)->number;
    }
    return value;
}

START_TEST(nodes_stay_in_the_order_of_pushing)
{
    ck_assert(list_is_empty(&list));
    ck_assert_ptr_null(list_first(&list));
    ck_assert_ptr_null(list_last(&list));
    list_push_back(&list, &items[1].link);
    list_push_back(&list, &items[2].link);
    list_push_front(&list, &items[0].link);
    list_insert_before(&items[2].link, &items[3].link);
    ck_assert_int_eq(digits(&list), 10132);
    ck_assert_ptr_eq(list_first(&list), &items[0].link);
    ck_assert_ptr_eq(list_last(&list), &items[2].link);
    ck_assert_ptr_eq(list_pop_front(&list), &items[0].link);
    ck_assert_int_eq(digits(&list), 1132);
}
END_TEST

START_TEST(removing_twice_is_harmless)
{
    list_push_back(&list, &items[0].link);
    list_push_back(&list, &items[1].link);
    ck_assert(list_is_linked(&items[0].link));
    list_remove(&items[0].link);
    list_remove(&items[0].link);
    ck_assert(!list_is_linked(&items[0].link));
    ck_assert_int_eq(digits(&list), 11);
    list_remove(&items[1].link);
    ck_assert(list_is_empty(&list));
}
END_TEST

START_TEST(splicing_appends_in_order_and_empties_the_source)
{
    list_splice(&list, &other);
    ck_assert(list_is_empty(&list));
    list_push_back(&list, &items[0].link);
    list_push_back(&other, &items[1].link);
    list_push_back(&other, &items[2].link);
    list_splice(&list, &other);
    ck_assert_int_eq(digits(&list), 1012);
    ck_assert(list_is_empty(&other));
    list_splice(&other, &list);
    ck_assert_int_eq(digits(&other), 1012);
    ck_assert(list_is_empty(&list));
}
END_TEST

START_TEST(moving_back_works_from_any_list_and_from_none)
{
    list_push_back(&other, &items[0].link);
    list_move_back(&list, &items[0].link);
    list_move_back(&list, &items[1].link);
    list_move_back(&list, &items[0].link);
    ck_assert_int_eq(digits(&list), 110);
    ck_assert(list_is_empty(&other));
}
END_TEST

START_TEST(nodes_may_be_removed_while_one_iterates)
{
    for (int i = 0; i < 4; i++)
        list_push_back(&list, &items[i].link);
    LIST_FOR_EACH_SAFE (node, &list) {
        if (LIST_ENTRY(node, struct item, link)->number % 2 == 0)
            list_remove(node);
    }
    ck_assert_int_eq(digits(&list), 113);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("base/list");
    TCase *tests = tcase_create("list");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, nodes_stay_in_the_order_of_pushing);
    tcase_add_test(tests, removing_twice_is_harmless);
    tcase_add_test(tests, splicing_appends_in_order_and_empties_the_source);
    tcase_add_test(tests, moving_back_works_from_any_list_and_from_none);
    tcase_add_test(tests, nodes_may_be_removed_while_one_iterates);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
