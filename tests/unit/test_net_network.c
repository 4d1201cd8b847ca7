/* Networks: what is one, and what is in it. */
#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "net/network.h"

static struct address
address_of(const char *host)
{
    struct address address = {.size = sizeof(struct sockaddr_in6)};
    struct sockaddr_in *ip4 = (struct sockaddr_in *)&address.storage;
    struct sockaddr_in6 *ip6 = (struct sockaddr_in6 *)&address.storage;
    bool is_ip6 = strchr(host, ':') != NULL;

    address.storage.ss_family = is_ip6 ? AF_INET6 : AF_INET;
    ck_assert_int_eq(inet_pton(address.storage.ss_family, host,
                               is_ip6 ? (void *)&ip6->sin6_addr : &ip4->sin_addr),
                     1);
    return address;
}

static const struct {
    const char *text, *shown; /* shown NULL: it is none */
} texts[] = {
    {"10.0.0.0/8", "10.0.0.0/8"},
    {"10.1.2.3", "10.1.2.3"},
    {"10.1.2.3/32", "10.1.2.3"},
    {"0.0.0.0/0", "0.0.0.0/0"},
    {"::/0", "::/0"},
    {"2001:db8::/32", "2001:db8::/32"},
    {"::1", "::1"},
    {"::ffff:10.0.0.0/104", "10.0.0.0/8"},
    {"10.0.0.1/8", NULL}, /* bits after the prefix */
    {"2001:db8::1/32", NULL},
    {"10.0.0.0/33", NULL},
    {"::/129", NULL},
    {"10.0.0.0/08", NULL},
    {"10.0.0.0/", NULL},
    {"10.0.0.0/-1", NULL},
    {"10.0.0.0/8 ", NULL},
    {"10.0.0", NULL},
    {"", NULL},
    {"/8", NULL},
    {"localhost", NULL},
    {"fe80::1%eth0", NULL},
    {"10.0.0.0/99999999999999999999", NULL},
};

START_TEST(a_network_is_an_address_and_a_prefix)
{
    struct network network;
    char out[NETWORK_TEXT_MAX];
    bool is_one = network_parse(texts[_i].text, &network);

    ck_assert_msg(is_one == (texts[_i].shown != NULL), "'%s'", texts[_i].text);
    if (is_one)
        ck_assert_str_eq(network_text(&network, out), texts[_i].shown);
}
END_TEST

static const struct {
    const char *network, *address;
    bool is_in;
} members[] = {
    {"10.0.0.0/8", "10.255.0.1", true},
    {"10.0.0.0/8", "11.0.0.0", false},
    {"10.0.0.0/8", "::ffff:10.0.0.1", true},
    {"10.0.0.0/8", "::10.0.0.1", false},
    {"192.168.4.0/22", "192.168.7.255", true},
    {"192.168.4.0/22", "192.168.8.0", false},
    {"192.168.4.1", "192.168.4.1", true},
    {"192.168.4.1", "192.168.4.0", false},
    {"0.0.0.0/0", "1.2.3.4", true},
    {"0.0.0.0/0", "::1", false},
    {"::/0", "1.2.3.4", true},
    {"2001:db8::/33", "2001:db8:7fff::1", true},
    {"2001:db8::/33", "2001:db8:8000::", false},
    {"::1", "::1", true},
    {"::1", "127.0.0.1", false},
};

START_TEST(a_network_holds_what_has_its_prefix)
{
    struct networks networks = {.count = 1};
    struct address address = address_of(members[_i].address);

    ck_assert(network_parse(members[_i].network, &networks.items[0]));
    ck_assert_msg(networks_contain(&networks, &address) == members[_i].is_in, "%s in %s",
                  members[_i].address, members[_i].network);
}
END_TEST

START_TEST(nobody_is_in_no_network)
{
    static const struct networks networks;
    struct address ip4 = address_of("0.0.0.0");
    struct address local = {.storage = {.ss_family = AF_UNIX}, .size = sizeof(sa_family_t)};

    ck_assert(!networks_contain(&networks, &ip4));
    struct networks all = {.count = 1};
    ck_assert(network_parse("::/0", &all.items[0]));
    ck_assert(networks_contain(&all, &ip4));
    ck_assert(!networks_contain(&all, &local));
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("net/network");
    TCase *tests = tcase_create("networks");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tests, a_network_is_an_address_and_a_prefix, 0, ARRAY_SIZE(texts));
    tcase_add_loop_test(tests, a_network_holds_what_has_its_prefix, 0, ARRAY_SIZE(members));
    tcase_add_test(tests, nobody_is_in_no_network);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
