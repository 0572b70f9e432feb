"""A server that has its certificate from an ACME authority: the first one, the next one, and what may go wrong."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from acme import Authority
from place import DOMAIN, Place, handshake, loopback
from server import wait_until

RECORD = f"_acme-challenge.{DOMAIN}"
BOTH = {("DNS", DOMAIN), ("DNS", f"*.{DOMAIN}")}


@contextmanager
def served(purpose: str, validity: int | None = None, mode: str = "work"):
    """A server and its authority."""
    authority = Authority(loopback(), validity)
    try:
        authority.set_mode(mode)
        place = Place(purpose, 0, *authority.flags)
        try:
            yield place.open(), authority
        finally:
            place.close()
    finally:
        authority.close()


def shown(place: Place, trusted: Path) -> dict | None:
    """The certificate that clients are shown, if it is one that this vouches for."""
    try:
        return handshake(place, f"api.{DOMAIN}", trusted)
    except ssl.SSLError:
        return None


def obtained(place: Place, authority: Authority) -> dict:
    """The certificate, when the order is over and done with."""
    seen = wait_until("a certificate of the authority", 60, lambda: shown(place, authority.root))
    records = place.server.data_dir / f"acme-{DOMAIN}.records"
    wait_until("the records to be removed", 20, lambda: not records.exists())
    return seen


def log(place: Place) -> str:
    return place.server.log_path.read_text()


def is_healthy(place: Place) -> bool:
    url = f"{place.server.env['E2B_API_URL']}/health"
    return urllib.request.urlopen(url, timeout=10).status in (200, 204)


@pytest.fixture(scope="module")
def made():
    with served("acme") as both:
        yield both


def test_one_certificate_for_the_domain_and_all_below_it(made):
    place, authority = made
    assert set(obtained(place, authority)["subjectAltName"]) == BOTH
    assert handshake(place, f"3000-iabc.{DOMAIN}", authority.root)
    assert handshake(place, DOMAIN, authority.root)
    acts = [(act, name) for act, name, _ in authority.calls()]
    assert acts == [("present", RECORD)] * 2 + [("cleanup", RECORD)] * 2, "each value was made, and removed afterwards"
    assert authority.records() == []


def test_python(made):
    place, authority = made
    obtained(place, authority)
    assert "SSL_CERT_FILE" not in place.server.env, "clients are to trust what they trust anyway"
    seen = place.python(authority.root)
    assert seen["host"] == f"8000-{seen['id']}.{place.domain}"
    assert (seen["command"], seen["page"]) == ("hello\n", [200, "reached"])


def test_what_is_kept_is_the_servers_alone(made):
    place, authority = made
    obtained(place, authority)
    kept = {path.name: path.stat().st_mode & 0o777 for path in place.server.data_dir.glob("acme-*")}
    assert kept == {"acme-account.key": 0o600, f"acme-{DOMAIN}.pem": 0o600}
    assert "PRIVATE KEY" not in log(place) and "PRIVATE KEY" not in (authority.work / "pebble.log").read_text()


def test_a_restart_keeps_certificate_and_account(made):
    place, authority = made
    before, calls = obtained(place, authority), authority.calls()
    account = (place.server.data_dir / "acme-account.key").read_text()
    place.server.stop()
    # As after a start with another block of ids.
    for file in place.server.data_dir.glob("acme-*"):
        os.chown(file, 60_000, 60_000)
    place.server.start()
    assert shown(place, authority.root)["serialNumber"] == before["serialNumber"], "from the first connection on"
    assert (place.server.data_dir / "acme-account.key").read_text() == account
    assert authority.calls() == calls, "nothing was asked for"


def test_a_command_that_fails_is_told_and_the_server_goes_on():
    with served("acme-fails", mode="fail") as (place, authority):
        wait_until("the word of the failure", 30, lambda: "the zone is locked" in log(place))
        assert "there is no certificate of the ACME authority yet" in log(place)
        said = next(line for line in log(place).splitlines() if "there is no new certificate; it is tried again" in line)
        assert "acme_dns_command present has failed" in said and "exit status: 3" in said
        assert is_healthy(place)
        # Until then: the server's own authority.
        assert handshake(place, f"api.{DOMAIN}", place.server.data_dir / f"ca-{DOMAIN}.pem")
        place.server.stop()
        authority.set_mode("work")
        place.server.start()
        assert set(obtained(place, authority)["subjectAltName"]) == BOTH
        acts = [act for act, _, _ in authority.calls()]
        assert acts.count("cleanup") >= 3, "the record that was not made for sure was removed, too"


def doctor(place: Place, authority: Authority) -> dict[str, dict]:
    """What `soulbox doctor` finds for this server, by name."""
    options = authority.flags
    pairs = list(zip(options[::2], options[1::2])) + [("--acme-accept-terms", "true"), ("--domain", DOMAIN)]
    variables = {name.replace("--", "SOULBOX_").replace("-", "_").upper(): value for name, value in pairs}
    command = [str(place.server.binary), "doctor", "--json", "--data-dir", str(place.server.data_dir)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_certificate_is_renewed_while_clients_are_served():
    with served("acme-renews", validity=30) as (place, authority):
        first = obtained(place, authority)["serialNumber"]
        assert doctor(place, authority)["https certificate"]["status"] == "ok"

        def another() -> str | None:
            now = shown(place, authority.root)
            return now and now["serialNumber"] != first and now["serialNumber"]

        second = wait_until("the next certificate", 60, another, interval=0.5)
        assert second and "EXPIRED" not in log(place), "it was renewed before its end"

        # From now on, none can be had.
        authority.set_mode("fail")
        wait_until("the end of the certificate", 90, lambda: "EXPIRED" in log(place), interval=0.5)
        assert is_healthy(place) and shown(place, authority.root) is None
        found = doctor(place, authority)
        assert found["https certificate"]["status"] == "warn" and "EXPIRED" in found["https certificate"]["found"]
        assert found["acme dns command"]["status"] == "ok"
        authority.set_mode("work")
        assert obtained(place, authority)["serialNumber"] not in (first, second), "by itself, without a restart"


def test_another_authority_is_asked_at_once_and_the_old_certificate_stays_meanwhile():
    with served("acme-another") as (place, first):
        old = obtained(place, first)
        place.server.stop()
        second = Authority(loopback())
        try:
            second.set_mode("hang")
            before = place.server.arguments
            place.server.arguments = (*before[: before.index("--acme-directory")], *second.flags)
            place.server.start()
            pid = wait_until("the order", 30, second.hanging)
            assert shown(place, first.root)["serialNumber"] == old["serialNumber"]
            second.set_mode("work")
            # A stop waits for no program.
            place.server.stop()
            wait_until("the end of the program", 10, lambda: not Path(f"/proc/{pid}").exists())
            place.server.start()
            assert set(obtained(place, second)["subjectAltName"]) == BOTH
            assert shown(place, first.root) is None
        finally:
            second.close()


def test_a_kill_in_the_middle_of_an_order():
    with served("acme-killed", mode="hang") as (place, authority):
        pid = wait_until("a program that hangs", 30, authority.hanging)
        [(act, name, value)] = authority.calls()
        assert (act, name) == ("present", RECORD)
        account = (place.server.data_dir / "acme-account.key").read_text()
        place.server.kill()
        wait_until("the end of the program", 10, lambda: not Path(f"/proc/{pid}").exists())
        authority.set_mode("work")
        place.server.start()
        assert set(obtained(place, authority)["subjectAltName"]) == BOTH
        assert authority.calls()[1] == ["cleanup", RECORD, value], "first of all, what was left is removed"
        assert (place.server.data_dir / "acme-account.key").read_text() == account
        assert authority.records() == []
