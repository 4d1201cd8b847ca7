"""Publishes and gets through TLS with pika, as guest by password and then by certificate.

    pika_client.py PORT CA_FILE CERTIFICATE KEY
"""
import ssl
import sys

import pika

port, ca_file, certificate, key = sys.argv[1:]
context = ssl.create_default_context(cafile=ca_file)
for credentials in (pika.PlainCredentials("guest", "guest"),
                    pika.credentials.ExternalCredentials()):
    connection = pika.BlockingConnection(pika.ConnectionParameters(
        "localhost", int(port), credentials=credentials,
        ssl_options=pika.SSLOptions(context, "localhost")))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    for body in (b"", b"small", b"large" * 300000):
        channel.basic_publish("", queue, body)
        assert channel.basic_get(queue, auto_ack=True)[2] == body
    connection.close()
    context.load_cert_chain(certificate, key)
print("done")
