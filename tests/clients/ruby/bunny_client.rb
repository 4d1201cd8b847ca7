# The feature steps with Bunny, which calls consumers in threads of its own, and recovers by itself.
require "bunny"
require_relative "feature"

STEPS = %w[hello work-queue publish-subscribe routing topics rpc direct-reply-to confirms
           mandatory-return get requeue dead-letter ttl priority headers transaction recover
           exclusive missing-queue redeclare cancel-notify large-body close recovery].freeze

Message = Struct.new(:info, :properties, :body)

def connect(host, port, **options)
  Bunny.new(host: host, port: port, log_file: $stderr, automatically_recover: false,
            connection_timeout: 15, continuation_timeout: WAIT_S * 1000, **options).start
end

# Demands that the broker closes the channel with this error and code; returns what it said.
def refused(error, code)
  yield
rescue error => refusal
  equal(refusal.channel_close.reply_code, code, "reply code of #{refusal.message.inspect}")
  refusal.channel_close.reply_text
else
  raise "not refused with #{code}"
end

def bodies_of(messages)
  messages.map(&:body)
end

# A connection with one channel, and the steps, each a method.
class Scene
  attr_reader :connection

  def initialize(host, port)
    @host, @port = host, port
    @connection = connect(host, port)
    @channel = @connection.create_channel
  end

  # A server-named exclusive queue.
  def queue(arguments = {})
    @channel.queue("", exclusive: true, arguments: arguments)
  end

  def exchange(kind)
    Bunny::Exchange.new(@channel, kind, unique(kind), auto_delete: true)
  end

  # Puts everything that the queue delivers into an inbox; returns it and the consumer.
  def consume(queue, **options)
    inbox = Inbox.new
    consumer = queue.subscribe(**options) { |*message| inbox.put(Message.new(*message)) }
    [inbox, consumer]
  end

  # Consumes count messages.
  def take(queue, count)
    inbox, consumer = consume(queue)
    taken = inbox.have(count)
    consumer.cancel
    taken
  end

  # The next message, which stays unacknowledged if so wanted; nil from an empty queue.
  def fetch(queue, manual_ack: false)
    message = Message.new(*queue.pop(manual_ack: manual_ack))
    message.info && message
  end

  def hello
    greeted = queue
    greeted.publish("Hello World!")
    equal(bodies_of(take(greeted, 1)), ["Hello World!"], "bodies")
  end

  def work_queue
    tasks = queue
    channels = [@channel, @connection.create_channel]
    shares = channels.map do |channel|
      channel.prefetch(1)
      consume(channel.queue(tasks.name, no_declare: true), manual_ack: true).first
    end
    4.times { |number| tasks.publish(number.to_s, persistent: true) }
    shares.each { |share| share.have(1) }
    equal(shares.map { |share| share.items.size }, [1, 1], "unacknowledged deliveries")
    (1..2).each do |seen|
      equal(tasks.message_count, 3 - seen, "tasks held back")
      @channel.ack(shares[0].items.last.info.delivery_tag)
      shares[0].have(seen + 1)
    end
    equal(shares.map { |share| share.items.size }, [3, 1], "shares")
    equal(shares.flat_map { |share| bodies_of(share.items) }.sort, %w[0 1 2 3], "bodies")
  end

  def publish_subscribe
    logs = exchange("fanout")
    queues = Array.new(3) { queue.bind(logs) }
    queues.each { |each| check(each.name.start_with?("amq.gen-"), each.name) }
    logs.publish("to all", routing_key: "ignored")
    queues.each { |each| equal(bodies_of(take(each, 1)), ["to all"], "bodies") }
  end

  # Binds one queue and publishes each key as its own body; returns what arrived.
  def route(kind, bindings, keys)
    router, bound = exchange(kind), queue
    bindings.each { |binding| bound.bind(router, routing_key: binding) }
    keys.each { |key| router.publish(key, routing_key: key) }
    arrived = []
    while (message = fetch(bound))
      arrived << message.body
    end
    arrived
  end

  def routing
    keys = %w[info error warning debug]
    equal(route("direct", %w[error warning], keys), %w[error warning], "keys")
  end

  def topics
    keys = %w[quick.orange.rabbit lazy.orange.elephant quick.orange.fox lazy
              lazy.pink.rabbit.x orange quick.orange.male.rabbit]
    equal(route("topic", ["*.*.rabbit", "lazy.#"], keys),
          %w[quick.orange.rabbit lazy.orange.elephant lazy lazy.pink.rabbit.x], "keys")
  end

  # Serves requests on a channel of their own; returns [correlation id, body] of the answer.
  def call(answers_to)
    requests = queue
    server = @connection.create_channel
    served = server.queue(requests.name, no_declare: true)
    served.subscribe(manual_ack: true) do |info, request, body|
      server.default_exchange.publish((body.to_i * 2).to_s, routing_key: request.reply_to,
                                      correlation_id: request.correlation_id)
      server.ack(info.delivery_tag)
    end
    answers, = consume(answers_to)
    requests.publish("21", reply_to: answers_to.name, correlation_id: "call-7")
    answer = answers.have(1, "the answer").first
    [answer.properties.correlation_id, answer.body]
  end

  def rpc
    equal(call(queue), %w[call-7 42], "answer")
  end

  def direct_reply_to
    pseudo_queue = @channel.queue("amq.rabbitmq.reply-to", no_declare: true)
    equal(call(pseudo_queue), %w[call-7 42], "answer")
  end

  def confirms
    counted = queue
    channel = @connection.create_channel
    channel.confirm_select
    confirmed = channel.queue(counted.name, no_declare: true)
    confirmed.publish("single", persistent: true)
    check(channel.wait_for_confirms, "the single message was not confirmed")
    # All are published before the first confirm is waited for.
    1000.times { |number| confirmed.publish(number.to_s) }
    check(channel.wait_for_confirms, "not all of 1000 were confirmed")
    equal([channel.unconfirmed_set.size, channel.nacked_set.size], [0, 0], "not confirmed")
    equal(counted.message_count, 1001, "messages")
  end

  def mandatory_return
    returned = Inbox.new
    default = @channel.default_exchange
    default.on_return { |*message| returned.put(Message.new(*message)) }
    @channel.confirm_select
    default.publish("back to me", routing_key: unique("nowhere"), mandatory: true)
    check(@channel.wait_for_confirms, "not confirmed")
    # The return comes before its confirm.
    equal(returned.items.map { |message| [message.info.reply_code, message.info.reply_text,
                                          message.info.routing_key, message.body] },
          [[312, "NO_ROUTE", unique("nowhere"), "back to me"]], "returns")
  end

  def get
    two = queue
    equal(fetch(two), nil, "get of an empty queue")
    two.publish("one").publish("two")
    message = fetch(two)
    # Bunny hides the count in the answer to get.
    equal([message.body, two.message_count, message.info.redelivered], ["one", 1, false], "get")
  end

  def requeue
    one = queue
    one.publish("again")
    @channel.nack(fetch(one, manual_ack: true).info.delivery_tag, false, true)
    message = fetch(one, manual_ack: true)
    equal([message.body, message.info.redelivered], ["again", true], "second delivery")
    @channel.reject(message.info.delivery_tag, false)
    equal(fetch(one), nil, "get after reject")
  end

  def dead_letters_to(graveyard)
    { "x-dead-letter-exchange" => "", "x-dead-letter-routing-key" => graveyard.name }
  end

  def dead_letter
    graveyard = queue
    mortal = queue(dead_letters_to(graveyard))
    mortal.publish("dead", headers: { "mine" => 1 })
    @channel.nack(fetch(mortal, manual_ack: true).info.delivery_tag, false, false)
    message = take(graveyard, 1).first
    headers = message.properties.headers
    equal([message.body, headers["mine"]], ["dead", 1], "message")
    death, *others = headers["x-death"]
    time_of_death = death.delete("time")
    check(time_of_death.is_a?(Time) && (Time.now - time_of_death).abs < 60,
          "time of death #{time_of_death.inspect}")
    equal(death, { "queue" => mortal.name, "reason" => "rejected", "exchange" => "", "count" => 1,
                   "routing-keys" => [mortal.name] }, "x-death")
    equal(others, [], "further deaths")
    equal(headers["x-first-death-reason"], "rejected", "x-first-death-reason")
  end

  def ttl
    graveyard = queue
    by_queue = queue("x-message-ttl" => 50, **dead_letters_to(graveyard))
    by_message = queue(dead_letters_to(graveyard))
    [[by_queue, {}], [by_message, { expiration: "60" }]].each do |mortal, properties|
      mortal.publish(mortal.name, properties)
      message = take(graveyard, 1).first
      death = message.properties.headers["x-death"].first
      equal([message.body, death["queue"], death["reason"]], [mortal.name, mortal.name, "expired"],
            "death")
      equal(message.properties.expiration, nil, "expiration after death")
    end
  end

  def priority
    ranked = queue("x-max-priority" => 9)
    [1, 5, 0, 9, 5].each { |level| ranked.publish(level.to_s, priority: level) }
    equal(bodies_of(take(ranked, 5)), %w[9 5 5 1 0], "order")
  end

  def headers
    sorter, both, either = exchange("headers"), queue, queue
    [[both, "all"], [either, "any"]].each do |bound, match|
      bound.bind(sorter, arguments: { "x-match" => match, "format" => "pdf", "pages" => 3 })
    end
    [{ "format" => "pdf", "pages" => 3 }, { "format" => "pdf" }, { "pages" => 4 }]
      .each_with_index { |fields, number| sorter.publish(number.to_s, headers: fields) }
    equal(bodies_of(take(either, 2)), %w[0 1], "any")
    equal(bodies_of(take(both, 1)), %w[0], "all")
    equal([fetch(both), fetch(either)], [nil, nil], "get after all")
  end

  def transaction
    one = queue
    @channel.tx_select
    one.publish("undone")
    @channel.tx_rollback
    one.publish("done")
    equal(one.message_count, 0, "before commit")
    @channel.tx_commit
    message = fetch(one, manual_ack: true)
    equal(message.body, "done", "body")
    @channel.ack(message.info.delivery_tag)
    @channel.tx_rollback
    @channel.basic_recover(true)
    equal(fetch(one, manual_ack: true).info.redelivered, true,
          "redelivered after rollback of an ack")
  end

  def recover
    two = queue
    two.publish("one").publish("two")
    equal(Array.new(2) { fetch(two, manual_ack: true).body }, %w[one two], "first time")
    @channel.basic_recover(true)
    again = Array.new(2) { fetch(two, manual_ack: true) }
    equal(again.map { |message| [message.info.redelivered, message.body] },
          [[true, "one"], [true, "two"]], "again")
  end

  def declare_passively(connection, name)
    connection.create_channel.queue(name, passive: true)
  end

  def exclusive
    mine = queue
    second = connect(@host, @port)
    said = refused(Bunny::ResourceLocked, 405) { declare_passively(second, mine.name) }
    check(said.start_with?("RESOURCE_LOCKED"), said)
    second.close
  end

  def missing_queue
    said = refused(Bunny::NotFound, 404) { @channel.queue(unique("missing"), passive: true) }
    check(said.start_with?("NOT_FOUND - no queue '#{unique('missing')}'"), said)
    equal([@channel.open?, @connection.open?], [false, true], "what is open")
    @channel = @connection.create_channel
    hello
  end

  def redeclare
    @channel.queue(unique("redeclared"), exclusive: true)
    said = refused(Bunny::PreconditionFailed, 406) do
      # A second channel: a channel of Bunny's declares a name but once.
      @connection.create_channel.queue(unique("redeclared"), exclusive: true,
                                       arguments: { "x-max-length" => 5 })
    end
    check(said.start_with?("PRECONDITION_FAILED - inequivalent arg 'x-max-length'"), said)
  end

  def cancel_notify
    doomed = queue
    cancelled = Inbox.new
    consumer = Bunny::Consumer.new(@channel, doomed)
    consumer.on_cancellation { |cancel| cancelled.put(cancel.consumer_tag) }
    doomed.subscribe_with(consumer)
    @connection.create_channel.queue_delete(doomed.name)
    equal(cancelled.have(1, "the cancel"), [consumer.consumer_tag], "cancelled consumers")
  end

  def large_body
    body = (0..255).to_a.pack("C*") * 4096
    one = queue
    one.publish(body, persistent: true)
    received = take(one, 1).first.body.b
    check(received == body, "#{received.bytesize} bytes, not the same")
  end

  def close
    mine = queue
    @connection.close
    check(@connection.closed?, "the connection is not closed")
    second = connect(@host, @port)
    refused(Bunny::NotFound, 404) { declare_passively(second, mine.name) }
    second.close
  end

  # Bunny connects anew by itself, and declares, binds and consumes again what was there.
  def recovery
    @connection.close
    recovered = Inbox.new
    # What it says about the loss that is made here would be taken for a complaint.
    @connection = connect(@host, @port, automatically_recover: true, network_recovery_interval: 0.2,
                          recover_from_connection_close: true, log_level: Logger::FATAL,
                          recovery_completed: -> { recovered.put(true) })
    @channel = @connection.create_channel
    router = exchange("direct")
    inbox, = consume(queue.bind(router, routing_key: "restored"))
    router.publish("before", routing_key: "restored")
    equal(bodies_of(inbox.have(1)), ["before"], "bodies")
    wait_for_restart
    recovered.have(1, "the recovery")
    router.publish("after", routing_key: "restored")
    equal(bodies_of(inbox.have(2)), %w[before after], "bodies")
    hello
    publish_subscribe
  end
end

run_steps(STEPS) do |host, port, method|
  scene = Scene.new(host, port)
  begin
    scene.public_send(method)
  ensure
    scene.connection.close if scene.connection.open?
  end
end
