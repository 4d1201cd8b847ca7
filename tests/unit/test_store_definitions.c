/* The definitions database: what is handed over is there at the next start, and databases of older
 * versions are brought up to date with what they hold.
 *
 * malloc is the test's, by the linker (--wrap). */
#include <check.h>
#include <semaphore.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/definitions.h"

static char directory[64], error[DEFINITIONS_TEXT_SIZE], seen[4096];
static struct definitions *definitions;

static bool is_out_of_memory;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *
__wrap_malloc(size_t size)
{
    return is_out_of_memory ? NULL : __real_malloc(size);
}

static void
ignore(void *context)
{
    (void)context;
}

/* Writes each definition as one line. */
static int
visit(void *context, const struct definition *definition)
{
    static const char *const kinds[] = {
        [DEFINITION_VHOST] = "vhost",           [DEFINITION_POLICY] = "policy",
        [DEFINITION_EXCHANGE] = "exchange",     [DEFINITION_QUEUE] = "queue",
        [DEFINITION_BINDING] = "binding",       [DEFINITION_USER] = "user",
        [DEFINITION_PERMISSION] = "permission", [DEFINITION_TOPIC_PERMISSION] = "topic",
    };
    const struct slice parts[] = {
        definition->vhost,         definition->name, definition->user,
        definition->password_hash, definition->tags, definition->configure,
        definition->write,         definition->read, definition->destination,
        definition->pattern,       definition->type, definition->arguments,
    };
    size_t size = strlen(seen);
    (void)context;
    size += (size_t)snprintf(seen + size, sizeof(seen) - size, "%s", kinds[definition->kind]);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (parts[i].size > 0)
            size +=
                (size_t)snprintf(seen + size, sizeof(seen) - size, " %.*s", SLICE_ARGS(parts[i]));
    if (definition->kind == DEFINITION_POLICY)
        size += (size_t)snprintf(seen + size, sizeof(seen) - size, " %d%s", definition->priority,
                                 definition->is_operator ? " of the operator" : "");
    snprintf(seen + size, sizeof(seen) - size, "\n");
    return 0;
}

/* Opens, and leaves what is there in `seen`. */
static void
open_all(void)
{
    seen[0] = 0;
    if (definitions_open(&definitions, directory, error) != 0
        || definitions_load(definitions, visit, NULL, error) != 0
        || definitions_start(definitions, 1, ignore, NULL, error) != 0)
        ck_abort_msg("%s", error);
}

static void
reopen(void)
{
    definitions_close(definitions, true);
    open_all();
}

static void
set_up(void)
{
    snprintf(directory, sizeof(directory), "/tmp/whippet-definitions-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void
tear_down(void)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char path[128];
    definitions_close(definitions, true);
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        snprintf(path, sizeof(path), "%s/definitions.sqlite%s", directory, ends[i]);
        unlink(path);
    }
    ck_assert_int_eq(rmdir(directory), 0);
}

static void
add(struct definition definition)
{
    ck_assert_uint_ne(definitions_add(definitions, &definition), 0);
}

static void
take_away(struct definition definition)
{
    ck_assert_uint_ne(definitions_remove(definitions, &definition), 0);
}

static struct definition
user(const char *name, const char *hash, const char *tags)
{
    return (struct definition){.kind = DEFINITION_USER,
                               .user = slice_from(name),
                               .password_hash = slice_from(hash),
                               .tags = slice_from(tags)};
}

static struct definition
permission(const char *name, const char *vhost, const char *read)
{
    return (struct definition){.kind = DEFINITION_PERMISSION,
                               .user = slice_from(name),
                               .vhost = slice_from(vhost),
                               .configure = SLICE("c"),
                               .write = SLICE("w"),
                               .read = slice_from(read)};
}

static struct definition
topic(const char *name, const char *vhost, const char *exchange)
{
    return (struct definition){.kind = DEFINITION_TOPIC_PERMISSION,
                               .user = slice_from(name),
                               .vhost = slice_from(vhost),
                               .name = slice_from(exchange),
                               .write = SLICE("w"),
                               .read = SLICE("r")};
}

static struct definition
vhost(const char *name)
{
    return (struct definition){.kind = DEFINITION_VHOST, .vhost = slice_from(name)};
}

static struct definition
policy(const char *name, const char *vhost, bool is_operator, int32_t priority)
{
    return (struct definition){.kind = DEFINITION_POLICY,
                               .vhost = slice_from(vhost),
                               .name = slice_from(name),
                               .is_operator = is_operator,
                               .priority = priority,
                               .pattern = SLICE("^q"),
                               .type = SLICE("queues"),
                               .arguments = SLICE("says")};
}

START_TEST(users_and_permissions_come_back)
{
    open_all();
    ck_assert(!definitions_has_had_users(definitions));
    add(vhost("/"));
    add(user("u", "hash", "administrator"));
    add(permission("u", "/", "r"));
    add(topic("u", "/", "t"));
    reopen();
    ck_assert_str_eq(seen, "vhost /\nuser u hash administrator\npermission / u c w r\n"
                           "topic / t u w r\n");
    ck_assert(definitions_has_had_users(definitions));
}
END_TEST

START_TEST(adding_a_user_or_permission_again_changes_it)
{
    open_all();
    add(user("u", "old", ""));
    add(permission("u", "/", "old"));
    add(user("u", "new", "tag"));
    add(permission("u", "/", "new"));
    reopen();
    ck_assert_str_eq(seen, "user u new tag\npermission / u c w new\n");
}
END_TEST

START_TEST(what_is_removed_does_not_come_back)
{
    open_all();
    add(user("u", "h", ""));
    add(user("v", "h", ""));
    add(permission("u", "/", "r"));
    add(permission("v", "/", "r"));
    add(topic("u", "/", "t"));
    add(topic("u", "/", "s"));
    take_away(permission("u", "/", ""));
    take_away(topic("u", "/", "t"));
    take_away(user("v", "", ""));
    reopen();
    ck_assert_str_eq(seen, "user u h\npermission / v c w r\ntopic / s u w r\n");
    take_away(user("u", "", ""));
    reopen();
    ck_assert(definitions_has_had_users(definitions)); /* also when they have all gone */
}
END_TEST

START_TEST(a_vhost_takes_all_that_is_in_it_along)
{
    open_all();
    add(vhost("/"));
    add(vhost("x"));
    add(user("u", "h", ""));
    for (int i = 0; i < 2; i++) {
        struct slice in = i == 0 ? SLICE("/") : SLICE("x");
        add((struct definition){.kind = DEFINITION_EXCHANGE, .vhost = in, .name = SLICE("e")});
        add((struct definition){
            .kind = DEFINITION_QUEUE, .vhost = in, .name = SLICE("q"), .queue_id = 7});
        add((struct definition){.kind = DEFINITION_BINDING,
                                .vhost = in,
                                .name = SLICE("e"),
                                .destination = SLICE("q")});
    }
    add(permission("u", "/", "r"));
    add(permission("u", "x", "r"));
    add(topic("u", "x", "t"));
    add(policy("p", "/", false, 1));
    add(policy("p", "x", false, 1));
    add(policy("p", "x", true, 1));
    take_away(vhost("x"));
    reopen();
    ck_assert_str_eq(seen, "vhost /\npolicy / p ^q queues says 1\nexchange / e\nqueue / q\n"
                           "binding / e q\nuser u h\npermission / u c w r\n");
    ck_assert_uint_eq(definitions_highest_queue_id(definitions), 7);
}
END_TEST

START_TEST(policies_come_back_before_what_they_are_for)
{
    open_all();
    add(vhost("/"));
    add((struct definition){
        .kind = DEFINITION_QUEUE, .vhost = SLICE("/"), .name = SLICE("q"), .queue_id = 1});
    add(policy("p", "/", false, -7));
    add(policy("p", "/", true, INT32_MAX));
    reopen();
    ck_assert_str_eq(seen, "vhost /\npolicy / p ^q queues says -7\n"
                           "policy / p ^q queues says 2147483647 of the operator\nqueue / q\n");
}
END_TEST

START_TEST(a_policy_is_changed_and_removed_in_its_own_set)
{
    struct definition changed = policy("p", "/", false, 3);
    changed.pattern = SLICE("^r");
    changed.type = SLICE("all");
    changed.arguments = SLICE("else");
    open_all();
    add(vhost("/"));
    add(policy("p", "/", false, 1));
    add(policy("p", "/", true, 2));
    add(policy("other", "/", false, 4));
    add(changed);
    take_away(policy("other", "/", true, 0)); /* of which there is none */
    reopen();
    ck_assert_str_eq(seen, "vhost /\npolicy / p ^r all else 3\n"
                           "policy / p ^q queues says 2 of the operator\n"
                           "policy / other ^q queues says 4\n");
    take_away(policy("p", "/", false, 0));
    reopen();
    ck_assert_str_eq(seen, "vhost /\npolicy / p ^q queues says 2 of the operator\n"
                           "policy / other ^q queues says 4\n");
}
END_TEST

/* A database as the version before users made it. */
static const char version_1[] =
    "CREATE TABLE vhosts (n INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE);"
    "CREATE TABLE exchanges (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " name BLOB NOT NULL, type BLOB NOT NULL, auto_delete INTEGER NOT NULL,"
    " internal INTEGER NOT NULL, queue_id INTEGER NOT NULL, arguments BLOB NOT NULL,"
    " UNIQUE (vhost, name));"
    "CREATE TABLE queues (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " name BLOB NOT NULL, queue_id INTEGER NOT NULL, auto_delete INTEGER NOT NULL,"
    " arguments BLOB NOT NULL, UNIQUE (vhost, name));"
    "CREATE TABLE bindings (n INTEGER PRIMARY KEY AUTOINCREMENT, vhost BLOB NOT NULL,"
    " source BLOB NOT NULL, destination BLOB NOT NULL, to_exchange INTEGER NOT NULL,"
    " routing_key BLOB NOT NULL, arguments BLOB NOT NULL,"
    " UNIQUE (vhost, source, destination, to_exchange, routing_key, arguments));"
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);"
    "INSERT INTO meta VALUES ('highest_queue_id', 41), ('clean', 1);"
    "INSERT INTO vhosts (name) VALUES (X'2f');"
    "INSERT INTO exchanges (vhost, name, type, auto_delete, internal, queue_id, arguments)"
    " VALUES (X'2f', X'65', X'746f706963', 0, 0, 0, X'');"
    "INSERT INTO queues (vhost, name, queue_id, auto_delete, arguments)"
    " VALUES (X'2f', X'71', 41, 0, X'');"
    "INSERT INTO bindings (vhost, source, destination, to_exchange, routing_key, arguments)"
    " VALUES (X'2f', X'65', X'71', 0, X'6b', X'');"
    "PRAGMA application_id = 1466462320; PRAGMA user_version = 1;";

/* What the version before policies had made of it. */
static const char version_2[] =
    "CREATE TABLE users (n INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE,"
    " password_hash BLOB NOT NULL, tags BLOB NOT NULL);"
    "CREATE TABLE permissions (n INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL,"
    " vhost BLOB NOT NULL, configure BLOB NOT NULL, write BLOB NOT NULL, read BLOB NOT NULL,"
    " UNIQUE (user, vhost));"
    "CREATE TABLE topic_permissions (n INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL,"
    " vhost BLOB NOT NULL, exchange BLOB NOT NULL, write BLOB NOT NULL, read BLOB NOT NULL,"
    " UNIQUE (user, vhost, exchange));"
    "CREATE TRIGGER vhost_removed AFTER DELETE ON vhosts BEGIN"
    " DELETE FROM bindings WHERE vhost = OLD.name;"
    " DELETE FROM queues WHERE vhost = OLD.name;"
    " DELETE FROM exchanges WHERE vhost = OLD.name;"
    " DELETE FROM permissions WHERE vhost = OLD.name;"
    " DELETE FROM topic_permissions WHERE vhost = OLD.name; END;"
    "INSERT INTO meta VALUES ('has_had_users', 1);"
    "INSERT INTO users (name, password_hash, tags) VALUES (X'75', X'68', X'');"
    "INSERT INTO permissions (user, vhost, configure, write, read)"
    " VALUES (X'75', X'2f', X'63', X'77', X'72');"
    "PRAGMA user_version = 2;";

static void
make_database(const char *first, const char *second)
{
    const char *const texts[] = {first, second};
    char path[128];
    sqlite3 *database;
    snprintf(path, sizeof(path), "%s/definitions.sqlite", directory);
    ck_assert_int_eq(sqlite3_open(path, &database), SQLITE_OK);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        ck_assert_int_eq(sqlite3_exec(database, texts[i], NULL, NULL, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_close(database), SQLITE_OK);
}

START_TEST(a_database_from_before_users_is_brought_up_to_date)
{
    make_database(version_1, "");
    open_all();
    ck_assert_str_eq(seen, "vhost /\nexchange / e topic\nqueue / q\nbinding / e q\n");
    ck_assert_uint_eq(definitions_highest_queue_id(definitions), 41);
    ck_assert(definitions_was_clean(definitions));
    ck_assert(!definitions_has_had_users(definitions));
    add(user("u", "h", ""));
    reopen();
    ck_assert_str_eq(seen, "vhost /\nexchange / e topic\nqueue / q\nbinding / e q\nuser u h\n");
}
END_TEST

START_TEST(a_database_from_before_policies_is_brought_up_to_date)
{
    make_database(version_1, version_2);
    open_all();
    ck_assert_str_eq(seen, "vhost /\nexchange / e topic\nqueue / q\nbinding / e q\nuser u h\n"
                           "permission / u c w r\n");
    ck_assert(definitions_has_had_users(definitions));
    add(policy("p", "/", false, 1));
    take_away(vhost("/")); /* the old trigger knows no policies */
    reopen();
    ck_assert_str_eq(seen, "user u h\n");
}
END_TEST

static void
wake(void *context)
{
    sem_post(context);
}

START_TEST(a_change_for_which_there_is_no_memory_never_counts_as_written)
{
    const struct definition lost = {.kind = DEFINITION_VHOST, .vhost = SLICE("lost")},
                            next = {.kind = DEFINITION_VHOST, .vhost = SLICE("next")};
    sem_t woken;
    sem_init(&woken, 0, 0);
    ck_assert_int_eq(definitions_open(&definitions, directory, error), 0);
    ck_assert_int_eq(definitions_load(definitions, visit, NULL, error), 0);
    ck_assert_int_eq(definitions_start(definitions, 1, wake, &woken, error), 0);
    is_out_of_memory = true;
    uint64_t sequence = definitions_add(definitions, &lost);
    is_out_of_memory = false;
    ck_assert_uint_eq(sequence, 0);
    ck_assert(definitions_failed(definitions, NULL));
    sem_wait(&woken); /* whoever has to end the broker, also when nothing follows */
    ck_assert_uint_lt(definitions_durable(definitions), definitions_submitted(definitions));
    ck_assert_uint_gt(definitions_add(definitions, &next), 1);
    sem_wait(&woken);
    ck_assert_uint_eq(definitions_durable(definitions), 0);
    reopen();
    ck_assert_ptr_null(strstr(seen, "next")); /* after what is lost, nothing is written */
    sem_destroy(&woken);
}
END_TEST

int
main(void)
{
    Suite *suite = suite_create("store/definitions");
    TCase *tests = tcase_create("definitions");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_change_for_which_there_is_no_memory_never_counts_as_written);
    tcase_add_test(tests, users_and_permissions_come_back);
    tcase_add_test(tests, adding_a_user_or_permission_again_changes_it);
    tcase_add_test(tests, what_is_removed_does_not_come_back);
    tcase_add_test(tests, a_vhost_takes_all_that_is_in_it_along);
    tcase_add_test(tests, a_database_from_before_users_is_brought_up_to_date);
    tcase_add_test(tests, policies_come_back_before_what_they_are_for);
    tcase_add_test(tests, a_policy_is_changed_and_removed_in_its_own_set);
    tcase_add_test(tests, a_database_from_before_policies_is_brought_up_to_date);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
