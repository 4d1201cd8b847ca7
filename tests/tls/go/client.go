// Publishes and gets through TLS with amqp091-go, as guest by password and then by certificate.
//
//	client PORT CA_FILE CERTIFICATE KEY
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func converse(address string, config amqp.Config) {
	connection, err := amqp.DialConfig(address, config)
	must(err)
	channel, err := connection.Channel()
	must(err)
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	must(err)
	for _, body := range [][]byte{{}, []byte("small"), bytes.Repeat([]byte("large"), 300000)} {
		must(channel.Publish("", queue.Name, false, false, amqp.Publishing{Body: body}))
		message, ok, err := channel.Get(queue.Name, true)
		must(err)
		if !ok || !bytes.Equal(message.Body, body) {
			must(fmt.Errorf("%d bytes came back as %d", len(body), len(message.Body)))
		}
	}
	must(connection.Close())
}

func main() {
	authority, err := os.ReadFile(os.Args[2])
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	certificate, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
	must(err)
	address := "amqps://guest:guest@localhost:" + os.Args[1] + "/"
	converse(address, amqp.Config{TLSClientConfig: &tls.Config{RootCAs: pool}})
	converse(address, amqp.Config{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}},
		SASL:            []amqp.Authentication{&amqp.ExternalAuth{}},
	})
	fmt.Println("done")
}
