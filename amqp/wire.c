/* What of reading the wire is too large to be inline: UTF-8, and tables checked to their depths. */
#include "amqp/wire.h"

#include "amqp/table.h"

struct slice
amqp_read_table(struct amqp_reader *reader)
{
    struct slice content = amqp_read_longstr(reader);

    if (content.size != 0 && amqp_table_validate(content, AMQP_TABLE_MAX_DEPTH) != 0) {
        reader->failed = true;
        reader->at = reader->end;
        return (struct slice){.data = "", .size = 0};
    }
    return content;
}

/* How many of the bytes at the start are ASCII, in steps of eight: names and keys mostly are, all.
 */
static size_t
skip_ascii(const uint8_t *at, size_t size)
{
    size_t done = 0;

    while (size - done >= 8) {
        uint64_t eight;

        memcpy(&eight, at + done, 8);
        if ((eight & UINT64_C(0x8080808080808080)) != 0)
            break;
        done += 8;
    }
    return done;
}

/* The length of the well-formed character at the start of at[0..size), 0 if there is none (Unicode
 * 15, table 3-7: the second byte's range depends on the first, which rules out overlong forms,
 * surrogates and what lies past U+10FFFF). */
static size_t
utf8_character(const uint8_t *at, size_t size)
{
    uint8_t first = at[0], low = 0x80, high = 0xBF;
    size_t length;

    if (first < 0x80)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (size < length)
        return 0;
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    }
    return length;
}

bool
amqp_is_utf8(struct slice bytes)
{
    const uint8_t *at = (const uint8_t *)bytes.data;
    size_t i = bytes.size != 0 ? skip_ascii(at, bytes.size) : 0;

    while (i < bytes.size) {
        size_t length = utf8_character(at + i, bytes.size - i);

        if (length == 0)
            return false;
        i += length;
    }
    return true;
}
