/* The configuration: one YAML file, read into one typed struct before anything else starts.
 *
 *     struct settings settings;
 *     struct config_errors errors;
 *
 *     settings_init(&settings);
 *     if (config_load(&settings, path, &errors) != 0)
 *         config_errors_tell(&errors, print_line, NULL);
 *
 * The keys, their types, defaults and ranges are one table, settings.def; man/whippet.yaml.5 is the
 * documentation for operators. A file is taken whole or not at all, and everything that is wrong
 * with it is told at once, each with its place. */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqp/slice.h"
#include "base/compiler.h"
#include "base/log.h"
#include "net/network.h"
#include "net/tls.h"

enum {
    CONFIG_PATH_MAX = 4096,                  /* a path with its 0, as PATH_MAX of Linux */
    CONFIG_LISTEN_MAX = 16,                  /* listening addresses */
    CONFIG_TEXTS_MAX = TLS_CERTIFICATES_MAX, /* elements of a list of texts */
    CONFIG_HOST_MAX = 256,         /* a host name (253, RFC 1035) or an address, with its 0 */
    CONFIG_NAME_MAX = 256,         /* a name of the system's, with its 0 */
    CONFIG_ADDRESS_TEXT_MAX = 272, /* "[host]:65535" with its 0 */
    CONFIG_FILE_MAX = 1024 * 1024, /* bytes of a file: far beyond any that people write */
    CONFIG_DEPTH_MAX = 16,         /* nested mappings and lists; the keys need two */
    CONFIG_ERRORS_MAX = 100,       /* that are kept; the others are counted */
    CONFIG_ERROR_TEXT_MAX = 384,   /* one message with its 0; a longer one is cut */
    CONFIG_QUOTE_MAX = 96, /* a piece of the file in a message: quoted, escaped, cut, with its 0 */
    CONFIG_VALUE_TEXT_MAX = 256, /* a value in a message with its 0; a longer one is cut */
};

/* Where to listen: a host as the resolver takes it ("127.0.0.1", "::1", "fe80::1%eth0",
 * "localhost"), or "*" for all addresses of the machine. Port 0 lets the kernel choose. */
struct config_address {
    char host[CONFIG_HOST_MAX];
    uint16_t port;
};

struct config_addresses {
    struct config_address items[CONFIG_LISTEN_MAX];
    size_t count;
};

struct config_texts {
    char items[CONFIG_TEXTS_MAX][CONFIG_PATH_MAX];
    size_t count;
};

/* A list of the file, of texts (char *) or of one of these structs. Owned by the settings. Its
 * items are NULL when the file does not name it, and not when it is named and empty. */
struct config_list {
    void *items;
    size_t count;
};

struct config_permission {
    char *vhost, *configure, *write, *read;
};

struct config_topic_permission {
    char *vhost, *exchange, *write, *read;
};

struct config_user {
    char *name;
    char *password, *password_hash; /* one of them; NULL: not given */
    struct config_list tags;        /* of char * */
    struct config_list permissions; /* of struct config_permission */
    struct config_list topic_permissions;
};

struct config_vhost {
    char *name;
};

/* A key of a policy's definition, and its value: a text, or (text NULL) the number. */
struct config_entry {
    char *name, *text;
    int64_t number;
};

struct config_policy {
    char *name, *pattern;
    char *vhost;                   /* NULL: not given, "/" */
    char *apply_to;                /* NULL: not given, "all" */
    int64_t priority;              /* of int32_t's range */
    struct config_list definition; /* of struct config_entry */
    size_t line, column;           /* where it stands in the file, from 1; not compared */
};

/* A copy by assignment shares the lists: one of the two is to be ended (settings_fini). */
struct settings {
    char data_dir[CONFIG_PATH_MAX];
    struct config_addresses listen;
    char user[CONFIG_NAME_MAX];  /* "": stays who it is */
    char group[CONFIG_NAME_MAX]; /* "": the user's */
    bool core_dumps, seccomp;
    uint32_t threads;     /* 0: one for each CPU */
    uint16_t heartbeat_s; /* 0: none */
    struct {
        enum log_level level;
        enum log_format format;
    } log;
    struct {
        uint32_t frame_max; /* bytes */
        uint16_t channel_max;
        uint64_t message_size;        /* bytes */
        uint64_t memory;              /* bytes; 0: two fifths of the machine's */
        uint64_t disk_free;           /* bytes */
        uint32_t consumer_timeout_ms; /* 0: none */
        uint32_t handshake_timeout_ms;
        uint32_t handshakes; /* 0: any number, as all that follow but consumers_per_channel */
        uint32_t connections;
        uint32_t connections_per_user;
        uint32_t connections_per_vhost;
        uint32_t connections_per_address;
        uint32_t queues_per_vhost;
        uint32_t exchanges_per_vhost;
        uint32_t bindings_per_vhost;
        uint32_t consumers_per_vhost;
        uint32_t consumers_per_connection;
        uint32_t consumers_per_channel;
        uint32_t unsettled_per_channel;
        uint32_t header_size;  /* bytes */
        uint32_t header_depth; /* tables in tables */
    } limits;
    struct {
        struct networks trusted;
    } proxy_protocol;
    struct {
        char socket[CONFIG_PATH_MAX]; /* "": none */
    } admin;
    struct {
        struct config_addresses listen;
        struct config_texts certificate;
        struct config_texts key; /* pairwise; empty: each is in its certificate's file */
        char ca_file[CONFIG_PATH_MAX], crl_file[CONFIG_PATH_MAX];     /* "": none */
        char ciphers[CONFIG_PATH_MAX], ciphersuites[CONFIG_PATH_MAX]; /* "": the default */
        enum tls_verify verify;
        enum tls_version minimum_version;
        enum tls_peer_name peer_name;
    } tls;
    struct config_list vhosts, users;
    struct config_list policies, operator_policies; /* of struct config_policy */
    struct config_list loopback_users; /* of char *; "guest" if the file does not name any */
};

/* What is wrong at one place of the file. */
struct config_error {
    size_t line;   /* from 1; 0 when it is about the file as a whole */
    size_t column; /* from 1, in characters */
    char text[CONFIG_ERROR_TEXT_MAX];
};

/* In the order of the file. */
struct config_errors {
    char path[CONFIG_PATH_MAX];
    struct config_error items[CONFIG_ERRORS_MAX];
    size_t count; /* items in use */
    size_t total; /* found; more than count when not all were kept */
};

/* The defaults. */
void settings_init(struct settings *settings);

/* Ends their use: frees the lists, and wipes the passwords in them. */
void settings_fini(struct settings *settings);

/* Reads the file over the settings: what it does not name keeps its value. The file may be a pipe.
 * Initialises *errors. -1: *settings is as before and *errors says why, at least one error; 0:
 * there is none. Blocks; for the start of the program. */
MUST_CHECK int config_load(struct settings *settings, const char *path,
                           struct config_errors *errors);

/* The same from memory; the path only names it in messages. */
MUST_CHECK int config_load_text(struct settings *settings, const char *path, const char *text,
                                size_t size, struct config_errors *errors);

/* "path:line:column: message", or "path: message" of the file as a whole, without newline. Returns
 * the length that was needed, as snprintf. index is less than count. */
int config_error_format(const struct config_errors *errors, size_t index, char *out, size_t size);

/* Adds an error, for what only others can find: line and column from 1, or both 0 for the file as a
 * whole. What is of the file in it has been through config_escape. */
PRINTF_LIKE(4, 5)
void config_errors_add(struct config_errors *errors, size_t line, size_t column, const char *format,
                       ...);

/* Text of the file for messages: what does not print is escaped, and a long one is cut, so that a
 * message is one line of readable UTF-8. Returns out. */
const char *config_escape(struct slice text, char out[CONFIG_QUOTE_MAX]);

/* One of the lines that tell what is wrong, without a newline. */
typedef void config_errors_told(void *context, const char *line);

/* All of them, one per line, and how many more there are. */
void config_errors_tell(const struct config_errors *errors, config_errors_told *tell,
                        void *context);

/* A setting that two configurations have differently. */
struct config_change {
    const char *path;                                            /* "log.level" */
    bool is_live;                                                /* no restart is needed */
    char from[CONFIG_VALUE_TEXT_MAX], to[CONFIG_VALUE_TEXT_MAX]; /* as in the file */
};

/* The differences, one after the other: `at` is 0 for the first and is moved on. false: no more. */
MUST_CHECK bool settings_next_change(const struct settings *before, const struct settings *after,
                                     size_t *at, struct config_change *change);

/* Takes over what may change while the program runs, and leaves the rest as it is, as also those
 * settings of whose path `is_taken` says false (NULL: there are none). Lists are moved: `wanted`
 * has none of those that were taken any more. */
void settings_take_live(struct settings *running, struct settings *wanted,
                        bool (*is_taken)(void *context, const char *path), void *context);

enum config_address_error {
    CONFIG_ADDRESS_NO_PORT = -1,
    CONFIG_ADDRESS_BAD_PORT = -2,
    CONFIG_ADDRESS_NO_HOST = -3,
    CONFIG_ADDRESS_BAD_IP4 = -4,
    CONFIG_ADDRESS_BAD_IP6 = -5,
    CONFIG_ADDRESS_NO_BRACKETS = -6,
    CONFIG_ADDRESS_BAD_NAME = -7,
    CONFIG_ADDRESS_TOO_LONG = -8,
};

/* "ADDRESS:PORT" with an IPv4 address, an IPv6 address in brackets (with "%zone" if it needs one),
 * a host name or "*". Looks nothing up. An enum config_address_error in error, and *out is as
 * before. */
MUST_CHECK int config_parse_address(const char *text, struct config_address *out);

/* Why it was refused: a static text such as "the port is not a number from 0 to 65535". */
const char *config_address_error_text(int error);

/* "127.0.0.1:5672", "[::1]:5672", "*:5672": what config_parse_address takes. Returns out. */
const char *config_address_text(const struct config_address *address,
                                char out[CONFIG_ADDRESS_TEXT_MAX]);

#endif
