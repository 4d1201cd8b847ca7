/* For the tests of the configuration: loading a text, and what is told about it. */
#ifndef TEST_CONFIG_SUPPORT_H
#define TEST_CONFIG_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/config_internal.h"

static struct settings settings, defaults;
static struct config_errors errors;
static char told[CONFIG_ERRORS_MAX * 600];

static inline void
set_up(void)
{
    settings_init(&settings);
    settings_init(&defaults);
    memset(&errors, 0x5a, sizeof(errors));
}

static inline void
print_line(void *out, const char *line)
{
    fprintf(out, "%s\n", line);
}

/* All errors as they are told, one per line. */
static inline const char *
errors_text(void)
{
    FILE *out = fmemopen(told, sizeof(told), "w");

    ck_assert_ptr_nonnull(out);
    told[0] = '\0';
    config_errors_tell(&errors, print_line, out);
    ck_assert_int_eq(fclose(out), 0);
    return told;
}

static inline bool
equal_but_for(const struct settings *a, const struct settings *b, const char *path)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *setting = &setting_table[i];

        if (strcmp(setting->path, path) != 0
            && memcmp((const char *)a + setting->offset, (const char *)b + setting->offset,
                      setting->size)
                   != 0)
            return false;
    }
    return true;
}

static inline bool
equal(const struct settings *a, const struct settings *b)
{
    return equal_but_for(a, b, "");
}

static inline int
load_bytes(const char *text, size_t size)
{
    return config_load_text(&settings, "f", text, size, &errors);
}

static inline void
load(const char *text)
{
    if (load_bytes(text, strlen(text)) != 0)
        ck_abort_msg("refused: %s", errors_text());
    ck_assert_uint_eq(errors.total, 0);
}

/* Loading fails with exactly these lines, and changes nothing. */
static inline void
refuse_bytes(const char *text, size_t size, const char *expected)
{
    ck_assert_int_eq(load_bytes(text, size), -1);
    ck_assert_uint_gt(errors.total, 0);
    ck_assert_str_eq(errors_text(), expected);
    ck_assert(equal(&settings, &defaults));
}

static inline void
refuse(const char *text, const char *expected)
{
    refuse_bytes(text, strlen(text), expected);
}

#endif
