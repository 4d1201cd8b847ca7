/* Looking into a data directory, and repairing it: see the header. */
#include "server/maintenance.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/map.h"
#include "store/definitions.h"
#include "store/log.h"

/* A queue's name for people, by its id. */
struct queue_name {
    uint64_t id;
    char text[LOG_QUEUE_NAME_SIZE];
};

static struct slice
id_of_name(const void *value)
{
    const struct queue_name *name = value;
    return (struct slice){(const char *)&name->id, sizeof(name->id)};
}

static int
learn_name(void *context, const struct definition *definition)
{
    struct map *names = context;
    if (definition->queue_id == 0)
        return 0;
    struct queue_name *name = malloc(sizeof(*name));
    if (name == NULL)
        return -ENOMEM;
    name->id = definition->queue_id;
    snprintf(name->text, sizeof(name->text), "'%.*s' in vhost '%.*s'", SLICE_ARGS(definition->name),
             SLICE_ARGS(definition->vhost));
    if (map_insert(names, name) != 0) {
        free(name);
        return -ENOMEM;
    }
    return 0;
}

static void
say_name(void *context, uint64_t queue_id, char text[LOG_QUEUE_NAME_SIZE])
{
    const struct queue_name *name =
        map_find(context, (struct slice){(const char *)&queue_id, sizeof(queue_id)});
    if (name != NULL)
        memcpy(text, name->text, sizeof(name->text));
}

static void
free_names(struct map *names)
{
    struct queue_name *name;
    size_t at = 0;
    while ((name = map_next(names, &at)) != NULL)
        free(name);
    map_fini(names);
}

static void
say_line(void *context, const char *text)
{
    fprintf(context, "%s\n", text);
}

static int
log_path(const char *directory, char path[PATH_MAX], char error[STORAGE_TEXT_SIZE])
{
    if (snprintf(path, PATH_MAX, "%s/log", directory) < PATH_MAX)
        return 0;
    snprintf(error, STORAGE_TEXT_SIZE, "the name of the data directory is too long");
    return -1;
}

int
maintenance_repair(const char *directory, FILE *out, char error[STORAGE_TEXT_SIZE])
{
    char path[PATH_MAX];
    struct definitions *definitions;
    struct map names;
    /* Opening the definitions also sees to it that no broker runs, and none starts meanwhile. */
    if (log_path(directory, path, error) != 0
        || definitions_open(&definitions, directory, error) != 0)
        return -1;
    map_init(&names, id_of_name);
    struct log_options options = {
        .directory = path, .name_queue = say_name, .name_context = &names};
    int status = definitions_load(definitions, learn_name, &names, error);
    if (status == 0)
        status = log_repair(&options, say_line, out, error);
    free_names(&names);
    definitions_close(definitions, false); /* it was not started: nothing is noted */
    if (status != 0)
        return -1;
    fprintf(out, "%s can be used\n", path);
    return 0;
}

/* The names of the queues, as far as they can be had: a running broker has the definitions locked,
 * and they may be what is damaged. */
static void
learn_names(const char *directory, struct map *names)
{
    char path[PATH_MAX], error[DEFINITIONS_TEXT_SIZE];
    struct definitions *definitions;
    if (snprintf(path, sizeof(path), "%s/definitions.sqlite", directory) >= (int)sizeof(path)
        || access(path, R_OK | W_OK) != 0 || definitions_open(&definitions, directory, error) != 0)
        return;
    if (definitions_load(definitions, learn_name, names, error) != 0)
        free_names(names); /* leaves an empty map: queues have numbers then */
    definitions_close(definitions, false);
}

int
maintenance_inspect(const char *directory, bool json, FILE *out, char error[STORAGE_TEXT_SIZE])
{
    char path[PATH_MAX];
    if (log_path(directory, path, error) != 0)
        return -1;
    struct map names;
    map_init(&names, id_of_name);
    learn_names(directory, &names);
    struct log_options options = {
        .directory = path, .name_queue = say_name, .name_context = &names};
    int status = log_inspect(&options, out, json, error);
    free_names(&names);
    return status == 0 ? 0 : -1;
}
