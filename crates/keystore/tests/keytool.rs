//! What Java itself reads in the stores, by the JDK's `keytool`.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{CertificateParams, KeyPair};
use soulbox_keystore::with_certificates;

fn keytool(args: &[&str]) -> String {
    let done = Command::new("keytool").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

fn certificate(name: &str) -> (Vec<u8>, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let made = params.self_signed(&key).unwrap();
    (made.der().to_vec(), made.pem())
}

/// The names of the trusted entries.
fn trusted(store: &Path, password: &[&str]) -> Vec<String> {
    let listed = ["-list", "-keystore", store.to_str().unwrap()];
    let said = keytool(&[&listed[..], password].concat());
    let entries = said
        .lines()
        .filter(|line| line.contains("trustedCertEntry"));
    let mut names: Vec<String> = entries
        .map(|line| line.split(',').next().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn java_trusts_ours_and_what_was_there(kind: &str, making: &[&str], password: &[&str]) {
    if Command::new("keytool").output().is_err() {
        eprintln!("SKIP {kind}: no keytool on this machine");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (store, pem) = (place.path().join("cacerts"), place.path().join("own.pem"));
    fs::write(&pem, certificate("own.example").1).unwrap();
    let (store_text, pem) = (store.to_str().unwrap(), pem.to_str().unwrap());
    let import = ["-importcert", "-noprompt", "-alias", "own", "-file", pem];
    let to = [
        "-keystore",
        store_text,
        "-storetype",
        kind,
        "-storepass",
        "changeit",
    ];
    keytool(&[&import[..], &to, making].concat());
    assert_eq!(trusted(&store, password), ["own"]);

    let (first, second) = (
        certificate("first.example").0,
        certificate("second.example").0,
    );
    let both = with_certificates(&fs::read(&store).unwrap(), &[&first, &second]).unwrap();
    fs::write(&store, &both).unwrap();
    assert_eq!(trusted(&store, password), ["own", "soulbox-0", "soulbox-1"]);

    let one = with_certificates(&both, &[&second]).unwrap();
    fs::write(&store, &one).unwrap();
    assert_eq!(trusted(&store, password), ["own", "soulbox-0"]);
    assert!(one.windows(second.len()).any(|window| window == second));
    assert!(!one.windows(first.len()).any(|window| window == first));

    let none = with_certificates(&one, &[]).unwrap();
    fs::write(&store, none).unwrap();
    assert_eq!(trusted(&store, password), ["own"]);
}

#[test]
fn in_javas_own_format() {
    let password = ["-storepass", "changeit"];
    java_trusts_ours_and_what_was_there("JKS", &[], &password);
}

#[test]
fn in_pkcs12_without_a_password() {
    let making = [
        "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE",
        "-J-Dkeystore.pkcs12.macAlgorithm=NONE",
    ];
    java_trusts_ours_and_what_was_there("PKCS12", &making, &["-storepass", ""]);
}

#[test]
fn what_cannot_be_changed_is_left_alone() {
    for store in [&b""[..], b"\xfe\xed\xfe\xed", &[0x30, 0x80], &[0; 64]] {
        assert!(with_certificates(store, &[b"x"]).is_none());
    }
}
