/* The clocks: see base/clock.h. Both exist on every Linux, so reading them cannot fail. */
#include "base/clock.h"

#include <time.h>

int64_t
clock_monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t
clock_monotonic_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

int64_t
clock_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
