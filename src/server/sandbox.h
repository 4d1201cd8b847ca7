/* The system call filter (seccomp): once the broker has opened what it needs, the kernel lets it do
 * no more than a broker does. Code that an attacker gets to run in it can start no program, connect
 * to nobody, and see no other process. */
#ifndef SERVER_SANDBOX_H
#define SERVER_SANDBOX_H

#include <stdbool.h>

#include "base/compiler.h"

enum { SANDBOX_ERROR_MAX = 256 };

/* Filters the system calls of all threads, those that are there and those to come, for good. Two
 * answers to what is not allowed: what only an attack does (running a program, tracing, mounting)
 * kills the process; the rest fails with ENOSYS, the answer on which libraries fall back to calls
 * of older kernels, so that a new C library costs a feature and not the broker. Both are in the
 * audit log, but for the clone3 that every new thread tries. -1 with one line when the kernel or
 * the build has no filter; nothing but that clone3 is refused then. */
MUST_CHECK int sandbox_enter(char error[SANDBOX_ERROR_MAX]);

#endif
