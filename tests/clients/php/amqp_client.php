<?php
// The feature steps with php-amqp, PHP's extension over librabbitmq.
//
// Its calls block, and a time limit of the connection ends those that would wait for ever.
// consume() delivers to all consumers of a connection: steps with several start them first.

declare(strict_types=1);

require __DIR__ . '/feature.php';

function connect(string $host, int $port): AMQPConnection
{
    $connection = new AMQPConnection([
        'host' => $host, 'port' => $port, 'login' => 'guest', 'password' => 'guest',
        'connect_timeout' => 15, 'read_timeout' => WAIT_S, 'write_timeout' => WAIT_S,
        'rpc_timeout' => WAIT_S,
    ]);
    $connection->connect();
    return $connection;
}

/** What a step gets: a connection with one channel, and the means to open another. */
final class Scene
{
    public AMQPConnection $connection;
    public AMQPChannel $channel;

    public function __construct(public readonly string $host, public readonly int $port)
    {
        $this->connection = connect($host, $port);
        $this->channel = $this->openChannel();
    }

    public function openChannel(): AMQPChannel
    {
        $channel = new AMQPChannel($this->connection);
        // The extension's default is 3; steps that want a limit set it.
        $channel->qos(0, 0);
        return $channel;
    }

    /** A server-named exclusive queue. */
    public function queue(array $arguments = []): AMQPQueue
    {
        $queue = new AMQPQueue($this->channel);
        $queue->setFlags(AMQP_EXCLUSIVE);
        $queue->setArguments($arguments);
        $queue->declareQueue();
        return $queue;
    }

    public function exchange(string $kind): AMQPExchange
    {
        $exchange = new AMQPExchange($this->channel);
        $exchange->setName(name($kind));
        $exchange->setType($kind);
        $exchange->setFlags(AMQP_AUTODELETE);
        $exchange->declareExchange();
        return $exchange;
    }

    public function publish(AMQPQueue $queue, string $body, array $properties = []): void
    {
        $default = new AMQPExchange($this->channel);
        $default->publish($body, $queue->getName(), AMQP_NOPARAM, $properties);
    }

    /** Consumes count messages. */
    public function take(AMQPQueue $queue, int $count): array
    {
        $taken = [];
        $queue->consume(function (AMQPEnvelope $message) use (&$taken, $count): bool {
            $taken[] = $message;
            return count($taken) < $count;
        }, AMQP_AUTOACK);
        $queue->cancel();
        return $taken;
    }

    public function bodies(AMQPQueue $queue, int $count): array
    {
        return array_map(fn ($message) => $message->getBody(), $this->take($queue, $count));
    }
}

/** The same queue, as used on another channel. */
function on_channel(AMQPChannel $channel, string $name): AMQPQueue
{
    $queue = new AMQPQueue($channel);
    $queue->setName($name);
    return $queue;
}

/** How many messages wait in the queue: the answer to a passive declaration. */
function waiting(AMQPChannel $channel, AMQPQueue $queue): int
{
    $same = on_channel($channel, $queue->getName());
    $same->setFlags(AMQP_PASSIVE);
    return $same->declareQueue();
}

/** Demands that the broker closes the channel with this code; returns what it said. */
function refused(int $code, callable $call): string
{
    try {
        $call();
    } catch (AMQPException $error) {
        equal($error->getCode(), $code, "code of \"{$error->getMessage()}\"");
        return $error->getMessage();
    }
    throw new RuntimeException("not refused with $code");
}

/** The next message, which stays unacknowledged. */
function fetch(AMQPQueue $queue): AMQPEnvelope
{
    $message = $queue->get();
    check($message instanceof AMQPEnvelope, "{$queue->getName()} is empty");
    return $message;
}

function hello(Scene $s): void
{
    $queue = $s->queue();
    $s->publish($queue, 'Hello World!');
    equal($s->bodies($queue, 1), ['Hello World!'], 'bodies');
}

function work_queue(Scene $s): void
{
    $queue = $s->queue();
    // Not through the object that declared the queue: as that is exclusive, so are its consumers.
    $workers = [];
    foreach ([$s->channel, $s->openChannel()] as $channel) {
        $workers[] = $worker = on_channel($channel, $queue->getName());
        $worker->getChannel()->qos(0, 1);
        $worker->consume(null, AMQP_NOPARAM);
    }
    foreach (['0', '1', '2', '3'] as $task) {
        $s->publish($queue, $task, ['delivery_mode' => 2]);
    }
    $shares = [[], []];
    $deliver = function (int $wanted) use (&$shares, $workers, $queue): void {
        $tag = $workers[0]->getConsumerTag();
        $share = function (AMQPEnvelope $message, AMQPQueue $from) use (&$shares, $tag, $wanted) {
            $index = $from->getConsumerTag() === $tag ? 0 : 1;
            $shares[$index][] = $message;
            return count($shares[0]) + count($shares[1]) < $wanted;
        };
        $queue->consume($share, AMQP_JUST_CONSUME);
    };
    $deliver(2);
    for ($seen = 1; $seen <= 2; $seen++) {
        equal(array_map('count', $shares), [$seen, 1], 'deliveries so far');
        equal(waiting($s->channel, $queue), 3 - $seen, 'tasks held back');
        $queue->ack(end($shares[0])->getDeliveryTag());
        $deliver($seen + 2);
    }
    equal(array_map('count', $shares), [3, 1], 'shares');
    $bodies = array_map(fn ($message) => $message->getBody(), array_merge(...$shares));
    sort($bodies);
    equal($bodies, ['0', '1', '2', '3'], 'bodies');
}

function publish_subscribe(Scene $s): void
{
    $exchange = $s->exchange(AMQP_EX_TYPE_FANOUT);
    $queues = [$s->queue(), $s->queue(), $s->queue()];
    foreach ($queues as $queue) {
        check(str_starts_with($queue->getName(), 'amq.gen-'), $queue->getName());
        $queue->bind($exchange->getName());
    }
    $exchange->publish('to all', 'ignored');
    foreach ($queues as $queue) {
        equal($s->bodies($queue, 1), ['to all'], 'bodies');
    }
}

/** Binds one queue and publishes each key as its own body; returns what arrived. */
function route(Scene $s, string $kind, array $bindings, array $keys): array
{
    [$exchange, $queue] = [$s->exchange($kind), $s->queue()];
    foreach ($bindings as $binding) {
        $queue->bind($exchange->getName(), $binding);
    }
    foreach ($keys as $key) {
        $exchange->publish($key, $key);
    }
    $arrived = [];
    while ($message = $queue->get(AMQP_AUTOACK)) {
        $arrived[] = $message->getBody();
    }
    return $arrived;
}

function routing(Scene $s): void
{
    $keys = ['info', 'error', 'warning', 'debug'];
    $wanted = ['error', 'warning'];
    equal(route($s, AMQP_EX_TYPE_DIRECT, $wanted, $keys), $wanted, 'keys');
}

function topics(Scene $s): void
{
    $keys = ['quick.orange.rabbit', 'lazy.orange.elephant', 'quick.orange.fox', 'lazy',
        'lazy.pink.rabbit.x', 'orange', 'quick.orange.male.rabbit'];
    equal(
        route($s, AMQP_EX_TYPE_TOPIC, ['*.*.rabbit', 'lazy.#'], $keys),
        ['quick.orange.rabbit', 'lazy.orange.elephant', 'lazy', 'lazy.pink.rabbit.x'],
        'keys'
    );
}

/** Serves one request on a channel of its own; returns [correlation id, body] of the answer. */
function call(Scene $s, AMQPQueue $answers): array
{
    $requests = $s->queue();
    $server = $s->openChannel();
    $served = on_channel($server, $requests->getName());
    $answers->consume(null, AMQP_AUTOACK);
    $served->consume(null, AMQP_NOPARAM);
    $s->publish($requests, '21', ['reply_to' => $answers->getName(), 'correlation_id' => 'call-7']);
    $answer = [];
    $serve = function (AMQPEnvelope $message, AMQPQueue $from) use (&$answer, $server, $served) {
        if ($from->getConsumerTag() !== $served->getConsumerTag()) {
            $answer = [$message->getCorrelationId(), $message->getBody()];
            return false;
        }
        (new AMQPExchange($server))->publish(
            (string) (2 * (int) $message->getBody()), $message->getReplyTo(), AMQP_NOPARAM,
            ['correlation_id' => $message->getCorrelationId()]
        );
        $from->ack($message->getDeliveryTag());
        return true;
    };
    $served->consume($serve, AMQP_JUST_CONSUME);
    return $answer;
}

function rpc(Scene $s): void
{
    equal(call($s, $s->queue()), ['call-7', '42'], 'answer');
}

function direct_reply_to(Scene $s): void
{
    equal(call($s, on_channel($s->channel, 'amq.rabbitmq.reply-to')), ['call-7', '42'], 'answer');
}

function confirms(Scene $s): void
{
    $queue = $s->queue();
    $confirmed = [];
    $published = 0;
    $s->channel->setConfirmCallback(
        function (int $tag, bool $multiple) use (&$confirmed, &$published): bool {
            foreach ($multiple ? range(1, $tag) : [$tag] as $each) {
                $confirmed[$each] = true;
            }
            return count($confirmed) < $published;
        },
        fn (int $tag) => throw new RuntimeException("nack of $tag")
    );
    $s->channel->confirmSelect();
    $published = 1;
    $s->publish($queue, 'single', ['delivery_mode' => 2]);
    $s->channel->waitForConfirm(WAIT_S);
    equal(array_keys($confirmed), [1], 'confirms');
    $published = 1001;
    for ($number = 0; $number < 1000; $number++) {
        $s->publish($queue, (string) $number);
    }
    $s->channel->waitForConfirm(WAIT_S);
    equal(count($confirmed), 1001, 'confirms');
    equal(waiting($s->channel, $queue), 1001, 'messages');
}

function mandatory_return(Scene $s): void
{
    $returns = [];
    $s->channel->setReturnCallback(
        function (
            int $code, string $text, string $exchange, string $key,
            AMQPBasicProperties $properties, string $body
        ) use (&$returns): bool {
            $returns[] = [$code, $text, $exchange, $key, $properties->getMessageId(), $body];
            return true;
        }
    );
    // The return comes before the confirm, which ends the wait.
    $s->channel->setConfirmCallback(fn () => false, fn () => false);
    $s->channel->confirmSelect();
    $default = new AMQPExchange($s->channel);
    $default->publish('back to me', name('nowhere'), AMQP_MANDATORY, ['message_id' => 'm-1']);
    $s->channel->waitForConfirm(WAIT_S);
    equal($returns, [[312, 'NO_ROUTE', '', name('nowhere'), 'm-1', 'back to me']], 'returns');
}

function get(Scene $s): void
{
    $queue = $s->queue();
    check(!$queue->get(AMQP_AUTOACK), 'get of an empty queue');
    $s->publish($queue, 'one');
    $s->publish($queue, 'two');
    $message = $queue->get(AMQP_AUTOACK);
    equal([$message->getBody(), $message->isRedelivery()], ['one', false], 'get');
    // The extension hides the count in the answer to get.
    equal(waiting($s->channel, $queue), 1, 'messages left');
}

function requeue(Scene $s): void
{
    $queue = $s->queue();
    $s->publish($queue, 'again');
    $queue->nack(fetch($queue)->getDeliveryTag(), AMQP_REQUEUE);
    $message = fetch($queue);
    equal([$message->getBody(), $message->isRedelivery()], ['again', true], 'second delivery');
    $queue->reject($message->getDeliveryTag());
    check(!$queue->get(), 'get after reject');
}

function dead_letters_to(AMQPQueue $graveyard): array
{
    return ['x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => $graveyard->getName()];
}

function dead_letter(Scene $s): void
{
    $graveyard = $s->queue();
    $queue = $s->queue(dead_letters_to($graveyard));
    $s->publish($queue, 'dead', ['headers' => ['mine' => 1]]);
    $queue->nack(fetch($queue)->getDeliveryTag());
    [$message] = $s->take($graveyard, 1);
    $headers = $message->getHeaders();
    equal([$message->getBody(), $headers['mine']], ['dead', 1], 'message');
    equal(count($headers['x-death']), 1, 'deaths');
    [$death] = $headers['x-death'];
    check($death['time'] instanceof AMQPTimestamp, 'type of the time of death');
    $ago_s = time() - (int) $death['time']->getTimestamp();
    check(abs($ago_s) < 60, "time of death {$death['time']}");
    unset($death['time']);
    ksort($death);
    equal($death, ['count' => 1, 'exchange' => '', 'queue' => $queue->getName(),
        'reason' => 'rejected', 'routing-keys' => [$queue->getName()]], 'x-death');
    equal($headers['x-first-death-reason'], 'rejected', 'x-first-death-reason');
}

function ttl(Scene $s): void
{
    $graveyard = $s->queue();
    $by_queue = $s->queue(['x-message-ttl' => 50] + dead_letters_to($graveyard));
    $by_message = $s->queue(dead_letters_to($graveyard));
    foreach ([[$by_queue, []], [$by_message, ['expiration' => '60']]] as [$queue, $properties]) {
        $s->publish($queue, $queue->getName(), $properties);
        [$message] = $s->take($graveyard, 1);
        [$death] = $message->getHeader('x-death');
        equal(
            [$message->getBody(), $death['queue'], $death['reason']],
            [$queue->getName(), $queue->getName(), 'expired'],
            'death'
        );
        // The extension's value of an absent property.
        equal($message->getExpiration(), '', 'expiration after death');
    }
}

function priority(Scene $s): void
{
    $queue = $s->queue(['x-max-priority' => 9]);
    foreach ([1, 5, 0, 9, 5] as $level) {
        $s->publish($queue, (string) $level, ['priority' => $level]);
    }
    equal($s->bodies($queue, 5), ['9', '5', '5', '1', '0'], 'order');
}

function headers(Scene $s): void
{
    $exchange = $s->exchange(AMQP_EX_TYPE_HEADERS);
    [$both, $either] = [$s->queue(), $s->queue()];
    $pdf = ['format' => 'pdf', 'pages' => 3];
    foreach ([[$both, 'all'], [$either, 'any']] as [$queue, $match]) {
        $queue->bind($exchange->getName(), '', ['x-match' => $match] + $pdf);
    }
    foreach ([$pdf, ['format' => 'pdf'], ['pages' => 4]] as $number => $fields) {
        $exchange->publish((string) $number, '', AMQP_NOPARAM, ['headers' => $fields]);
    }
    equal($s->bodies($either, 2), ['0', '1'], 'any');
    equal($s->bodies($both, 1), ['0'], 'all');
    check(!$both->get() && !$either->get(), 'get after all');
}

function transaction(Scene $s): void
{
    $queue = $s->queue();
    $s->channel->startTransaction();
    $s->publish($queue, 'undone');
    $s->channel->rollbackTransaction();
    $s->publish($queue, 'done');
    equal(waiting($s->channel, $queue), 0, 'before commit');
    $s->channel->commitTransaction();
    $message = fetch($queue);
    equal($message->getBody(), 'done', 'body');
    $queue->ack($message->getDeliveryTag());
    $s->channel->rollbackTransaction();
    $s->channel->basicRecover(true);
    equal(fetch($queue)->isRedelivery(), true, 'redelivered after rollback of an ack');
}

function recover(Scene $s): void
{
    $queue = $s->queue();
    foreach (['one', 'two'] as $body) {
        $s->publish($queue, $body);
    }
    foreach ([false, true] as $again) {
        foreach (['one', 'two'] as $body) {
            $message = fetch($queue);
            equal([$message->getBody(), $message->isRedelivery()], [$body, $again], 'delivery');
        }
        $s->channel->basicRecover(true);
    }
}

function exclusive(Scene $s): void
{
    $queue = $s->queue();
    $second = connect($s->host, $s->port);
    $said = refused(405, fn () => waiting(new AMQPChannel($second), $queue));
    check(str_contains($said, ' RESOURCE_LOCKED'), $said);
    $second->disconnect();
}

function missing_queue(Scene $s): void
{
    $missing = on_channel($s->channel, name('missing'));
    $said = refused(404, fn () => waiting($s->channel, $missing));
    check(str_contains($said, " NOT_FOUND - no queue '{$missing->getName()}'"), $said);
    $open = [$s->channel->isConnected(), $s->connection->isConnected()];
    equal($open, [false, true], 'what is open');
    $s->channel = $s->openChannel();
    hello($s);
}

function redeclare(Scene $s): void
{
    $queue = on_channel($s->channel, name('redeclared'));
    $queue->setFlags(AMQP_EXCLUSIVE);
    $queue->declareQueue();
    $queue->setArgument('x-max-length', 5);
    $said = refused(406, fn () => $queue->declareQueue());
    check(str_contains($said, " PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), $said);
}

function large_body(Scene $s): void
{
    $body = str_repeat(implode('', array_map('chr', range(0, 255))), 4096);
    $queue = $s->queue();
    $s->publish($queue, $body, ['delivery_mode' => 2]);
    [$received] = $s->bodies($queue, 1);
    check($received === $body, strlen($received) . ' bytes, not the same');
}

function close(Scene $s): void
{
    $queue = $s->queue();
    $s->connection->disconnect();
    check(!$s->connection->isConnected(), 'still connected');
    $second = connect($s->host, $s->port);
    refused(404, fn () => waiting(new AMQPChannel($second), $queue));
    $second->disconnect();
}

/** The extension does not connect anew by itself: the program notices the loss, and does. */
function recovery(Scene $s): void
{
    hello($s);
    wait_for_restart();
    try {
        hello($s);
    } catch (AMQPException $error) {
        check(!$s->connection->isConnected(), "still connected after \"{$error->getMessage()}\"");
    }
    check(isset($error), 'the lost connection was not noticed');
    $s->connection->reconnect();
    $s->channel = $s->openChannel();
    hello($s);
    publish_subscribe($s);
}

const STEPS = [
    'hello' => 'hello',
    'work-queue' => 'work_queue',
    'publish-subscribe' => 'publish_subscribe',
    'routing' => 'routing',
    'topics' => 'topics',
    'rpc' => 'rpc',
    'direct-reply-to' => 'direct_reply_to',
    'confirms' => 'confirms',
    'mandatory-return' => 'mandatory_return',
    'get' => 'get',
    'requeue' => 'requeue',
    'dead-letter' => 'dead_letter',
    'ttl' => 'ttl',
    'priority' => 'priority',
    'headers' => 'headers',
    'transaction' => 'transaction',
    'recover' => 'recover',
    'exclusive' => 'exclusive',
    'missing-queue' => 'missing_queue',
    'redeclare' => 'redeclare',
    'large-body' => 'large_body',
    'close' => 'close',
    'recovery' => 'recovery',
];

run(STEPS, function (string $host, int $port, callable $step): void {
    $scene = new Scene($host, $port);
    try {
        $step($scene);
    } finally {
        $scene->connection->disconnect();
    }
});
