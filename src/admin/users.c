/* Users over HTTP: listing, making, changing and deleting them. */
#include <errno.h>
#include <stdio.h>

#include "admin/routes.h"
#include "auth/access.h"
#include "auth/password.h"

/* The forms of a hash, by what RabbitMQ calls them. The sizes are those of base64. */
static const struct {
    const char *name, *prefix;
    size_t size; /* 0: any */
} algorithms[] = {
    {"rabbit_password_hashing_sha256", "", 48},
    {"rabbit_password_hashing_sha512", "", 92},
    {"scrypt", "$scrypt$", 0},
};

static bool
is_of(size_t algorithm, struct slice hash)
{
    return slice_starts_with(hash, slice_from(algorithms[algorithm].prefix))
           && (algorithms[algorithm].size == 0 || algorithms[algorithm].size == hash.size);
}

static const char *
algorithm_of(struct slice hash)
{
    for (size_t i = 0; i < ARRAY_SIZE(algorithms); i++)
        if (is_of(i, hash))
            return algorithms[i].name;
    return algorithms[0].name; /* of the empty hash, as RabbitMQ has it */
}

/* --- Showing ---------------------------------------------------------------------------------- */

static json_t *
tags_json(struct slice tags)
{
    json_t *list = json_array();
    while (tags.size > 0) {
        const char *comma = memchr(tags.data, ',', tags.size);
        size_t size = comma != NULL ? (size_t)(comma - tags.data) : tags.size;
        json_array_append_new(list, admin_text((struct slice){tags.data, size}));
        size_t used = comma != NULL ? size + 1 : size;
        tags = (struct slice){tags.data + used, tags.size - used};
    }
    return list;
}

static json_t *
user_json(const struct access_user *user)
{
    struct slice hash = access_user_hash(user);
    return json_pack("{s:o, s:o, s:s, s:o, s:b}", "name", admin_text(access_user_name(user)),
                     "password_hash", admin_text(hash), "hashing_algorithm", algorithm_of(hash),
                     "tags", tags_json(access_user_tags(user)), "is_from_file",
                     (int)access_user_is_from_file(user));
}

void
whoami(const struct admin_request *request, struct admin_reply *reply)
{
    char name[32];
    snprintf(name, sizeof(name), "uid:%lu", (unsigned long)request->uid);
    admin_show(reply, json_pack("{s:s, s:[s]}", "name", name, "tags", "administrator"));
}

static void
append_user(void *list, const struct access_user *user)
{
    json_array_append_new(list, user_json(user));
}

void
users_list(const struct admin_request *request, struct admin_reply *reply)
{
    json_t *list = json_array();
    if (admin_each_user(request, append_user, list) != 0) {
        json_decref(list);
        list = NULL;
    }
    admin_show(reply, list);
}

void
user_show(const struct admin_request *request, struct admin_reply *reply)
{
    struct access_user *user = admin_user(request, request->names[0], reply);
    if (user == NULL)
        return;
    admin_show(reply, user_json(user));
    access_user_unref(user);
}

/* --- Tags and passwords of a body ------------------------------------------------------------- */

/* Appends a tag without the spaces around it; an empty one is none. False: it does not fit. */
static bool
append_tag(struct slice tag, char out[ACCESS_TAGS_MAX + 1], size_t *size)
{
    while (tag.size > 0 && tag.data[0] == ' ')
        tag = (struct slice){tag.data + 1, tag.size - 1};
    while (tag.size > 0 && tag.data[tag.size - 1] == ' ')
        tag.size--;
    if (tag.size == 0)
        return true;
    size_t comma = *size > 0;
    if (*size + comma + tag.size > ACCESS_TAGS_MAX)
        return false;
    if (comma > 0)
        out[(*size)++] = ',';
    memcpy(out + *size, tag.data, tag.size);
    *size += tag.size;
    return true;
}

/* "a, b" */
static const char *
read_tags_text(struct slice text, char out[ACCESS_TAGS_MAX + 1], size_t *size)
{
    while (text.size > 0) {
        const char *comma = memchr(text.data, ',', text.size);
        struct slice tag = {text.data, comma != NULL ? (size_t)(comma - text.data) : text.size};
        if (!append_tag(tag, out, size))
            return "the tags are too long";
        size_t used = comma != NULL ? tag.size + 1 : tag.size;
        text = (struct slice){text.data + used, text.size - used};
    }
    return NULL;
}

/* The tags of the body, with commas between; NULL, or what is wrong with them. */
static const char *
read_tags(const json_t *tags, char out[ACCESS_TAGS_MAX + 1], struct slice *result)
{
    size_t size = 0;
    const char *problem = NULL;
    if (json_is_string(tags)) {
        problem = read_tags_text((struct slice){json_string_value(tags), json_string_length(tags)},
                                 out, &size);
    } else if (json_is_array(tags)) {
        for (size_t i = 0; i < json_array_size(tags) && problem == NULL; i++) {
            const json_t *tag = json_array_get(tags, i);
            struct slice text = {json_string_value(tag), json_string_length(tag)};
            if (!json_is_string(tag) || memchr(text.data, ',', text.size) != NULL)
                problem = "a tag is a text without a comma";
            else if (!append_tag(text, out, &size))
                problem = "the tags are too long";
        }
    } else {
        problem = "'tags' is neither a text nor a list";
    }
    *result = (struct slice){out, size};
    return problem;
}

/* A password_hash has to be of the algorithm, where that is named. */
static bool
check_algorithm(const struct admin_request *request, struct slice hash, struct admin_reply *reply)
{
    struct slice algorithm;
    bool is_named;
    if (admin_field(request, "hashing_algorithm", false, &algorithm, &is_named, reply) != 0)
        return false;
    if (!is_named || hash.size == 0)
        return true;
    for (size_t i = 0; i < ARRAY_SIZE(algorithms); i++)
        if (slice_is(algorithm, algorithms[i].name)) {
            if (is_of(i, hash))
                return true;
            admin_refuse(reply, HTTP_BAD_REQUEST, "the password hash is none of %s",
                         algorithms[i].name);
            return false;
        }
    admin_refuse(reply, HTTP_BAD_REQUEST, "hashing algorithm '%.*s' is not supported",
                 SLICE_ARGS(algorithm));
    return false;
}

/* The hash of the body's password, or its password_hash; *is_there is false, and the hash empty, if
 * it has neither. -1 with the answer. */
static int
read_hash(const struct admin_request *request, char out[PASSWORD_HASH_MAX], struct slice *hash,
          bool *is_there, struct admin_reply *reply)
{
    struct slice password;
    bool has_password;
    if (admin_field(request, "password", false, &password, &has_password, reply) != 0
        || admin_field(request, "password_hash", false, hash, is_there, reply) != 0)
        return -1;
    if (has_password && *is_there) {
        admin_refuse(reply, HTTP_BAD_REQUEST, "both a password and a password_hash are given");
        return -1;
    }
    if (!has_password)
        return check_algorithm(request, *hash, reply) ? 0 : -1;
    *is_there = true;
    if (password.size == 0) {
        admin_refuse(reply, HTTP_BAD_REQUEST,
                     "the password is empty; an empty password_hash forbids login by password");
        return -1;
    }
    int status = password_hash(PASSWORD_SCRYPT, password, out);
    if (status == -EINVAL)
        admin_refuse(reply, HTTP_BAD_REQUEST, "the password is longer than %d bytes",
                     (int)PASSWORD_MAX);
    else if (status != 0)
        admin_refuse(reply, HTTP_INTERNAL_SERVER_ERROR, "the password cannot be hashed");
    *hash = status == 0 ? slice_from(out) : SLICE("");
    return status == 0 ? 0 : -1;
}

/* --- Changing --------------------------------------------------------------------------------- */

void
user_put(const struct admin_request *request, struct admin_reply *reply)
{
    struct access *access = request->subject->server->access;
    struct slice name = request->names[0], hash, tags_text;
    char error[ACCESS_ERROR_MAX] = "", hash_text[PASSWORD_HASH_MAX], tags[ACCESS_TAGS_MAX + 1];
    bool has_hash;
    const json_t *wanted_tags = json_object_get(request->body, "tags");
    const char *problem =
        wanted_tags == NULL ? "key 'tags' is missing" : read_tags(wanted_tags, tags, &tags_text);
    struct access_user *old = access_user_find(access, name);
    if (old != NULL && request->only_new)
        admin_refuse(reply, HTTP_PRECONDITION_FAILED, "user '%.*s' exists", SLICE_ARGS(name));
    else if (problem != NULL)
        admin_refuse(reply, HTTP_BAD_REQUEST, "%s", problem);
    else if (read_hash(request, hash_text, &hash, &has_hash, reply) == 0)
        admin_answer(reply, access_user_set(access, name, hash, tags_text, error),
                     old == NULL ? HTTP_CREATED : HTTP_NO_CONTENT, error);
    access_user_unref(old);
}

/* Only this thread changes users who are not from the file, so what was read is still so when it is
 * written. */
void
user_patch(const struct admin_request *request, struct admin_reply *reply)
{
    struct slice name = request->names[0], hash, tags_text;
    char error[ACCESS_ERROR_MAX] = "", hash_text[PASSWORD_HASH_MAX], tags[ACCESS_TAGS_MAX + 1];
    bool has_hash;
    struct access_user *user = admin_user(request, name, reply);
    if (user == NULL)
        return;
    const json_t *wanted_tags = json_object_get(request->body, "tags");
    const char *problem = NULL;
    if (wanted_tags == NULL)
        tags_text = access_user_tags(user);
    else
        problem = read_tags(wanted_tags, tags, &tags_text);
    if (problem != NULL)
        admin_refuse(reply, HTTP_BAD_REQUEST, "%s", problem);
    else if (read_hash(request, hash_text, &hash, &has_hash, reply) == 0)
        admin_answer(reply,
                     access_user_set(request->subject->server->access, name,
                                     has_hash ? hash : access_user_hash(user), tags_text, error),
                     HTTP_NO_CONTENT, error);
    access_user_unref(user);
}

void
user_delete(const struct admin_request *request, struct admin_reply *reply)
{
    char error[ACCESS_ERROR_MAX] = "";
    admin_answer(reply,
                 access_user_delete(request->subject->server->access, request->names[0], error),
                 HTTP_NO_CONTENT, error);
}

/* A user who is not there takes as long, and is answered likewise, as a wrong password. */
void
user_authenticate(const struct admin_request *request, struct admin_reply *reply)
{
    struct access *access = request->subject->server->access;
    struct slice password;
    if (admin_field(request, "password", true, &password, NULL, reply) != 0)
        return;
    struct access_user *user = access_user_find(access, request->names[0]);
    if (access_verify_password(access, user, password))
        admin_show(reply, json_pack("{s:o, s:o}", "name", admin_text(access_user_name(user)),
                                    "tags", tags_json(access_user_tags(user))));
    else
        admin_refuse(reply, HTTP_UNAUTHORIZED, "no such user, or the password is not the user's");
    access_user_unref(user);
}
