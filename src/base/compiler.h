/* What the project asks of the compiler beyond C17, under one name each, so that the rest of the
 * sources use no extension directly. */
#ifndef BASE_COMPILER_H
#define BASE_COMPILER_H

#include <stddef.h>

/* The result says whether it worked: the compiler warns where it is dropped. */
#define MUST_CHECK __attribute__((warn_unused_result))

/* Argument number `text` is a printf format, checked against those from `first` on (both from 1;
 * first 0 for a va_list). */
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

/* Which way a branch goes nearly always; for hot paths that were measured. */
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* Called all the time; called next to never (kept out of the way of the hot code, not inlined). */
#define HOT __attribute__((hot))
#define COLD __attribute__((cold, noinline))

/* The struct of type `type` whose member `member` is *pointer. */
#define CONTAINER_OF(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(1 ? (pointer) : &((type *)0)->member) - offsetof(type, member)))

/* The number of elements of an array (not of a pointer). */
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* Built for ThreadSanitizer, which does not follow fences. */
#if defined(__SANITIZE_THREAD__)
#define UNDER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_THREAD_SANITIZER 1
#endif
#endif
#ifndef UNDER_THREAD_SANITIZER
#define UNDER_THREAD_SANITIZER 0
#endif

/* Built for any sanitizer whose run-time looks into the process in ways of its own. */
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif
#ifndef UNDER_SANITIZER
#define UNDER_SANITIZER UNDER_THREAD_SANITIZER
#endif

#endif
