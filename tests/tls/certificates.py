"""An authority of our own, which issues and revokes certificates with the openssl program."""
import datetime
import os
import shutil
import ssl
import subprocess
import tempfile

CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = $dir/index
serial = $dir/serial
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
default_days = 10
default_crl_days = 10
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = optional
[req]
distinguished_name = name
[name]
[extensions_of_ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


class Authority:
    """A folder with ca.pem, and NAME.pem with NAME.key for each name that was issued."""

    def __init__(self, name):
        self.folder = tempfile.mkdtemp(prefix="whippet-tls-")
        os.chmod(self.folder, 0o755)
        self.config = self.path("ca.cnf")
        self.write("ca.cnf", CONFIG.format(folder=self.folder))
        self.write("index", "")
        self.write("serial", "01\n")
        self.key("ca")
        self.openssl("req", "-new", "-x509", "-config", self.config, "-key", self.path("ca.key"),
                     "-subj", f"/CN={name}", "-days", "10", "-extensions", "extensions_of_ca",
                     "-out", self.path("ca.pem"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *arguments], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    def key(self, name, kind=("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")):
        self.openssl("genpkey", *kind, "-out", self.path(f"{name}.key"))

    def issue(self, name, subject, alternatives=None, days=(-1, 5), by=None, rsa=False):
        """A certificate valid from and until so many days from now; by another authority's key."""
        by = by or self
        if rsa:
            self.key(name, ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"))
        else:
            self.key(name)
        self.openssl("req", "-new", "-config", self.config, "-key", self.path(f"{name}.key"),
                     "-subj", subject, "-out", self.path(f"{name}.csr"))
        extensions = "basicConstraints = CA:FALSE\n"
        if alternatives:
            extensions += f"subjectAltName = {alternatives}\n"
        self.write(f"{name}.ext", extensions)
        now = datetime.datetime.now(datetime.timezone.utc)
        start, end = (now + datetime.timedelta(days=day) for day in days)
        self.openssl("ca", "-batch", "-notext", "-config", by.config, "-in",
                     self.path(f"{name}.csr"), "-extfile", self.path(f"{name}.ext"),
                     "-startdate", f"{start:%y%m%d%H%M%SZ}", "-enddate", f"{end:%y%m%d%H%M%SZ}",
                     "-out", self.path(f"{name}.pem"))

    def revoke(self, name):
        self.openssl("ca", "-config", self.config, "-revoke", self.path(f"{name}.pem"))
        self.list_revoked("crl", seconds=10 * 86400)

    def list_revoked(self, name, seconds):
        """-> the path of a list of those that were revoked, in force for so long"""
        path = self.path(f"{name}.pem")
        self.openssl("ca", "-config", self.config, "-gencrl", "-crlsec", str(seconds),
                     "-out", path)
        return path

    def end_of(self, kind, option, file):
        """-> until when a certificate or a list is good, as time.time() counts"""
        text = self.openssl(kind, "-in", self.path(file), "-noout", option)
        return ssl.cert_time_to_seconds(text.strip().partition("=")[2])

    def issue_all(self):
        """What the tests use."""
        self.issue("server", "/CN=server", "DNS:localhost, IP:127.0.0.1")
        self.issue("second", "/CN=second", "DNS:localhost, IP:127.0.0.1")
        self.issue("shop", "/CN=shop", "DNS:shop.example")
        self.issue("wild", "/CN=wild", "DNS:*.wild.example")
        self.issue("rsa", "/CN=rsa", "DNS:localhost", rsa=True)
        self.issue("guest", "/O=Whippet/CN=guest",
                   "DNS:guest, email:mail@guest.example, URI:urn:guest")
        self.issue("stranger", "/CN=nobody-here", "DNS:guest")
        self.issue("expired", "/CN=guest", days=(-9, -2))
        self.issue("revoked", "/CN=guest")
        self.revoke("revoked")
        with Authority("Another authority") as other:
            self.issue("foreign", "/CN=guest", by=other)
        self.key("self-signed")
        self.openssl("req", "-new", "-x509", "-config", self.config, "-subj", "/CN=guest",
                     "-key", self.path("self-signed.key"), "-out", self.path("self-signed.pem"))
