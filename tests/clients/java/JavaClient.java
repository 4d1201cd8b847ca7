import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.Method;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.Return;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.Closeable;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;

/** The feature steps with RabbitMQ's own Java client; recovery is its own, too. */
final class JavaClient {
    private static final BasicProperties NONE = new BasicProperties();
    private static final int LIMIT_MS = (int) TimeUnit.SECONDS.toMillis(Feature.WAIT_S);
    private static final int CONFIRMED_MESSAGES = 1000;

    private JavaClient() {}

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] body) {
        return new String(body, StandardCharsets.UTF_8);
    }

    private static List<String> texts(List<Delivery> deliveries) {
        return deliveries.stream().map(each -> text(each.getBody())).collect(Collectors.toList());
    }

    private static BasicProperties.Builder properties() {
        return new BasicProperties.Builder();
    }

    /** A value of a table with strings as Java has them. */
    private static Object plain(Object value) {
        if (value instanceof LongString) {
            return value.toString();
        }
        if (value instanceof List<?> list) {
            return list.stream().map(JavaClient::plain).collect(Collectors.toList());
        }
        if (value instanceof Map<?, ?> table) {
            Map<Object, Object> strings = new HashMap<>();
            table.forEach((key, each) -> strings.put(key, plain(each)));
            return strings;
        }
        return value;
    }

    /** What a step gets: a connection with one channel, and the means to open another. */
    private static final class Scene implements Closeable {
        private final ConnectionFactory factory = new ConnectionFactory();
        private Connection connection;
        private Channel channel;

        Scene(String host, int port) throws IOException, TimeoutException {
            factory.setHost(host);
            factory.setPort(port);
            factory.setConnectionTimeout(15_000);
            factory.setChannelRpcTimeout(LIMIT_MS);
            factory.setAutomaticRecoveryEnabled(false);
            connection = connect();
            channel = connection.createChannel();
        }

        Connection connect() throws IOException, TimeoutException {
            return factory.newConnection();
        }

        @Override
        public void close() throws IOException {
            if (connection.isOpen()) {
                connection.close();
            }
        }

        String queue() throws IOException {
            return queue(Map.of());
        }

        /** A server-named exclusive queue. */
        String queue(Map<String, Object> arguments) throws IOException {
            return channel.queueDeclare("", false, true, false, arguments).getQueue();
        }

        String exchange(String kind) throws IOException {
            channel.exchangeDeclare(Feature.name(kind), kind, false, true, null);
            return Feature.name(kind);
        }

        void publish(String queue, String body) throws IOException {
            publish(queue, body, NONE);
        }

        void publish(String queue, String body, BasicProperties properties) throws IOException {
            channel.basicPublish("", queue, properties, bytes(body));
        }

        /** Consumes count messages. */
        List<Delivery> take(String queue, int count) throws Exception {
            Feature.Inbox<Delivery> inbox = new Feature.Inbox<>();
            String tag = consume(channel, queue, true, inbox);
            List<Delivery> taken = inbox.have(count, count + " messages");
            channel.basicCancel(tag);
            return taken;
        }

        List<String> bodies(String queue, int count) throws Exception {
            return texts(take(queue, count));
        }

        /** The next message, which stays unacknowledged. */
        GetResponse fetch(String queue) throws IOException {
            GetResponse message = channel.basicGet(queue, false);
            Feature.check(message != null, queue + " is empty");
            return message;
        }

        boolean isEmpty(String queue) throws IOException {
            return channel.basicGet(queue, true) == null;
        }
    }

    private static String consume(Channel channel, String queue, boolean autoAck,
        Feature.Inbox<Delivery> inbox) throws IOException {
        return channel.basicConsume(queue, autoAck, (tag, delivery) -> inbox.put(delivery),
            tag -> { });
    }

    /** A call that the broker is expected to refuse. */
    private interface Call {
        void make() throws Exception;
    }

    /** Demands that the broker closes the channel with this code; returns what it said. */
    private static String refused(int code, Call call) throws Exception {
        try {
            call.make();
        } catch (IOException error) {
            Feature.check(error.getCause() instanceof ShutdownSignalException, error.toString());
            ShutdownSignalException signal = (ShutdownSignalException) error.getCause();
            Method reason = signal.getReason();
            Feature.check(reason instanceof AMQP.Channel.Close, "reason " + reason);
            AMQP.Channel.Close close = (AMQP.Channel.Close) reason;
            Feature.equal(close.getReplyCode(), code, "reply code of " + close.getReplyText());
            Feature.check(!signal.isInitiatedByApplication(), "closed by the program");
            return close.getReplyText();
        }
        throw new AssertionError("not refused with " + code);
    }

    private static void hello(Scene s) throws Exception {
        String queue = s.queue();
        s.publish(queue, "Hello World!");
        Feature.equal(s.bodies(queue, 1), List.of("Hello World!"), "bodies");
    }

    private static void workQueue(Scene s) throws Exception {
        String queue = s.queue();
        List<Channel> channels = List.of(s.channel, s.connection.createChannel());
        List<Feature.Inbox<Delivery>> shares =
            List.of(new Feature.Inbox<>(), new Feature.Inbox<>());
        for (int worker = 0; worker < 2; worker++) {
            channels.get(worker).basicQos(1);
            consume(channels.get(worker), queue, false, shares.get(worker));
        }
        for (int number = 0; number < 4; number++) {
            s.publish(queue, "" + number, properties().deliveryMode(2).build());
        }
        shares.get(1).have(1, "the other's task");
        for (int seen = 1; seen <= 2; seen++) {
            Delivery last = shares.get(0).have(seen, "the next task").get(seen - 1);
            Feature.equal(s.channel.messageCount(queue), 3L - seen, "tasks held back");
            s.channel.basicAck(last.getEnvelope().getDeliveryTag(), false);
        }
        shares.get(0).have(3, "the last task");
        List<String> bodies = new ArrayList<>(texts(shares.get(0).items()));
        bodies.addAll(texts(shares.get(1).items()));
        Feature.equal(shares.get(1).items().size(), 1, "the other's share");
        Feature.equal(bodies.stream().sorted().collect(Collectors.toList()),
            List.of("0", "1", "2", "3"), "bodies");
    }

    private static void publishSubscribe(Scene s) throws Exception {
        String exchange = s.exchange("fanout");
        List<String> queues = List.of(s.queue(), s.queue(), s.queue());
        for (String queue : queues) {
            Feature.check(queue.startsWith("amq.gen-"), queue);
            s.channel.queueBind(queue, exchange, "");
        }
        s.channel.basicPublish(exchange, "ignored", NONE, bytes("to all"));
        for (String queue : queues) {
            Feature.equal(s.bodies(queue, 1), List.of("to all"), "bodies");
        }
    }

    /** Binds one queue and publishes each key as its own body; returns what arrived. */
    private static List<String> route(Scene s, String kind, List<String> bindings,
        List<String> keys) throws IOException {
        String exchange = s.exchange(kind);
        String queue = s.queue();
        for (String binding : bindings) {
            s.channel.queueBind(queue, exchange, binding);
        }
        for (String key : keys) {
            s.channel.basicPublish(exchange, key, NONE, bytes(key));
        }
        List<String> arrived = new ArrayList<>();
        GetResponse message;
        while ((message = s.channel.basicGet(queue, true)) != null) {
            arrived.add(text(message.getBody()));
        }
        return arrived;
    }

    private static void routing(Scene s) throws Exception {
        List<String> wanted = List.of("error", "warning");
        Feature.equal(route(s, "direct", wanted, List.of("info", "error", "warning", "debug")),
            wanted, "keys");
    }

    private static void topics(Scene s) throws Exception {
        List<String> keys = List.of("quick.orange.rabbit", "lazy.orange.elephant",
            "quick.orange.fox", "lazy", "lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit");
        Feature.equal(route(s, "topic", List.of("*.*.rabbit", "lazy.#"), keys),
            List.of("quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"),
            "keys");
    }

    /** Serves requests on a channel of their own, and demands the right answer. */
    private static void call(Scene s, String replyTo) throws Exception {
        String requests = s.queue();
        Channel server = s.connection.createChannel();
        server.basicConsume(requests, false, (tag, request) -> {
            int number = Integer.parseInt(text(request.getBody()));
            BasicProperties asked = request.getProperties();
            server.basicPublish("", asked.getReplyTo(),
                properties().correlationId(asked.getCorrelationId()).build(),
                bytes("" + 2 * number));
            server.basicAck(request.getEnvelope().getDeliveryTag(), false);
        }, tag -> { });
        Feature.Inbox<Delivery> answers = new Feature.Inbox<>();
        consume(s.channel, replyTo, true, answers);
        s.publish(requests, "21", properties().replyTo(replyTo).correlationId("call-7").build());
        Delivery answer = answers.have(1, "the answer").get(0);
        Feature.equal(List.of(answer.getProperties().getCorrelationId(), text(answer.getBody())),
            List.of("call-7", "42"), "answer");
    }

    private static void rpc(Scene s) throws Exception {
        call(s, s.queue());
    }

    private static void directReplyTo(Scene s) throws Exception {
        call(s, "amq.rabbitmq.reply-to");
    }

    private static void confirms(Scene s) throws Exception {
        String queue = s.queue();
        s.channel.confirmSelect();
        s.publish(queue, "single", properties().deliveryMode(2).build());
        Feature.check(s.channel.waitForConfirms(LIMIT_MS), "the single message was refused");
        // All are published before the first confirm is waited for.
        for (int number = 0; number < CONFIRMED_MESSAGES; number++) {
            s.publish(queue, "" + number);
        }
        Feature.check(s.channel.waitForConfirms(LIMIT_MS), "some messages were refused");
        Feature.equal(s.channel.messageCount(queue), CONFIRMED_MESSAGES + 1L, "messages");
    }

    private static void mandatoryReturn(Scene s) throws Exception {
        Feature.Inbox<Return> returns = new Feature.Inbox<>();
        s.channel.addReturnListener(returns::put);
        s.channel.confirmSelect();
        s.channel.basicPublish("", Feature.name("nowhere"), true, NONE, bytes("back to me"));
        Feature.check(s.channel.waitForConfirms(LIMIT_MS), "refused");
        // The return comes before its confirm.
        Feature.equal(returns.items().size(), 1, "returns");
        Return returned = returns.items().get(0);
        Feature.equal(List.of(returned.getReplyCode(), returned.getReplyText(),
            returned.getExchange(), returned.getRoutingKey(), text(returned.getBody())),
            List.of(312, "NO_ROUTE", "", Feature.name("nowhere"), "back to me"), "return");
    }

    private static void get(Scene s) throws Exception {
        String queue = s.queue();
        Feature.check(s.isEmpty(queue), "a new queue is not empty");
        s.publish(queue, "one");
        s.publish(queue, "two");
        GetResponse message = s.channel.basicGet(queue, true);
        Feature.equal(List.of(text(message.getBody()), message.getMessageCount(),
            message.getEnvelope().isRedeliver()), List.of("one", 1, false), "get");
    }

    private static void requeue(Scene s) throws Exception {
        String queue = s.queue();
        s.publish(queue, "again");
        s.channel.basicNack(s.fetch(queue).getEnvelope().getDeliveryTag(), false, true);
        GetResponse message = s.fetch(queue);
        Feature.equal(List.of(text(message.getBody()), message.getEnvelope().isRedeliver()),
            List.of("again", true), "second delivery");
        s.channel.basicReject(message.getEnvelope().getDeliveryTag(), false);
        Feature.check(s.isEmpty(queue), "the rejected message is not gone");
    }

    private static Map<String, Object> deadLettersTo(String queue) {
        return new HashMap<>(
            Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", queue));
    }

    /** The one entry of the x-death header. */
    private static Map<?, ?> onlyDeath(Delivery dead) {
        Object deaths = plain(dead.getProperties().getHeaders().get("x-death"));
        Feature.check(deaths instanceof List<?> list && list.size() == 1, "x-death " + deaths);
        return (Map<?, ?>) ((List<?>) deaths).get(0);
    }

    private static void deadLetter(Scene s) throws Exception {
        String graveyard = s.queue();
        String queue = s.queue(deadLettersTo(graveyard));
        s.publish(queue, "dead", properties().headers(Map.of("mine", 1)).build());
        s.channel.basicNack(s.fetch(queue).getEnvelope().getDeliveryTag(), false, false);
        Delivery dead = s.take(graveyard, 1).get(0);
        Map<String, Object> headers = dead.getProperties().getHeaders();
        Feature.equal(List.of(text(dead.getBody()), headers.get("mine")), List.of("dead", 1),
            "message");
        Map<?, ?> death = onlyDeath(dead);
        Object time = death.remove("time");
        Feature.check(time instanceof Date, "type of the time of death: " + time);
        long agoMs = Math.abs(System.currentTimeMillis() - ((Date) time).getTime());
        Feature.check(agoMs < TimeUnit.MINUTES.toMillis(1), "time of death " + time);
        Feature.equal(death, Map.of("queue", queue, "reason", "rejected", "exchange", "",
            "count", 1L, "routing-keys", List.of(queue)), "x-death");
        Feature.equal(plain(headers.get("x-first-death-reason")), "rejected",
            "x-first-death-reason");
    }

    private static void ttl(Scene s) throws Exception {
        String graveyard = s.queue();
        Map<String, Object> arguments = deadLettersTo(graveyard);
        String byMessage = s.queue(arguments);
        arguments.put("x-message-ttl", 50);
        String byQueue = s.queue(arguments);
        s.publish(byQueue, byQueue);
        s.publish(byMessage, byMessage, properties().expiration("60").build());
        Map<String, Delivery> dead = new HashMap<>();
        for (Delivery each : s.take(graveyard, 2)) {
            dead.put(text(each.getBody()), each);
        }
        for (String queue : List.of(byQueue, byMessage)) {
            Feature.check(dead.containsKey(queue), "dead " + dead.keySet() + " without " + queue);
            Map<?, ?> death = onlyDeath(dead.get(queue));
            Feature.equal(List.of(death.get("queue"), death.get("reason")),
                List.of(queue, "expired"), "death");
            Feature.equal(dead.get(queue).getProperties().getExpiration(), null,
                "expiration after death");
        }
    }

    private static void priority(Scene s) throws Exception {
        String queue = s.queue(Map.of("x-max-priority", 9));
        for (int level : new int[] {1, 5, 0, 9, 5}) {
            s.publish(queue, "" + level, properties().priority(level).build());
        }
        Feature.equal(s.bodies(queue, 5), List.of("9", "5", "5", "1", "0"), "order");
    }

    private static void headers(Scene s) throws Exception {
        String exchange = s.exchange("headers");
        String both = s.queue();
        String either = s.queue();
        for (String match : List.of("all", "any")) {
            s.channel.queueBind(match.equals("all") ? both : either, exchange, "",
                Map.of("x-match", match, "format", "pdf", "pages", 3));
        }
        List<Map<String, Object>> fields = List.of(Map.of("format", "pdf", "pages", 3),
            Map.of("format", "pdf"), Map.of("pages", 4));
        for (int number = 0; number < fields.size(); number++) {
            s.channel.basicPublish(exchange, "", properties().headers(fields.get(number)).build(),
                bytes("" + number));
        }
        Feature.equal(s.bodies(either, 2), List.of("0", "1"), "any");
        Feature.equal(s.bodies(both, 1), List.of("0"), "all");
        Feature.check(s.isEmpty(both) && s.isEmpty(either), "one has got more");
    }

    private static void transaction(Scene s) throws Exception {
        String queue = s.queue();
        s.channel.txSelect();
        s.publish(queue, "undone");
        s.channel.txRollback();
        s.publish(queue, "done");
        Feature.equal(s.channel.messageCount(queue), 0L, "messages before commit");
        s.channel.txCommit();
        GetResponse message = s.fetch(queue);
        Feature.equal(text(message.getBody()), "done", "body");
        s.channel.basicAck(message.getEnvelope().getDeliveryTag(), false);
        s.channel.txRollback();
        s.channel.basicRecover(true);
        Feature.equal(s.fetch(queue).getEnvelope().isRedeliver(), true,
            "redelivered after rollback of an ack");
    }

    private static void recover(Scene s) throws Exception {
        String queue = s.queue();
        s.publish(queue, "one");
        s.publish(queue, "two");
        for (boolean again : new boolean[] {false, true}) {
            for (String body : List.of("one", "two")) {
                GetResponse message = s.fetch(queue);
                Feature.equal(List.of(text(message.getBody()), message.getEnvelope().isRedeliver()),
                    List.of(body, again), "delivery");
            }
            s.channel.basicRecover(true);
        }
    }

    private static void exclusive(Scene s) throws Exception {
        String queue = s.queue();
        try (Connection second = s.connect()) {
            Channel channel = second.createChannel();
            String said = refused(405, () -> channel.queueDeclarePassive(queue));
            Feature.check(said.startsWith("RESOURCE_LOCKED"), said);
        }
    }

    private static void missingQueue(Scene s) throws Exception {
        String missing = Feature.name("missing");
        String said = refused(404, () -> s.channel.queueDeclarePassive(missing));
        Feature.check(said.startsWith("NOT_FOUND - no queue '" + missing + "'"), said);
        Feature.equal(List.of(s.channel.isOpen(), s.connection.isOpen()), List.of(false, true),
            "what is open");
        s.channel = s.connection.createChannel();
        hello(s);
    }

    private static void redeclare(Scene s) throws Exception {
        String queue = Feature.name("redeclared");
        s.channel.queueDeclare(queue, false, true, false, null);
        String said = refused(406,
            () -> s.channel.queueDeclare(queue, false, true, false, Map.of("x-max-length", 5)));
        Feature.check(said.startsWith("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"),
            said);
    }

    private static void cancelNotify(Scene s) throws Exception {
        String queue = s.queue();
        Feature.Inbox<String> cancelled = new Feature.Inbox<>();
        String tag = s.channel.basicConsume(queue, false, (t, delivery) -> { }, cancelled::put);
        s.connection.createChannel().queueDelete(queue);
        Feature.equal(cancelled.have(1, "the cancel"), List.of(tag), "cancelled consumers");
    }

    private static void largeBody(Scene s) throws Exception {
        byte[] body = new byte[1 << 20];
        for (int i = 0; i < body.length; i++) {
            body[i] = (byte) i;
        }
        String queue = s.queue();
        s.channel.basicPublish("", queue, properties().deliveryMode(2).build(), body);
        byte[] received = s.take(queue, 1).get(0).getBody();
        Feature.check(Arrays.equals(received, body), received.length + " bytes, not the same");
    }

    private static void close(Scene s) throws Exception {
        String queue = s.queue();
        s.connection.close();
        Feature.check(!s.connection.isOpen(), "the connection is open");
        try (Connection second = s.connect()) {
            Channel channel = second.createChannel();
            refused(404, () -> channel.queueDeclarePassive(queue));
        }
    }

    /** The client connects anew by itself; it declares, binds and consumes again what was there. */
    private static void recovery(Scene s) throws Exception {
        s.connection.close();
        s.factory.setAutomaticRecoveryEnabled(true);
        s.factory.setNetworkRecoveryInterval(200);
        s.connection = s.connect();
        Feature.Inbox<String> events = new Feature.Inbox<>();
        ((Recoverable) s.connection).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecoveryStarted(Recoverable recovering) {
                events.put("started");
            }

            @Override
            public void handleRecovery(Recoverable recovered) {
                events.put("recovered");
            }
        });
        s.channel = s.connection.createChannel();
        String exchange = s.exchange("direct");
        String queue = s.queue();
        s.channel.queueBind(queue, exchange, "restored");
        Feature.Inbox<Delivery> arrived = new Feature.Inbox<>();
        consume(s.channel, queue, true, arrived);
        s.channel.basicPublish(exchange, "restored", NONE, bytes("before"));
        Feature.equal(texts(arrived.have(1, "a message")), List.of("before"), "bodies");

        Feature.waitForRestart();
        Feature.equal(events.have(2, "the recovery"), List.of("started", "recovered"), "events");
        s.channel.basicPublish(exchange, "restored", NONE, bytes("after"));
        Feature.equal(texts(arrived.have(2, "two messages")), List.of("before", "after"), "bodies");
        hello(s);
        publishSubscribe(s);
    }

    private static Map<String, Feature.Step<Scene>> steps() {
        Map<String, Feature.Step<Scene>> steps = new LinkedHashMap<>();
        steps.put("hello", JavaClient::hello);
        steps.put("work-queue", JavaClient::workQueue);
        steps.put("publish-subscribe", JavaClient::publishSubscribe);
        steps.put("routing", JavaClient::routing);
        steps.put("topics", JavaClient::topics);
        steps.put("rpc", JavaClient::rpc);
        steps.put("direct-reply-to", JavaClient::directReplyTo);
        steps.put("confirms", JavaClient::confirms);
        steps.put("mandatory-return", JavaClient::mandatoryReturn);
        steps.put("get", JavaClient::get);
        steps.put("requeue", JavaClient::requeue);
        steps.put("dead-letter", JavaClient::deadLetter);
        steps.put("ttl", JavaClient::ttl);
        steps.put("priority", JavaClient::priority);
        steps.put("headers", JavaClient::headers);
        steps.put("transaction", JavaClient::transaction);
        steps.put("recover", JavaClient::recover);
        steps.put("exclusive", JavaClient::exclusive);
        steps.put("missing-queue", JavaClient::missingQueue);
        steps.put("redeclare", JavaClient::redeclare);
        steps.put("cancel-notify", JavaClient::cancelNotify);
        steps.put("large-body", JavaClient::largeBody);
        steps.put("close", JavaClient::close);
        steps.put("recovery", JavaClient::recovery);
        return steps;
    }

    public static void main(String[] arguments) throws InterruptedException {
        Feature.run(arguments, "JavaClient.java", Scene::new, steps());
    }
}
