/* whippetctl's text: see the header. */
#include "ctl/text.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* --- Writing ---------------------------------------------------------------------------------- */

/* The size of the character at the front if it is one that moves the cursor, ends a line or turns
 * the direction of writing; else 0. */
static size_t
unprintable(const unsigned char *at, size_t size)
{
    if (at[0] < 0x20 || at[0] == 0x7f)
        return 1;
    if (size < 2)
        return 0;
    if ((at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f) /* U+0080 to U+009F */
        || (at[0] == 0xd8 && at[1] == 0x9c))              /* U+061C */
        return 2;
    if (size < 3 || at[0] != 0xe2)
        return 0;
    bool is_one = at[1] == 0x80 ? at[2] == 0x8e || at[2] == 0x8f          /* U+200E, U+200F, */
                                      || (at[2] >= 0xa8 && at[2] <= 0xae) /* U+2028 to U+202E */
                                : at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9; /* to U+2069 */
    return is_one ? 3 : 0;
}

void
text_print(struct slice text, FILE *out)
{
    const unsigned char *at = (const unsigned char *)text.data;
    for (size_t i = 0; i < text.size;) {
        size_t odd = unprintable(at + i, text.size - i);
        if (at[i] == '\\' || at[i] == '\n' || at[i] == '\t') {
            fprintf(out, "\\%c", at[i] == '\\' ? '\\' : at[i] == '\n' ? 'n' : 't');
            i++;
        } else if (odd > 0) {
            for (size_t end = i + odd; i < end; i++)
                fprintf(out, "\\x%02x", at[i]);
        } else {
            fputc(at[i++], out);
        }
    }
}

static void
print_value(const json_t *value, FILE *out)
{
    if (json_is_string(value)) {
        text_print((struct slice){json_string_value(value), json_string_length(value)}, out);
    } else if (json_is_array(value)) { /* of texts: tags */
        fputc('[', out);
        for (size_t i = 0; i < json_array_size(value); i++) {
            fputs(i > 0 ? ", " : "", out);
            print_value(json_array_get(value, i), out);
        }
        fputc(']', out);
    } else if (value != NULL && !json_is_null(value)) { /* a table is JSON in the text, too */
        char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        if (text != NULL)
            text_print(slice_from(text), out);
        free(text);
    }
}

void
text_table(const json_t *list, const struct text_column *columns, FILE *out)
{
    for (size_t c = 0; columns[c].key != NULL; c++)
        fprintf(out, "%s%s", c > 0 ? "\t" : "", columns[c].name);
    fputc('\n', out);
    for (size_t i = 0; i < json_array_size(list); i++) {
        for (size_t c = 0; columns[c].key != NULL; c++) {
            fputs(c > 0 ? "\t" : "", out);
            print_value(json_object_get(json_array_get(list, i), columns[c].key), out);
        }
        fputc('\n', out);
    }
}

int
text_json(const json_t *list, const struct text_column *columns, FILE *out)
{
    json_t *chosen = json_array();
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *row = json_object();
        for (size_t c = 0; columns[c].key != NULL; c++)
            json_object_set(row, columns[c].name,
                            json_object_get(json_array_get(list, i), columns[c].key));
        json_array_append_new(chosen, row);
    }
    int status = json_dumpf(chosen, out, JSON_INDENT(2));
    json_decref(chosen);
    fputc('\n', out);
    return status;
}

/* --- Passwords -------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted_by;

static void
on_signal(int number)
{
    interrupted_by = number;
}

/* One line of standard input without its end, byte by byte so that no buffer keeps it. */
static int
read_line(char line[TEXT_PASSWORD_MAX])
{
    size_t size = 0;
    char c;
    ssize_t count;
    while ((count = read(STDIN_FILENO, &c, 1)) == 1 && c != '\n') {
        if (size == TEXT_PASSWORD_MAX - 1) {
            fprintf(stderr, "whippetctl: the password is longer than %d bytes\n",
                    (int)TEXT_PASSWORD_MAX - 1);
            return -1;
        }
        line[size++] = c;
    }
    line[size] = 0;
    if (count < 0 && interrupted_by == 0)
        fprintf(stderr, "whippetctl: cannot read the password: %s\n", strerror(errno));
    if (count < 0)
        return -1;
    if (size == 0 || strlen(line) != size) {
        fputs(size == 0 ? "whippetctl: the password is empty\n"
                        : "whippetctl: the password has a zero byte\n",
              stderr);
        return -1;
    }
    return 0;
}

/* From the terminal, which shows nothing meanwhile; a signal waits until it shows things again. */
static int
read_hidden(const char *prompt, char line[TEXT_PASSWORD_MAX])
{
    static const int signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGTSTP};
    struct sigaction old[ARRAY_SIZE(signals)], action = {.sa_handler = on_signal};
    struct termios shown, hidden;
    if (tcgetattr(STDIN_FILENO, &shown) != 0) {
        fprintf(stderr, "whippetctl: the terminal: %s\n", strerror(errno));
        return -1;
    }
    interrupted_by = 0;
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &action, &old[i]); /* without SA_RESTART: they end the reading */
    hidden = shown;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    int status = tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
    fputs(prompt, stderr);
    if (status == 0)
        status = read_line(line);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
    fputc('\n', stderr);
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &old[i], NULL);
    if (interrupted_by != 0) {
        raise(interrupted_by);
        return -1; /* after a stop */
    }
    return status;
}

int
text_read_password(char password[TEXT_PASSWORD_MAX], bool is_new)
{
    char again[TEXT_PASSWORD_MAX];
    if (isatty(STDIN_FILENO) == 0)
        return read_line(password);
    if (read_hidden("Password: ", password) != 0)
        return -1;
    if (!is_new)
        return 0;
    int status = read_hidden("Again: ", again);
    if (status == 0 && strcmp(password, again) != 0) {
        fputs("whippetctl: the two passwords differ\n", stderr);
        status = -1;
    }
    explicit_bzero(again, sizeof(again));
    return status;
}
