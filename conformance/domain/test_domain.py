"""The official packages with nothing but `E2B_DOMAIN` and `E2B_API_KEY`, over TLS, by name."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

import server as servers
from place import DOMAIN, Place, handshake
from server import wait_until


def authority(place: Place, to: Path) -> Path:
    """What a user does: `soulbox ca > file`."""
    command = [str(place.server.binary), "ca", "--data-dir", str(place.server.data_dir)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "SSL_CERT_FILE" in shown.stderr
    to.write_text(shown.stdout)
    return to


@pytest.fixture(scope="module", params=["443", "another"])
def place(request):
    port = 443 if request.param == "443" else 0
    place = Place("domain", port).open()
    yield place
    place.close()


@pytest.fixture(scope="module")
def trusted(place, tmp_path_factory) -> Path:
    return authority(place, tmp_path_factory.mktemp("ca") / "ca.pem")


def check(place: Place, seen: dict) -> None:
    assert seen["host"] == f"8000-{seen['id']}.{place.domain}"
    assert (seen["command"], seen["file"]) == ("hello\n", "written")
    assert (seen["page"], seen["download"]) == ([200, "reached"], [200, "written"])


def test_python(place, trusted, tmp_path):
    Path(tmp_path, "hello.txt").write_text("copied")
    seen = place.python(trusted, "build", str(tmp_path))
    check(place, seen)
    assert (seen["stdin"], seen["built"]) == ("typed\n", "copied")


def test_javascript(place, trusted):
    check(place, place.javascript(trusted))


def test_the_plain_port_goes_on(place):
    seen = servers.urllib.request.urlopen(f"{place.server.env['E2B_API_URL']}/health", timeout=10).status
    assert seen in (200, 204)


def test_certificates_are_for_names_below_the_domain_only(place, trusted):
    assert handshake(place, f"8000-iabc.{DOMAIN}", trusted)["subjectAltName"] == (("DNS", f"8000-iabc.{DOMAIN}"),)
    for name in ("example.com", f"a.b.{DOMAIN}", f"not{DOMAIN}", None):
        with pytest.raises(ssl.SSLError):
            handshake(place, name, trusted)


def test_the_key_of_the_authority_is_private(place, trusted):
    assert "PRIVATE KEY" not in trusted.read_text()
    key = place.server.data_dir / f"ca-{DOMAIN}.key"
    assert key.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(["openssl", "x509", "-in", str(trusted), "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert "CA:TRUE, pathlen:0" in shown and f"DNS:{DOMAIN}" in shown, shown


def test_openssl_believes_no_leaf_for_another_name(place, trusted, tmp_path):
    """Even whoever had the key could vouch for nothing else."""
    key = tmp_path / "ca.key"
    text = (place.server.data_dir / f"ca-{DOMAIN}.key").read_text()
    key.write_text(text[text.index("-----BEGIN PRIVATE KEY") :])
    verdicts = {}
    for name in (f"api.{DOMAIN}", "api.example.com"):
        leaf, extensions = tmp_path / f"{name}.pem", tmp_path / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n")
        request = subprocess.run(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-subj", "/"],
            capture_output=True, check=True,
        )
        subprocess.run(
            ["openssl", "x509", "-req", "-CA", str(trusted), "-CAkey", str(key), "-CAcreateserial", "-extfile", str(extensions), "-out", str(leaf)],
            input=request.stdout, capture_output=True, check=True,
        )
        verdicts[name] = subprocess.run(["openssl", "verify", "-CAfile", str(trusted), str(leaf)], capture_output=True, text=True)
    assert verdicts[f"api.{DOMAIN}"].returncode == 0, verdicts
    assert "permitted subtree violation" in verdicts["api.example.com"].stderr, verdicts


def test_a_restart_keeps_the_authority(tmp_path):
    place = Place("domain-again", 0).open()
    try:
        first = authority(place, tmp_path / "first.pem")
        place.server.stop()
        # As after a start with another block of ids.
        for file in place.server.data_dir.glob("ca-*"):
            os.chown(file, 60_000, 60_000)
        place.server.start()
        assert authority(place, tmp_path / "second.pem").read_text() == first.read_text()
        assert handshake(place, f"api.{DOMAIN}", first)
    finally:
        place.close()


def operators(directory: Path, serial: str) -> tuple[Path, Path]:
    """A certificate as an operator has it, readable by root only."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    made, config = directory / f"{serial}.tmp", directory / "openssl.conf"
    # Without what OpenSSL adds by itself, which is an authority.
    config.write_text("[req]\ndistinguished_name=name\n[name]\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-config", str(config), "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-set_serial", serial, "-addext", "basicConstraints=critical,CA:FALSE", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:*.{DOMAIN}", "-keyout", f"{made}.key", "-out", str(made)],
        check=True, capture_output=True,
    )
    for source, target in ((Path(f"{made}.key"), key), (made, cert)):
        source.chmod(0o600)
        shutil.move(source, target)
    return cert, key


def test_a_certificate_of_the_operator_is_taken_up_when_it_changes(tmp_path):
    tmp_path.chmod(0o700)
    cert, key = operators(tmp_path, "1")
    place = Place("domain-operator", 0, "--tls-cert", str(cert), "--tls-key", str(key)).open()
    try:
        assert place.server.env["SSL_CERT_FILE"] == str(cert)
        seen = place.python(cert)
        check(place, seen)
        assert handshake(place, f"api.{DOMAIN}", cert)["serialNumber"] == "01"
        cert.write_text("half written")
        wait_until("the word of a bad certificate", 30, lambda: "the certificate in use stays" in place.server.log_path.read_text())
        first = tmp_path / "first.pem"
        operators(tmp_path, "2")
        shutil.copy(cert, first)

        def serial() -> str:
            try:
                return handshake(place, f"api.{DOMAIN}", first)["serialNumber"]
            except ssl.SSLError:
                return ""

        wait_until("the new certificate", 30, lambda: serial() == "02")
    finally:
        place.close()
