//! [`Dockerfile::plan`].

use std::collections::BTreeMap;

use crate::{Base, Dockerfile, platform_arg};

fn show(base: &Base) -> String {
    match base {
        Base::Image(name) => name.clone(),
        Base::Stage(number) => format!("#{number}"),
        Base::Scratch => "nothing".to_owned(),
    }
}

/// `0=image 1=#0(build:#0)`: stages in order, what each stands on, what it copies from.
fn plan(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> String {
    let args: BTreeMap<String, String> = args
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let file = Dockerfile::parse(text).unwrap_or_else(|bad| panic!("{text}\n{bad}"));
    let planned = match file.plan(target, &args, "amd64") {
        Ok(planned) => planned,
        Err(bad) => return bad.to_string(),
    };
    let stages = planned.iter().map(|planned| {
        let uses = planned.uses.iter();
        let uses: Vec<String> = uses
            .map(|(from, base)| format!("{from}:{}", show(base)))
            .collect();
        let uses = match uses.as_slice() {
            [] => String::new(),
            uses => format!("({})", uses.join(" ")),
        };
        format!("{}={}{uses}", planned.stage, show(&planned.base))
    });
    stages.collect::<Vec<_>>().join(" ")
}

const STAGES: &str = "FROM a AS One\nFROM b AS unused\nFROM one AS two\nCOPY --from=ONE /x /x\nCOPY --from=0 /x /x\n\
                      COPY --from=img:1 /x /x\nFROM scratch\nCOPY --from=two /x /x";

#[test]
fn stages() {
    let all = "0=a 2=#0(0:#0 ONE:#0 img:1:img:1) 3=nothing(two:#2)";
    let rows = [
        ("FROM a", None, "0=a"),
        ("FROM scratch", None, "0=nothing"),
        (STAGES, None, all),
        (STAGES, Some("two"), "0=a 2=#0(0:#0 ONE:#0 img:1:img:1)"),
        (STAGES, Some("TWO"), "0=a 2=#0(0:#0 ONE:#0 img:1:img:1)"),
        (STAGES, Some("unused"), "1=b"),
        (STAGES, Some("0"), "0=a"),
        (STAGES, Some("3"), all),
        // A name that comes later is an image's.
        ("FROM b\nFROM a AS b", Some("0"), "0=b"),
        // The last one of a name counts.
        ("FROM a AS x\nFROM b AS x\nFROM x", None, "1=b 2=#1"),
        ("FROM a AS x\nFROM x AS x\nFROM x", None, "0=a 1=#0 2=#1"),
        ("FROM a\nFROM 0", None, "1=0"),
        ("FROM a\nADD x y", None, "0=a"),
    ];
    for (text, target, expected) in rows {
        assert_eq!(plan(text, target, &[]), expected, "{text} {target:?}");
    }
}

/// A file, the caller's values, the plan.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn variables_before_the_first_from() {
    let rows: [Row<'_>; 9] = [
        ("ARG a=1\nFROM x:$a", &[], "0=x:1"),
        ("ARG a=1\nFROM x:$a", &[("a", "2")], "0=x:2"),
        ("ARG a\nFROM x:${a:-3}", &[], "0=x:3"),
        ("ARG a=\"1\" b=${a}2\nFROM x:$b", &[("a", "4")], "0=x:42"),
        // Only what is declared counts.
        ("FROM x$a", &[("a", "2")], "0=x"),
        ("ARG s=one\nFROM a AS one\nFROM $s", &[], "0=a 1=#0"),
        ("FROM a\nARG b=1\nFROM x$b", &[], "1=x"),
        ("FROM --platform=$BUILDPLATFORM a", &[], "0=a"),
        ("FROM --platform=linux a", &[], "0=a"),
    ];
    for (text, args, expected) in rows {
        assert_eq!(plan(text, None, args), expected, "{text} {args:?}");
    }
    assert_eq!(plan("FROM a-$TARGETARCH", None, &[]), "0=a-amd64");
    let platform = platform_arg("TARGETPLATFORM", "arm64");
    assert_eq!(platform.as_deref(), Some("linux/arm64"));
    assert_eq!(platform_arg("TARGETX", "arm64"), None);
    let file = Dockerfile::parse("ARG a=1 b\nFROM x").unwrap();
    let values = file.global_args(&BTreeMap::new(), "amd64").unwrap();
    assert_eq!(values, BTreeMap::from([("a".to_owned(), "1".to_owned())]));
}

#[test]
fn refusals() {
    let rows = [
        (
            STAGES,
            Some("three"),
            "there is no stage three\nFIX: --target one or unused or two",
        ),
        (STAGES, Some("4"), "there is no stage 4"),
        (
            "FROM a",
            Some("x"),
            "there is no stage x\nFIX: leave --target out",
        ),
        (
            "ARG a\n\nFROM $a",
            None,
            "line 3: FROM $a names no image\nFIX: ",
        ),
        ("FROM ${a:?which}", None, "line 1: a: which\nFIX: "),
        ("FROM ${a", None, "line 1: a } is missing"),
        (
            "FROM a\nCOPY --from=1 /x /y",
            None,
            "line 2: --from=1 is no stage before this one\nFIX: ",
        ),
        (
            "FROM a\nCOPY --from=0 /x /y",
            None,
            "line 2: --from=0 is no stage before this one",
        ),
        (
            "FROM a AS b\nCOPY --from=b /x /y",
            None,
            "line 2: --from=b is no stage before this one",
        ),
        (
            "FROM a\nCOPY --from=b /x /y\nFROM c AS b",
            Some("0"),
            "line 2: --from=b is no stage",
        ),
        (
            "FROM --platform=windows/amd64 a",
            None,
            "line 1: --platform=windows/amd64: this server",
        ),
    ];
    for (text, target, expected) in rows {
        let said = plan(text, target, &[]);
        assert!(said.starts_with(expected), "{text} {target:?}\n{said}");
    }
    // What is not needed may be wrong.
    assert_eq!(
        plan("FROM a AS x\nCOPY --from=7 /x /y\nFROM b", None, &[]),
        "1=b"
    );
}
