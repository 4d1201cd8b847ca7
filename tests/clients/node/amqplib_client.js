// The feature steps with amqplib's promises; recovery is its own, switched on.
import { randomUUID } from "node:crypto";
import amqplib from "amqplib";
import { check, equal, Inbox, name, run, waitForRestart, within } from "./feature.js";

const text = (message) => message.content.toString();
const texts = (messages) => messages.map(text);

/** What a step gets: a connection with one channel, and the means to open another. */
class Context {
  constructor(host, port) {
    this.url = { protocol: "amqp", hostname: host, port, username: "guest", password: "guest" };
  }

  async open() {
    this.connection = await this.connect();
    this.channel = await this.openChannel();
  }

  async connect(options = {}) {
    const connection = await amqplib.connect(this.url, { timeout: 15_000, ...options });
    // Without a listener, losing the connection would end the process.
    connection.on("error", () => {});
    return connection;
  }

  async openChannel(connection = this.connection) {
    return quiet(await connection.createChannel());
  }

  /** A server-named exclusive queue. */
  async queue(queueArguments = {}) {
    const options = { exclusive: true, arguments: queueArguments };
    return (await this.channel.assertQueue("", options)).queue;
  }

  async exchange(kind) {
    const options = { durable: false, autoDelete: true };
    return (await this.channel.assertExchange(name(kind), kind, options)).exchange;
  }

  publish(queue, body, properties) {
    this.channel.sendToQueue(queue, Buffer.from(body), properties);
  }

  /** Consumes count messages. */
  async take(queue, count) {
    const inbox = new Inbox();
    const { consumerTag } = await this.channel.consume(queue, inbox.put, { noAck: true });
    const taken = await inbox.have(count);
    await this.channel.cancel(consumerTag);
    return taken;
  }

  async bodies(queue, count) {
    return texts(await this.take(queue, count));
  }

  async count(queue) {
    return (await this.channel.checkQueue(queue)).messageCount;
  }

  get(queue, options = { noAck: true }) {
    return this.channel.get(queue, options);
  }
}

/** A channel whose refusals are errors of the calls that cause them, and nothing else. */
function quiet(channel) {
  channel.on("error", () => {});
  return channel;
}

/** Demands that the broker closes the channel with this code; returns what it said. */
async function refused(code, call) {
  try {
    await call;
  } catch (error) {
    equal(error.code, code, `reply code of "${error.message}"`);
    return error.message;
  }
  throw new Error(`not refused with ${code}`);
}

async function hello(c) {
  const queue = await c.queue();
  c.publish(queue, "Hello World!");
  equal(await c.bodies(queue, 1), ["Hello World!"], "bodies");
}

async function workQueue(c) {
  const queue = await c.queue();
  const channels = [c.channel, await c.openChannel()];
  const shares = [new Inbox(), new Inbox()];
  for (const [index, channel] of channels.entries()) {
    await channel.prefetch(1);
    await channel.consume(queue, shares[index].put);
  }
  for (let number = 0; number < 4; number++) c.publish(queue, `${number}`, { persistent: true });
  for (const share of shares) await share.have(1);
  while ((await c.count(queue)) !== 2);
  equal(shares.map((share) => share.items.length), [1, 1], "unacknowledged deliveries");
  for (let seen = 1; seen < 3; seen++) {
    channels[0].ack(shares[0].items.at(-1));
    await shares[0].have(seen + 1);
  }
  equal(shares.map((share) => share.items.length), [3, 1], "shares");
  equal(shares.flatMap((share) => texts(share.items)).sort(), ["0", "1", "2", "3"], "bodies");
}

async function publishSubscribe(c) {
  const exchange = await c.exchange("fanout");
  const queues = [await c.queue(), await c.queue(), await c.queue()];
  for (const queue of queues) {
    check(queue.startsWith("amq.gen-"), queue);
    await c.channel.bindQueue(queue, exchange, "");
  }
  c.channel.publish(exchange, "ignored", Buffer.from("to all"));
  for (const queue of queues) equal(await c.bodies(queue, 1), ["to all"], "bodies");
}

/** Binds one queue and publishes each key as its own body; returns what arrived. */
async function route(c, kind, bindings, keys) {
  const exchange = await c.exchange(kind);
  const queue = await c.queue();
  for (const binding of bindings) await c.channel.bindQueue(queue, exchange, binding);
  for (const key of keys) c.channel.publish(exchange, key, Buffer.from(key));
  const arrived = [];
  for (let message; (message = await c.get(queue));) arrived.push(text(message));
  return arrived;
}

async function routing(c) {
  const keys = ["info", "error", "warning", "debug"];
  equal(await route(c, "direct", ["error", "warning"], keys), ["error", "warning"], "keys");
}

async function topics(c) {
  const keys = ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy",
    "lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit"];
  equal(await route(c, "topic", ["*.*.rabbit", "lazy.#"], keys),
    ["quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"], "keys");
}

/** Serves requests on a channel of their own; returns [correlation id, body] of the answer. */
async function call(c, replyTo, requests) {
  const server = await c.openChannel();
  const answers = new Inbox();
  await server.consume(requests, (request) => {
    const { replyTo: queue, correlationId } = request.properties;
    server.sendToQueue(queue, Buffer.from(`${Number(text(request)) * 2}`), { correlationId });
    server.ack(request);
  });
  await c.channel.consume(replyTo, answers.put, { noAck: true });
  c.publish(requests, "21", { replyTo, correlationId: "call-7" });
  const [answer] = await answers.have(1, "the answer");
  return [answer.properties.correlationId, text(answer)];
}

async function rpc(c) {
  equal(await call(c, await c.queue(), await c.queue()), ["call-7", "42"], "answer");
}

async function directReplyTo(c) {
  equal(await call(c, "amq.rabbitmq.reply-to", await c.queue()), ["call-7", "42"], "answer");
}

async function confirms(c) {
  const queue = await c.queue();
  const channel = quiet(await c.connection.createConfirmChannel());
  await within(new Promise((resolve, reject) => {
    channel.sendToQueue(queue, Buffer.from("single"), { persistent: true },
      (error) => (error ? reject(error) : resolve()));
  }), "the confirm");
  // All are published before the first confirm is looked at.
  for (let number = 0; number < 1000; number++) channel.sendToQueue(queue, Buffer.from(`${number}`));
  await within(channel.waitForConfirms(), "1000 confirms");
  equal(await c.count(queue), 1001, "messages");
}

async function mandatoryReturn(c) {
  const channel = quiet(await c.connection.createConfirmChannel());
  const returned = new Inbox();
  channel.on("return", returned.put);
  channel.publish("", name("nowhere"), Buffer.from("back to me"), { mandatory: true });
  await within(channel.waitForConfirms(), "the confirm, which comes after the return");
  equal(returned.items.map(({ fields, content }) =>
    [fields.replyCode, fields.replyText, fields.exchange, fields.routingKey, `${content}`]),
  [[312, "NO_ROUTE", "", name("nowhere"), "back to me"]], "return");
}

async function get(c) {
  const queue = await c.queue();
  equal(await c.get(queue), false, "get of an empty queue");
  c.publish(queue, "one");
  c.publish(queue, "two");
  const message = await c.get(queue);
  const { messageCount, redelivered } = message.fields;
  equal([text(message), messageCount, redelivered], ["one", 1, false], "get");
}

async function requeue(c) {
  const queue = await c.queue();
  c.publish(queue, "again");
  c.channel.nack(await c.get(queue, {}), false, true);
  const message = await c.get(queue, {});
  equal([text(message), message.fields.redelivered], ["again", true], "second delivery");
  c.channel.reject(message, false);
  equal(await c.get(queue), false, "get after reject");
}

function deadLettersTo(queue) {
  return { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue };
}

async function deadLetter(c) {
  const graveyard = await c.queue();
  const queue = await c.queue(deadLettersTo(graveyard));
  c.publish(queue, "dead", { headers: { mine: 1 } });
  c.channel.nack(await c.get(queue, {}), false, false);
  const [message] = await c.take(graveyard, 1);
  const { headers } = message.properties;
  equal([text(message), headers.mine], ["dead", 1], "message");
  const [{ time, ...death }, ...others] = headers["x-death"];
  equal(time["!"], "timestamp", "type of the time of death");
  check(Math.abs(time.value - Date.now() / 1000) < 60, `time of death ${time.value}`);
  equal(death, { count: 1, exchange: "", queue, reason: "rejected", "routing-keys": [queue] },
    "x-death");
  equal(others, [], "further deaths");
  equal(headers["x-first-death-reason"], "rejected", "x-first-death-reason");
}

async function ttl(c) {
  const graveyard = await c.queue();
  const byQueue = await c.queue({ "x-message-ttl": 50, ...deadLettersTo(graveyard) });
  const byMessage = await c.queue(deadLettersTo(graveyard));
  for (const [queue, properties] of [[byQueue, {}], [byMessage, { expiration: "60" }]]) {
    c.publish(queue, queue, properties);
    const [message] = await c.take(graveyard, 1);
    const [death] = message.properties.headers["x-death"];
    equal([text(message), death.queue, death.reason], [queue, queue, "expired"], "death");
    equal(message.properties.expiration, undefined, "expiration after death");
  }
}

async function priority(c) {
  const queue = await c.queue({ "x-max-priority": 9 });
  for (const level of [1, 5, 0, 9, 5]) c.publish(queue, `${level}`, { priority: level });
  equal(await c.bodies(queue, 5), ["9", "5", "5", "1", "0"], "order");
}

async function headers(c) {
  const exchange = await c.exchange("headers");
  const [both, either] = [await c.queue(), await c.queue()];
  for (const [queue, match] of [[both, "all"], [either, "any"]]) {
    await c.channel.bindQueue(queue, exchange, "", { "x-match": match, format: "pdf", pages: 3 });
  }
  for (const [number, fields] of [{ format: "pdf", pages: 3 }, { format: "pdf" }, { pages: 4 }].entries()) {
    c.channel.publish(exchange, "", Buffer.from(`${number}`), { headers: fields });
  }
  equal(await c.bodies(either, 2), ["0", "1"], "any");
  equal(await c.bodies(both, 1), ["0"], "all");
  equal([await c.get(both), await c.get(either)], [false, false], "get after all");
}

async function recover(c) {
  const queue = await c.queue();
  c.publish(queue, "one");
  c.publish(queue, "two");
  const getTwo = async () => [await c.get(queue, {}), await c.get(queue, {})];
  equal(texts(await getTwo()), ["one", "two"], "first time");
  await c.channel.recover();
  equal((await getTwo()).map((message) => [message.fields.redelivered, text(message)]),
    [[true, "one"], [true, "two"]], "again");
}

async function exclusive(c) {
  const queue = await c.queue();
  const second = await c.connect();
  const channel = await c.openChannel(second);
  const said = await refused(405, channel.checkQueue(queue));
  check(said.includes('"RESOURCE_LOCKED'), said);
  await second.close();
}

async function missingQueue(c) {
  const said = await refused(404, c.channel.checkQueue(name("missing")));
  check(said.includes(`"NOT_FOUND - no queue '${name("missing")}'`), said);
  try {
    c.publish(name("missing"), "on a closed channel");
  } catch (error) {
    check(error instanceof amqplib.IllegalOperationError, `${error}`);
    c.channel = await c.openChannel();
    await hello(c);
    return;
  }
  throw new Error("the channel is still open");
}

async function redeclare(c) {
  const queue = name("redeclared");
  await c.channel.assertQueue(queue, { exclusive: true });
  const said = await refused(406, c.channel.assertQueue(queue, { exclusive: true, maxLength: 5 }));
  check(said.includes("\"PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), said);
}

async function cancelNotify(c) {
  const queue = await c.queue();
  const arrived = new Inbox();
  await c.channel.consume(queue, arrived.put);
  await (await c.openChannel()).deleteQueue(queue);
  // amqplib calls the consumer with null.
  equal(await arrived.have(1, "the cancel"), [null], "what the consumer was called with");
}

async function largeBody(c) {
  const body = Buffer.alloc(1 << 20, Buffer.from(Array.from({ length: 256 }, (_, octet) => octet)));
  const queue = await c.queue();
  c.publish(queue, body, { persistent: true });
  const [received] = await c.take(queue, 1);
  check(received.content.equals(body), `${received.content.length} bytes, not the same`);
}

async function close(c) {
  const queue = await c.queue();
  const closed = new Promise((resolve) => { c.connection.once("close", resolve); });
  await c.connection.close();
  await within(closed, "the connection's close event");
  c.connection = await c.connect();
  await refused(404, (await c.openChannel()).checkQueue(queue));
}

/** amqplib connects anew by itself, and calls setup for what the broker has forgotten. */
async function recovery(c) {
  const exchange = name("recovered");
  const arrived = new Inbox();
  const setup = async (connection) => {
    const channel = await c.openChannel(connection);
    await channel.assertExchange(exchange, "direct", { durable: false, autoDelete: true });
    const { queue } = await channel.assertQueue("", { exclusive: true });
    await channel.bindQueue(queue, exchange, "restored");
    await channel.consume(queue, (message) => arrived.put(text(message)), { noAck: true });
  };
  await c.connection.close();
  c.connection = await c.connect({ recovery: { initialDelay: 100, maxDelay: 500, setup } });
  const happened = new Inbox();
  for (const event of ["disconnect", "connect"]) {
    c.connection.on(event, () => happened.put(event));
  }
  c.channel = await c.openChannel();
  c.channel.publish(exchange, "restored", Buffer.from("before"));
  equal(await arrived.have(1), ["before"], "bodies");

  await waitForRestart();
  equal(await happened.have(2, "the connection's return"), ["disconnect", "connect"], "events");
  c.channel = await c.openChannel();
  const token = randomUUID();
  c.channel.publish(exchange, "restored", Buffer.from(token));
  equal(await arrived.have(2), ["before", token], "bodies");
  await hello(c);
  await publishSubscribe(c);
}

const STEPS = {
  "hello": hello,
  "work-queue": workQueue,
  "publish-subscribe": publishSubscribe,
  "routing": routing,
  "topics": topics,
  "rpc": rpc,
  "direct-reply-to": directReplyTo,
  "confirms": confirms,
  "mandatory-return": mandatoryReturn,
  "get": get,
  "requeue": requeue,
  "dead-letter": deadLetter,
  "ttl": ttl,
  "priority": priority,
  "headers": headers,
  "recover": recover,
  "exclusive": exclusive,
  "missing-queue": missingQueue,
  "redeclare": redeclare,
  "cancel-notify": cancelNotify,
  "large-body": largeBody,
  "close": close,
  "recovery": recovery,
};

async function perform(host, port, step) {
  const context = new Context(host, port);
  await context.open();
  try {
    await step(context);
  } finally {
    await context.connection.close();
  }
}

await run(STEPS, perform);
