/* A broker for which memory runs out on demand: linked into a whippetd of its own, whose malloc,
 * calloc, realloc, strdup, strndup and free are these (--wrap), as are those of SQLite, OpenSSL and
 * jansson.
 *
 * The file named by MEMORY_CONTROL, of one struct control, says when: so a test beside it arms and
 * disarms it while the broker runs. */
#include <fcntl.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* attacks_memory.py knows it, too: numbers of 64 bits. */
struct control {
    _Atomic int64_t succeed; /* so many allocations, then `fail` of them do not; negative: all do */
    _Atomic int64_t fail;
    _Atomic int64_t failures;
    _Atomic int64_t live;   /* allocations of the broker's own code that were not freed */
    _Atomic int64_t spares; /* 1: those of SQLite do not count, 2: nor do those of OpenSSL */
    _Atomic int64_t where;  /* the place in the code whose allocation failed last, from `main` on */
};

static struct control none = {.succeed = -1};
static struct control *control = &none;

int main(int argc, char **argv);
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
void __wrap_free(void *memory);

static bool
fails(void *caller)
{
    if (atomic_load_explicit(&control->succeed, memory_order_relaxed) < 0
        || atomic_fetch_sub(&control->succeed, 1) > 0)
        return false;
    if (atomic_fetch_sub(&control->fail, 1) > 0) {
        control->succeed = 0;
        control->failures++;
        control->where = (int64_t)((intptr_t)caller - (intptr_t)main);
        return true;
    }
    control->succeed = -1;
    return false;
}

static void *
made(void *memory)
{
    control->live += memory != NULL;
    return memory;
}

void *
__wrap_malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : made(__real_malloc(size));
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : made(__real_calloc(count, size));
}

void *
__wrap_realloc(void *old, size_t size)
{
    if (fails(__builtin_return_address(0)))
        return NULL;
    void *memory = __real_realloc(old, size);
    return old == NULL ? made(memory) : memory;
}

char *
__wrap_strdup(const char *text)
{
    return fails(__builtin_return_address(0)) ? NULL : made(__real_strdup(text));
}

char *
__wrap_strndup(const char *text, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : made(__real_strndup(text, size));
}

void
__wrap_free(void *memory)
{
    control->live -= memory != NULL;
    __real_free(memory);
}

/* --- The libraries ---------------------------------------------------------------------------- */

static bool
sqlite_fails(void *caller)
{
    return control->spares == 0 && fails(caller);
}

static void *
sqlite_malloc(int size)
{
    return sqlite_fails(__builtin_return_address(0)) ? NULL : __real_malloc((size_t)size);
}

static void *
sqlite_realloc(void *old, int size)
{
    return sqlite_fails(__builtin_return_address(0)) ? NULL : __real_realloc(old, (size_t)size);
}

static int
sqlite_size(void *memory)
{
    return memory == NULL ? 0 : (int)malloc_usable_size(memory);
}

static int
sqlite_round_up(int size)
{
    return (size + 7) & ~7;
}

static int
sqlite_begin(void *context)
{
    (void)context;
    return SQLITE_OK;
}

static void
sqlite_end(void *context)
{
    (void)context;
}

static bool
openssl_fails(void *caller)
{
    return control->spares < 2 && fails(caller);
}

static void *
openssl_malloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return size == 0 || openssl_fails(__builtin_return_address(0)) ? NULL : __real_malloc(size);
}

static void *
openssl_realloc(void *old, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return openssl_fails(__builtin_return_address(0)) ? NULL : __real_realloc(old, size);
}

static void
openssl_free(void *memory, const char *file, int line)
{
    (void)file, (void)line;
    __real_free(memory);
}

__attribute__((constructor)) static void
begin(void)
{
    static const sqlite3_mem_methods methods = {
        .xMalloc = sqlite_malloc,
        .xFree = __real_free,
        .xRealloc = sqlite_realloc,
        .xSize = sqlite_size,
        .xRoundup = sqlite_round_up,
        .xInit = sqlite_begin,
        .xShutdown = sqlite_end,
    };
    const char *name = getenv("MEMORY_CONTROL");
    int file = name != NULL ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void *map = file < 0
                    ? MAP_FAILED
                    : mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED || sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) != SQLITE_OK
        || CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) != 1)
        abort(); /* the test would test nothing */
    close(file);
    control = map;
}
