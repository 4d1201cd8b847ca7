/* whippet-perf: puts load on an AMQP 0-9-1 broker and measures what it does. See its man page. */
#include <signal.h>

#include "perf/modes.h"
#include "perf/options.h"
#include "perf/run.h"

int
main(int count, char **arguments)
{
    struct options options;
    int status = options_parse(&options, count, arguments);
    if (status != 0)
        return status > 0 ? 0 : 2;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes to sockets without MSG_NOSIGNAL */
    if (options.sync_limit)
        return mode_sync_limit(&options);
    if (options.loopback_limit)
        return mode_loopback_limit(&options);
    if (options.idle)
        return mode_idle(&options);
    return run_load(&options);
}
