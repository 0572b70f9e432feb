//! Precedence, and every problem found at once.

use super::*;

fn inputs(file: &str, environment: &[(&str, &str)], flags: &[(Setting, &str)]) -> Inputs {
    Inputs {
        file: (!file.is_empty()).then(|| (PathBuf::from("/etc/x.toml"), file.to_owned())),
        environment: environment
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        flags: flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
    }
}

#[test]
fn defaults_hold_together() {
    let config = judge(&Inputs::default()).unwrap().config;
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/soulbox"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(config.max_timeout, Duration::from_secs(24 * 3600));
    assert_eq!(config.metrics_listen, None);
    assert_eq!(config.default_limits, Limits::STANDARD);
    assert!(config.dns_upstreams.is_empty());
}

#[test]
fn later_layers_win() {
    let file = "listen = \"127.0.0.1:1\"\ndomain = \"file.example\"\nslots_ready = 1\nlog.level = \"debug\"";
    let environment = [
        ("SOULBOX_LISTEN", "127.0.0.1:2"),
        ("SOULBOX_DOMAIN", "env.example"),
        ("SOULBOX_LOG_LEVEL", ""),
    ];
    let given = inputs(file, &environment, &[(Setting::Listen, "127.0.0.1:3")]);
    let effective = judge(&given).unwrap();
    assert_eq!(effective.config.listen.port(), 3);
    assert_eq!(effective.config.domain.as_deref(), Some("env.example"));
    assert_eq!(effective.config.slots_ready, 1);
    assert_eq!(
        effective.config.log_level, "debug",
        "an empty variable counts as not set"
    );
    let source = |key| effective.raw.get(key).source.clone();
    assert_eq!(source(Setting::Listen), Source::Flag("--listen".to_owned()));
    assert_eq!(
        source(Setting::Domain),
        Source::Environment("SOULBOX_DOMAIN".to_owned())
    );
    assert_eq!(
        source(Setting::SlotsReady),
        Source::File(PathBuf::from("/etc/x.toml"))
    );
    assert_eq!(source(Setting::DataDir), Source::Default);
}

#[test]
fn tables_and_lists() {
    let file =
        "dns_upstreams = [\"9.9.9.9\", \"[::1]:5353\"]\n[limits]\nvcpu = 4\nmemory_mib = 2048\n";
    let config = judge(&inputs(file, &[], &[])).unwrap().config;
    let upstreams: Vec<String> = config
        .dns_upstreams
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(upstreams, ["9.9.9.9:53", "[::1]:5353"]);
    assert_eq!(
        (
            config.default_limits.vcpu_count,
            config.default_limits.memory_mib
        ),
        (4, 2048)
    );
}

#[test]
fn mirrors() {
    let file = "[mirrors]\npip = \"https://m.example/simple/\"\n\
                [mirrors.registries]\n\"docker.io\" = \"https://m.example/hub\"\nghcr.io = \"http://n\"\n";
    // An unquoted `ghcr.io` is a table in TOML, and no text.
    assert!(judge(&inputs(file, &[], &[])).is_err());
    let file = file.replace("ghcr.io", "\"ghcr.io\"");
    let mirrors = judge(&inputs(&file, &[], &[])).unwrap().config.mirrors;
    assert_eq!(mirrors.pip.as_deref(), Some("https://m.example/simple"));
    let registries: Vec<_> = mirrors.registries.into_iter().collect();
    let pair = |registry: &str, mirror: &str| (registry.to_owned(), mirror.to_owned());
    let want = [
        pair("docker.io", "https://m.example/hub"),
        pair("ghcr.io", "http://n"),
    ];
    assert_eq!(registries, want);

    let flags = [
        (Setting::MirrorsApt, "mirror.example"),
        (Setting::MirrorsRegistries, "docker.io"),
    ];
    let problems = judge(&inputs("", &[], &flags)).unwrap_err();
    insta::assert_snapshot!(problems.join("\n"), @r#"
    mirrors.apt = "mirror.example" (from flag --mirrors-apt): expected an address such as https://mirror.example/path, without name, password, ? and #
    mirrors.registries = "docker.io" (from flag --mirrors-registries): expected registry=address pairs such as docker.io=https://mirror.example, separated by commas, each registry once
    "#);
}

#[test]
fn every_problem_is_found() {
    let file = "listne = \"x\"\nslots_ready = 9999\ntls_cert = \"/a.pem\"\nnonsense_here = 1";
    let environment = [
        ("SOULBOX_DATADIR", "/x"),
        ("SOULBOX_SERVICE_HOST", "10.0.0.1"),
        ("SOULBOX_LISTEN", "3000"),
    ];
    let flags = [
        (Setting::DnsUpstreams, "9.9.9.9,dns.example"),
        (Setting::LogFormat, "xml"),
    ];
    let problems = judge(&inputs(file, &environment, &flags)).unwrap_err();
    insta::assert_snapshot!(problems.join("\n"), @r#"
    /etc/x.toml: unknown key listne; did you mean listen?
    /etc/x.toml: unknown key nonsense_here; `soulbox config check` lists the known keys
    environment: unknown variable SOULBOX_DATADIR; did you mean SOULBOX_DATA_DIR?
    listen = "3000" (from environment SOULBOX_LISTEN): expected an address such as 127.0.0.1:3000
    tls_key = "" (from default): expected the private key file that belongs to tls_cert
    log.format = "xml" (from flag --log-format): expected auto, human or json
    slots_ready = "9999" (from file /etc/x.toml): expected a whole number from 0 to 256
    dns_upstreams = "9.9.9.9,dns.example" (from flag --dns-upstreams): expected IP addresses, with a port where it is not 53, separated by commas
    domain = "" (from default): expected the domain that the certificate of tls_cert is for
    "#);
}

#[test]
fn a_file_that_is_no_toml() {
    let problems = judge(&inputs("listen = \"127.0.0.1:1\"\nlisten =\n", &[], &[])).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("/etc/x.toml line 2: not TOML: "),
        "{}",
        problems[0]
    );
}

#[test]
fn relative_paths_only_from_where_somebody_stands() {
    assert!(judge(&inputs("data_dir = \"state\"", &[], &[])).is_err());
    let config = judge(&inputs("", &[], &[(Setting::DataDir, "state")]))
        .unwrap()
        .config;
    assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("state"));
}

#[test]
fn names_have_one_spelling_each() {
    let flags: Vec<String> = Setting::ALL.map(Setting::flag).to_vec();
    assert_eq!(
        flags
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        Setting::ALL.len()
    );
    assert_eq!(
        Setting::LimitsMemoryMib.variable(),
        "SOULBOX_LIMITS_MEMORY_MIB"
    );
    assert_eq!(Setting::LimitsMemoryMib.flag(), "--limits-memory-mib");
    let unused: BTreeMap<String, Setting> = Setting::ALL
        .into_iter()
        .map(|key| (key.variable(), key))
        .collect();
    assert_eq!(unused.len(), Setting::ALL.len());
}

#[test]
fn domains() {
    for good in ["example.com", "localhost", "a-b.c"] {
        assert!(is_domain(good), "{good}");
    }
    for bad in ["", "https://x", "x:1", "-x.com", "a..b", "127.0.0.1", "*.x"] {
        assert!(!is_domain(bad), "{bad}");
    }
}

#[test]
fn a_certificate_comes_from_one_place() {
    let whole = [
        (Setting::Domain, "box.test"),
        (Setting::AcmeDirectory, "https://ca.test/directory"),
        (Setting::AcmeContact, "ops@box.test"),
        (Setting::AcmeDnsCommand, "/etc/soulbox/dns --zone box.test"),
        (Setting::AcmeCaFile, "/etc/ca.pem"),
        (Setting::AcmeAcceptTerms, "true"),
    ];
    let tls = judge(&inputs("", &[], &whole)).unwrap().config.tls.unwrap();
    assert_eq!((tls.listen, tls.files()), (None, None));
    let acme = tls.acme().unwrap();
    assert_eq!(acme.contact.as_deref(), Some("ops@box.test"));
    let without = |key| whole.into_iter().filter(move |(one, _)| *one != key);
    for (key, wanted) in [
        (
            Setting::Domain,
            "domain = \"\" (from default): expected the domain that acme_directory",
        ),
        (
            Setting::AcmeDirectory,
            "acme_directory = \"\" (from default): expected the directory",
        ),
        (
            Setting::AcmeDnsCommand,
            "acme_dns_command = \"\" (from default): expected the absolute path",
        ),
        (
            Setting::AcmeAcceptTerms,
            "acme_accept_terms = \"false\" (from default): expected true:",
        ),
    ] {
        let flags: Vec<_> = without(key).collect();
        let problems = judge(&inputs("", &[], &flags)).unwrap_err();
        assert!(problems[0].starts_with(wanted), "{problems:?}");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
    let files = [(Setting::TlsCert, "/c.pem"), (Setting::TlsKey, "/k.pem")];
    let both: Vec<_> = whole.into_iter().chain(files).collect();
    let problems = judge(&inputs("", &[], &both)).unwrap_err();
    assert!(
        problems[0].contains("nothing where tls_cert is set"),
        "{problems:?}"
    );
    for (key, value) in [
        (Setting::AcmeDirectory, "http://ca.test/directory"),
        (Setting::AcmeContact, "mailto:ops@box.test"),
        (Setting::AcmeContact, "ops"),
        (Setting::AcmeDnsCommand, "dns"),
        (Setting::AcmeAcceptTerms, "yes"),
    ] {
        let flags: Vec<_> = without(key).chain([(key, value)]).collect();
        let problems = judge(&inputs("", &[], &flags)).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(key.name()), "{problems:?}");
    }
}
