"""The steps that every client goes through, in this order; README.md says what each one shows."""

FEATURES = [
    "hello",
    "work-queue",
    "publish-subscribe",
    "routing",
    "topics",
    "rpc",
    "direct-reply-to",
    "confirms",
    "mandatory-return",
    "get",
    "requeue",
    "dead-letter",
    "ttl",
    "priority",
    "headers",
    "transaction",
    "recover",
    "exclusive",
    "missing-queue",
    "redeclare",
    "cancel-notify",
    "large-body",
    "close",
]

# Wants a broker that can be killed and started again, so it is asked for on its own.
RECOVERY = "recovery"
