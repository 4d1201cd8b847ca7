// The feature steps with amqp091-go, whose callers receive from Go channels.
//
// A step fails by panicking; each has a connection of its own and a time limit, so that one which
// fails or hangs does not end the others.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	patience          = 20 * time.Second
	stepLimit         = 30 * time.Second
	recoveryLimit     = 90 * time.Second
	redialPause       = 100 * time.Millisecond
	redialAttempts    = 100
	confirmedMessages = 1000
)

var steps = []struct {
	name string
	run  func(*scene)
}{
	{"hello", hello},
	{"work-queue", workQueue},
	{"publish-subscribe", publishSubscribe},
	{"routing", routing},
	{"topics", topics},
	{"rpc", rpc},
	{"direct-reply-to", directReplyTo},
	{"confirms", confirms},
	{"mandatory-return", mandatoryReturn},
	{"get", get},
	{"requeue", requeue},
	{"dead-letter", deadLetter},
	{"ttl", ttl},
	{"priority", priority},
	{"headers", headers},
	{"transaction", transaction},
	{"recover", recoverUnacknowledged},
	{"exclusive", exclusive},
	{"missing-queue", missingQueue},
	{"redeclare", redeclare},
	{"cancel-notify", cancelNotify},
	{"large-body", largeBody},
	{"close", closeConnection},
	{"recovery", recovery},
}

// failed panics with a text that names the line of the step's function.
func failed(format string, arguments ...any) {
	line := 0
	program := make([]uintptr, 20)
	frames := runtime.CallersFrames(program[:runtime.Callers(2, program)])
	for frame, more := frames.Next(); more; frame, more = frames.Next() {
		if strings.HasSuffix(frame.Function, ".runStep.func1") {
			break
		}
		if strings.HasPrefix(frame.Function, "main.") {
			line = frame.Line
		}
	}
	panic(fmt.Sprintf(format, arguments...) + fmt.Sprintf(" (line %d)", line))
}

func check(err error) {
	if err != nil {
		failed("%v", err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func equal(got, wanted any, what string) {
	if !reflect.DeepEqual(got, wanted) {
		failed("%s: got %#v, wanted %#v", what, got, wanted)
	}
}

func receive[T any](from <-chan T, what string) T {
	select {
	case value, open := <-from:
		if !open {
			failed("the channel was closed before %s", what)
		}
		return value
	case <-time.After(patience):
		failed("waited %v for %s", patience, what)
	}
	panic("unreachable")
}

// scene is what a step gets: a connection with one channel, and the means to open another.
type scene struct {
	url        string
	connection *amqp.Connection
	channel    *amqp.Channel
}

func newScene(url string) *scene {
	connection := must(amqp.Dial(url))
	return &scene{url, connection, must(connection.Channel())}
}

func name(what string) string {
	return fmt.Sprintf("clients.amqp091-go.%d.%s", os.Getpid(), what)
}

// queue declares a server-named exclusive queue.
func (s *scene) queue(arguments amqp.Table) string {
	return must(s.channel.QueueDeclare("", false, false, true, false, arguments)).Name
}

func (s *scene) exchange(kind string) string {
	exchange := name(kind)
	check(s.channel.ExchangeDeclare(exchange, kind, false, true, false, false, nil))
	return exchange
}

func (s *scene) count(queue string) int {
	return must(s.channel.QueueInspect(queue)).Messages
}

func publish(channel *amqp.Channel, exchange, key string, message amqp.Publishing) {
	check(channel.PublishWithContext(context.Background(), exchange, key, false, false, message))
}

func (s *scene) publish(exchange, key, body string) {
	publish(s.channel, exchange, key, amqp.Publishing{Body: []byte(body)})
}

func consume(channel *amqp.Channel, queue string, autoAck bool) <-chan amqp.Delivery {
	return must(channel.Consume(queue, "", autoAck, false, false, false, nil))
}

// take consumes count messages.
func (s *scene) take(queue string, count int) []amqp.Delivery {
	tag := name("taker")
	deliveries := must(s.channel.Consume(queue, tag, true, false, false, false, nil))
	taken := []amqp.Delivery{}
	for len(taken) < count {
		taken = append(taken, receive(deliveries, fmt.Sprintf("%d messages", count)))
	}
	check(s.channel.Cancel(tag, false))
	return taken
}

func (s *scene) bodies(queue string, count int) []string {
	bodies := []string{}
	for _, delivery := range s.take(queue, count) {
		bodies = append(bodies, string(delivery.Body))
	}
	return bodies
}

func (s *scene) get(queue string, autoAck bool) amqp.Delivery {
	delivery, found, err := s.channel.Get(queue, autoAck)
	check(err)
	if !found {
		failed("%s is empty", queue)
	}
	return delivery
}

func (s *scene) isEmpty(queue string) bool {
	_, found, err := s.channel.Get(queue, true)
	check(err)
	return !found
}

// refused demands that the broker closed the channel with this code and a text that begins so.
func refused(err error, code int, text string) {
	var closed *amqp.Error
	if !errors.As(err, &closed) {
		failed("wanted %d, got %v", code, err)
	}
	equal(closed.Code, code, "reply code")
	equal(closed.Server, true, "from the broker")
	if !strings.HasPrefix(closed.Reason, text) {
		failed("reply text: got %q, wanted %q", closed.Reason, text)
	}
}

func declarePassively(connection *amqp.Connection, queue string) error {
	channel := must(connection.Channel())
	_, err := channel.QueueDeclarePassive(queue, false, false, false, false, nil)
	return err
}

func hello(s *scene) {
	queue := s.queue(nil)
	s.publish("", queue, "Hello World!")
	equal(s.bodies(queue, 1), []string{"Hello World!"}, "bodies")
}

func workQueue(s *scene) {
	queue := s.queue(nil)
	other := must(s.connection.Channel())
	workers := []<-chan amqp.Delivery{}
	for _, channel := range []*amqp.Channel{s.channel, other} {
		check(channel.Qos(1, 0, false))
		workers = append(workers, consume(channel, queue, false))
	}
	for _, task := range []string{"0", "1", "2", "3"} {
		publish(s.channel, "", queue, amqp.Publishing{
			Body: []byte(task), DeliveryMode: amqp.Persistent})
	}
	seen := map[string]bool{string(receive(workers[1], "the other's task").Body): true}
	for share := 1; share <= 3; share++ {
		delivery := receive(workers[0], "the next task")
		equal(s.count(queue), 3-share, "tasks held back")
		check(delivery.Ack(false))
		seen[string(delivery.Body)] = true
	}
	equal(seen, map[string]bool{"0": true, "1": true, "2": true, "3": true}, "tasks")
}

func publishSubscribe(s *scene) {
	exchange := s.exchange("fanout")
	queues := []string{s.queue(nil), s.queue(nil), s.queue(nil)}
	for _, queue := range queues {
		equal(strings.HasPrefix(queue, "amq.gen-"), true, "the broker names the queue amq.gen-")
		check(s.channel.QueueBind(queue, "", exchange, false, nil))
	}
	s.publish(exchange, "ignored", "to all")
	for _, queue := range queues {
		equal(s.bodies(queue, 1), []string{"to all"}, "bodies")
		equal(s.isEmpty(queue), true, "nothing more in the queue")
	}
}

// route binds one queue and publishes each key as its own body; it returns what arrived.
func (s *scene) route(kind string, bindings, keys []string) []string {
	exchange, queue := s.exchange(kind), s.queue(nil)
	for _, binding := range bindings {
		check(s.channel.QueueBind(queue, binding, exchange, false, nil))
	}
	for _, key := range keys {
		s.publish(exchange, key, key)
	}
	arrived := []string{}
	for {
		delivery, found, err := s.channel.Get(queue, true)
		check(err)
		if !found {
			return arrived
		}
		arrived = append(arrived, string(delivery.Body))
	}
}

func routing(s *scene) {
	wanted := []string{"error", "warning"}
	equal(s.route("direct", wanted, []string{"info", "error", "warning", "debug"}), wanted, "keys")
}

func topics(s *scene) {
	keys := []string{"quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox", "lazy",
		"lazy.pink.rabbit.x", "orange", "quick.orange.male.rabbit"}
	wanted := []string{"quick.orange.rabbit", "lazy.orange.elephant", "lazy", "lazy.pink.rabbit.x"}
	equal(s.route("topic", []string{"*.*.rabbit", "lazy.#"}, keys), wanted, "keys")
}

// call asks a server that answers with twice the number, on a channel of its own.
func (s *scene) call(replyTo string) {
	requests := s.queue(nil)
	server := must(s.connection.Channel())
	served := consume(server, requests, false)
	answers := consume(s.channel, replyTo, true)
	publish(s.channel, "", requests, amqp.Publishing{
		Body: []byte("21"), ReplyTo: replyTo, CorrelationId: "call-7"})
	request := receive(served, "the request")
	number := must(strconv.Atoi(string(request.Body)))
	publish(server, "", request.ReplyTo, amqp.Publishing{
		Body: []byte(strconv.Itoa(2 * number)), CorrelationId: request.CorrelationId})
	check(request.Ack(false))
	answer := receive(answers, "the answer")
	equal([]string{answer.CorrelationId, string(answer.Body)}, []string{"call-7", "42"}, "answer")
}

func rpc(s *scene) {
	s.call(s.queue(nil))
}

func directReplyTo(s *scene) {
	s.call("amq.rabbitmq.reply-to")
}

// selectConfirms listens for confirms. (A DeferredConfirmation of the library before 1.8 waits for
// ever if the confirm arrives before the call that publishes has returned.)
func selectConfirms(channel *amqp.Channel, capacity int) <-chan amqp.Confirmation {
	confirmed := channel.NotifyPublish(make(chan amqp.Confirmation, capacity))
	check(channel.Confirm(false))
	return confirmed
}

func confirms(s *scene) {
	queue := s.queue(nil)
	single := selectConfirms(s.channel, 1)
	publish(s.channel, "", queue, amqp.Publishing{
		Body: []byte("single"), DeliveryMode: amqp.Persistent})
	equal(receive(single, "the single confirm"), amqp.Confirmation{DeliveryTag: 1, Ack: true},
		"single confirm")

	many := must(s.connection.Channel())
	confirmed := selectConfirms(many, confirmedMessages)
	for number := 0; number < confirmedMessages; number++ {
		publish(many, "", queue, amqp.Publishing{Body: []byte(strconv.Itoa(number))})
	}
	for tag := uint64(1); tag <= confirmedMessages; tag++ {
		confirmation := receive(confirmed, "1000 confirms")
		equal(confirmation, amqp.Confirmation{DeliveryTag: tag, Ack: true}, "confirm")
	}
	equal(s.count(queue), confirmedMessages+1, "messages")
}

func mandatoryReturn(s *scene) {
	returns := s.channel.NotifyReturn(make(chan amqp.Return, 1))
	confirmed := selectConfirms(s.channel, 1)
	check(s.channel.PublishWithContext(context.Background(), "", name("nowhere"), true, false,
		amqp.Publishing{Body: []byte("back to me")}))
	returned := receive(returns, "the return")
	equal(returned.ReplyCode, uint16(amqp.NoRoute), "reply code")
	equal(returned.ReplyText, "NO_ROUTE", "reply text")
	equal(returned.RoutingKey, name("nowhere"), "routing key")
	equal(string(returned.Body), "back to me", "body")
	equal(receive(confirmed, "the confirm"), amqp.Confirmation{DeliveryTag: 1, Ack: true}, "confirm")
}

func get(s *scene) {
	queue := s.queue(nil)
	equal(s.isEmpty(queue), true, "a new queue is empty")
	s.publish("", queue, "one")
	s.publish("", queue, "two")
	delivery := s.get(queue, true)
	equal(string(delivery.Body), "one", "body")
	equal(delivery.MessageCount, uint32(1), "messages left")
	equal(delivery.Redelivered, false, "redelivered")
}

func requeue(s *scene) {
	queue := s.queue(nil)
	s.publish("", queue, "again")
	check(s.get(queue, false).Nack(false, true))
	delivery := s.get(queue, false)
	equal(string(delivery.Body), "again", "body")
	equal(delivery.Redelivered, true, "redelivered")
	check(delivery.Reject(false))
	equal(s.isEmpty(queue), true, "the rejected message is gone")
}

// onlyDeath is the one entry of the x-death header.
func onlyDeath(dead amqp.Delivery) amqp.Table {
	deaths, isList := dead.Headers["x-death"].([]interface{})
	if !isList || len(deaths) != 1 {
		failed("x-death: got %#v, wanted one entry", dead.Headers["x-death"])
	}
	death, isTable := deaths[0].(amqp.Table)
	equal(isTable, true, "the entry of x-death is a table")
	return death
}

func deadLetter(s *scene) {
	graveyard := s.queue(nil)
	queue := s.queue(amqp.Table{
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard})
	publish(s.channel, "", queue, amqp.Publishing{
		Body: []byte("dead"), Headers: amqp.Table{"mine": int32(1)}})
	check(s.get(queue, false).Nack(false, false))
	dead := s.take(graveyard, 1)[0]
	equal(string(dead.Body), "dead", "body")
	equal(dead.Headers["mine"], int32(1), "mine")
	equal(dead.Headers["x-first-death-reason"], "rejected", "x-first-death-reason")
	death := onlyDeath(dead)
	timeOfDeath, isTime := death["time"].(time.Time)
	if !isTime || time.Since(timeOfDeath).Abs() > time.Minute {
		failed("time of death: got %#v, wanted now", death["time"])
	}
	delete(death, "time")
	equal(death, amqp.Table{"queue": queue, "reason": "rejected", "exchange": "",
		"count": int64(1), "routing-keys": []interface{}{queue}}, "x-death")
}

func ttl(s *scene) {
	graveyard := s.queue(nil)
	byQueue := s.queue(amqp.Table{"x-message-ttl": int32(50),
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard})
	byMessage := s.queue(amqp.Table{
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": graveyard})
	for queue, expiration := range map[string]string{byQueue: "", byMessage: "60"} {
		publish(s.channel, "", queue, amqp.Publishing{
			Body: []byte(queue), Expiration: expiration})
		dead := s.take(graveyard, 1)[0]
		death := onlyDeath(dead)
		equal([]interface{}{string(dead.Body), death["queue"], death["reason"]},
			[]interface{}{queue, queue, "expired"}, "death")
		equal(dead.Expiration, "", "expiration after death")
	}
}

func priority(s *scene) {
	queue := s.queue(amqp.Table{"x-max-priority": int32(9)})
	for _, level := range []uint8{1, 5, 0, 9, 5} {
		publish(s.channel, "", queue, amqp.Publishing{
			Body: []byte(strconv.Itoa(int(level))), Priority: level})
	}
	equal(s.bodies(queue, 5), []string{"9", "5", "5", "1", "0"}, "order")
}

func headers(s *scene) {
	exchange, both, either := s.exchange("headers"), s.queue(nil), s.queue(nil)
	for queue, match := range map[string]string{both: "all", either: "any"} {
		check(s.channel.QueueBind(queue, "", exchange, false, amqp.Table{
			"x-match": match, "format": "pdf", "pages": int32(3)}))
	}
	for number, fields := range []amqp.Table{
		{"format": "pdf", "pages": int32(3)}, {"format": "pdf"}, {"pages": int32(4)}} {
		publish(s.channel, exchange, "", amqp.Publishing{
			Body: []byte(strconv.Itoa(number)), Headers: fields})
	}
	equal(s.bodies(either, 2), []string{"0", "1"}, "any")
	equal(s.isEmpty(either), true, "nothing more for any")
	equal(s.bodies(both, 1), []string{"0"}, "all")
	equal(s.isEmpty(both), true, "nothing more for all")
}

func transaction(s *scene) {
	queue := s.queue(nil)
	check(s.channel.Tx())
	s.publish("", queue, "undone")
	check(s.channel.TxRollback())
	s.publish("", queue, "done")
	equal(s.count(queue), 0, "messages before commit")
	check(s.channel.TxCommit())
	delivery := s.get(queue, false)
	equal(string(delivery.Body), "done", "body")
	check(delivery.Ack(false))
	check(s.channel.TxRollback())
	check(s.channel.Recover(true))
	equal(s.get(queue, false).Redelivered, true, "redelivered after rollback of an ack")
}

func recoverUnacknowledged(s *scene) {
	queue := s.queue(nil)
	bodies := []string{"one", "two"}
	for _, body := range bodies {
		s.publish("", queue, body)
	}
	for _, again := range []bool{false, true} {
		for _, body := range bodies {
			delivery := s.get(queue, false)
			equal(string(delivery.Body), body, "body")
			equal(delivery.Redelivered, again, "redelivered")
		}
		check(s.channel.Recover(true))
	}
}

func exclusive(s *scene) {
	queue := s.queue(nil)
	second := must(amqp.Dial(s.url))
	refused(declarePassively(second, queue), amqp.ResourceLocked, "RESOURCE_LOCKED")
	check(second.Close())
}

func missingQueue(s *scene) {
	closed := s.channel.NotifyClose(make(chan *amqp.Error, 1))
	_, err := s.channel.QueueDeclarePassive(name("missing"), false, false, false, false, nil)
	refused(err, amqp.NotFound, "NOT_FOUND - no queue '")
	equal(receive(closed, "the close of the channel").Code, amqp.NotFound, "reply code")
	equal(s.connection.IsClosed(), false, "the connection is closed")
	s.channel = must(s.connection.Channel())
	hello(s)
}

func redeclare(s *scene) {
	queue := name("redeclared")
	must(s.channel.QueueDeclare(queue, false, false, true, false, nil))
	_, err := s.channel.QueueDeclare(queue, false, false, true, false,
		amqp.Table{"x-max-length": int32(5)})
	refused(err, amqp.PreconditionFailed, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'")
}

func cancelNotify(s *scene) {
	queue := s.queue(nil)
	cancelled := s.channel.NotifyCancel(make(chan string, 1))
	deliveries := must(s.channel.Consume(queue, "mine", false, false, false, false, nil))
	must(must(s.connection.Channel()).QueueDelete(queue, false, false, false))
	equal(receive(cancelled, "the cancel"), "mine", "cancelled consumer")
	select {
	case _, open := <-deliveries:
		equal(open, false, "the deliveries go on")
	case <-time.After(patience):
		failed("the deliveries did not end")
	}
}

func largeBody(s *scene) {
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(i)
	}
	queue := s.queue(nil)
	publish(s.channel, "", queue, amqp.Publishing{Body: body, DeliveryMode: amqp.Persistent})
	received := s.take(queue, 1)[0].Body
	if !bytes.Equal(received, body) {
		failed("%d bytes, not the same", len(received))
	}
}

func closeConnection(s *scene) {
	queue := s.queue(nil)
	check(s.connection.Close())
	equal(s.connection.IsClosed(), true, "the connection is closed")
	second := must(amqp.Dial(s.url))
	refused(declarePassively(second, queue), amqp.NotFound, "NOT_FOUND - no queue '")
	check(second.Close())
}

// waitForRestart tells the harness that the broker may die now; it returns when it is back.
func waitForRestart() {
	fmt.Println("ready")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || line != "restarted\n" {
		failed("the harness did not say that the broker is back")
	}
}

func redial(url string) *amqp.Connection {
	for attempt := 1; ; attempt++ {
		connection, err := amqp.Dial(url)
		if err == nil {
			return connection
		}
		if attempt == redialAttempts {
			failed("after %d attempts: %v", attempt, err)
		}
		time.Sleep(redialPause)
	}
}

func recovery(s *scene) {
	hello(s)
	lost := s.connection.NotifyClose(make(chan *amqp.Error, 1))
	waitForRestart()
	<-lost // Closed without an error if the broker died between two frames.
	equal(errors.Is(s.channel.Qos(1, 0, false), amqp.ErrClosed), true, "the loss is noticed")
	s.connection = redial(s.url)
	s.channel = must(s.connection.Channel())
	hello(s)
	publishSubscribe(s)
}

// runStep prints the step's line.
func runStep(step string, run func(*scene), url string, limit time.Duration) {
	ended := make(chan any, 1)
	go func() {
		defer func() { ended <- recover() }()
		s := newScene(url)
		defer func() {
			if !s.connection.IsClosed() {
				check(s.connection.Close())
			}
		}()
		run(s)
	}()
	var reason any
	select {
	case reason = <-ended:
	case <-time.After(limit):
		reason = "the step took too long"
	}
	if reason != nil {
		fmt.Printf("not ok %s: %s\n", step, strings.ReplaceAll(fmt.Sprint(reason), "\n", " "))
		return
	}
	fmt.Printf("ok %s\n", step)
}

func isWanted(step string, wanted []string) bool {
	if len(wanted) == 0 {
		return step != "recovery"
	}
	for _, one := range wanted {
		if one == step {
			return true
		}
	}
	return false
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintf(os.Stderr, "usage: %s HOST PORT [STEP...]\n", filepath.Base(os.Args[0]))
		os.Exit(2)
	}
	url := fmt.Sprintf("amqp://guest:guest@%s:%s/", os.Args[1], os.Args[2])
	for _, step := range steps {
		if isWanted(step.name, os.Args[3:]) {
			limit := stepLimit
			if step.name == "recovery" {
				limit = recoveryLimit
			}
			runStep(step.name, step.run, url, limit)
		}
	}
}
