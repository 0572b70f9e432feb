//! [`Dockerfile::parse`].

use proptest::prelude::*;

use super::{body, error, shown};
use crate::{Arg, Command, Dockerfile, Kind};

/// An instruction, and what it means.
const INSTRUCTIONS: &[(&str, &str)] = &[
    // RUN
    ("RUN echo hi", "RUN sh echo hi"),
    ("run   echo  hi  ", "RUN sh echo  hi"),
    ("RUN [\"echo\", \"a b\"]", r#"RUN ["echo", "a b"]"#),
    (r#"RUN ["a\"b", "\u00e9"]"#, r#"RUN ["a\"b", "é"]"#),
    // What is no JSON is for the shell.
    ("RUN ['echo', 'hi']", "RUN sh ['echo', 'hi']"),
    ("RUN [ -e /x ] || true", "RUN sh [ -e /x ] || true"),
    ("RUN [[ -e /x ]]", "RUN sh [[ -e /x ]]"),
    ("RUN [1]", "RUN sh [1]"),
    ("RUN echo a \\\n  b", "RUN sh echo a   b"),
    ("RUN echo a\\\n# no\n\n   # neither\nb", "RUN sh echo ab"),
    ("RUN echo a\\  \nb", "RUN sh echo ab"),
    // An escape that is escaped goes on nowhere.
    ("RUN echo a\\\\", "RUN sh echo a\\\\"),
    ("RUN echo a # b", "RUN sh echo a # b"),
    ("RUN echo a \\", "RUN sh echo a"),
    (
        "RUN --mount=type=cache,target=/x apt-get update",
        "RUN sh apt-get update (--mount=type=cache)",
    ),
    (
        "RUN --mount=type=tmpfs,target=/x --network=default ls",
        "RUN sh ls (--mount=type=tmpfs)",
    ),
    ("RUN --network=host ls", "RUN sh ls (--network=host)"),
    ("RUN --security=sandbox -- ls --mount", "RUN sh ls --mount"),
    (
        "RUN --mount=type=cache,id=\"a b\" [\"ls\"]",
        r#"RUN ["ls"] (--mount=type=cache)"#,
    ),
    // here-documents
    (
        "RUN <<EOF\necho a\n  echo b\nEOF",
        "RUN sh echo a\n  echo b\n",
    ),
    ("RUN <<EOF\r\necho a\r\nEOF\r\n", "RUN sh echo a\r\n"),
    (
        "RUN <<-EOF\n\techo a\n\t\techo b\n\tEOF",
        "RUN sh echo a\necho b\n",
    ),
    (
        "RUN cat <<EOF >/x\na $b\nEOF",
        "RUN sh cat <<EOF >/x\na $b\nEOF\n",
    ),
    ("RUN cat <<'EOF'\na\nEOF", "RUN sh cat <<'EOF'\na\nEOF\n"),
    (
        "RUN a <<A b <<B\n1\nA\n2\nB",
        "RUN sh a <<A b <<B\n1\nA\n2\nB\n",
    ),
    (
        "RUN <<EOF\nRUN no\n# no\n\\\nEOF",
        "RUN sh RUN no\n# no\n\\\n",
    ),
    (
        "RUN --mount=type=cache,target=/x <<EOF\nls\nEOF",
        "RUN sh ls\n (--mount=type=cache)",
    ),
    ("RUN echo \"<<EOF\"", "RUN sh echo \"<<EOF\""),
    ("RUN echo $((1 << 2))", "RUN sh echo $((1 << 2))"),
    ("RUN grep x <<<text", "RUN sh grep x <<<text"),
    // COPY and ADD
    ("COPY a b", "COPY a -> b"),
    ("COPY a b c/", "COPY a b -> c/"),
    ("COPY [\"a b\", \"c d\"]", "COPY a b -> c d"),
    ("COPY \\\n  a \\\n  b/", "COPY a -> b/"),
    (
        "COPY --from=Build --chown=1:1 --chmod=0755 --link /a /b",
        "COPY /a -> /b from=Build owner=1:1 mode=0755",
    ),
    ("COPY --chown=\"$USER:x\" a b", "COPY a -> b owner=$USER:x"),
    ("COPY --link=false a b", "COPY a -> b"),
    ("COPY <<EOF /x\na\nb\nEOF", "COPY <$EOF:\"a\\nb\\n\"> -> /x"),
    (
        "COPY <<'a.txt' <<-\"b.txt\" /x/\n$a\na.txt\n\tb\n\tb.txt",
        "COPY <a.txt:\"$a\\n\"> <b.txt:\"b\\n\"> -> /x/",
    ),
    ("COPY a <<EOF b /x/\nEOF", "COPY a <$EOF:\"\"> b -> /x/"),
    ("ADD a.tar.gz /x", "ADD a.tar.gz -> /x"),
    (
        "ADD --chown=1 --chmod=644 a b",
        "ADD a -> b owner=1 mode=644",
    ),
    // variables
    ("ENV a=b", "ENV a=b"),
    (
        "ENV a=b c=\"d e\" f='g h' i=j\\ k",
        "ENV a=b|c=\"d e\"|f='g h'|i=j\\ k",
    ),
    ("ENV a b c=d", "ENV a=b c=d"),
    ("ENV a=", "ENV a="),
    ("ENV a=b=c", "ENV a=b=c"),
    ("ENV a=b \\\n    c=d", "ENV a=b|c=d"),
    ("ARG a", "ARG a"),
    ("ARG a=\"b c\" d e=", "ARG a=\"b c\"|d|e="),
    // the rest
    ("WORKDIR /a b", "WORKDIR /a b"),
    ("USER a:b", "USER a:b"),
    (
        "SHELL [\"/bin/bash\", \"-c\"]",
        r#"SHELL ["/bin/bash", "-c"]"#,
    ),
    ("CMD a b", "CMD sh a b"),
    ("CMD [\"a\", \"b\"]", r#"CMD ["a", "b"]"#),
    ("CMD []", "CMD []"),
    ("CMD", "CMD []"),
    ("ENTRYPOINT [\"a\"]", r#"ENTRYPOINT ["a"]"#),
    ("ENTRYPOINT a", "ENTRYPOINT sh a"),
    ("HEALTHCHECK --interval=1s CMD curl x", "- HEALTHCHECK"),
    ("HEALTHCHECK NONE", "- HEALTHCHECK"),
    ("EXPOSE 80 443/udp", "- EXPOSE"),
    ("VOLUME [\"/a\"]", "- VOLUME"),
    ("LABEL a=b", "- LABEL"),
    ("MAINTAINER me", "- MAINTAINER"),
    ("STOPSIGNAL SIGTERM", "- STOPSIGNAL"),
    ("ONBUILD RUN <<EOF\nls\nEOF", "- ONBUILD"),
];

#[test]
fn one_instruction() {
    for (text, expected) in INSTRUCTIONS {
        assert_eq!(body(&format!("FROM x\n{text}")), [*expected], "{text}");
        assert_eq!(body(&format!("FROM x\n{text}\n")), [*expected], "{text}");
    }
}

#[test]
fn escapes_with_a_backtick() {
    let rows = [
        ("RUN a `\n  b", "RUN sh a   b"),
        ("RUN dir C:\\", "RUN sh dir C:\\"),
        ("ENV a=C:\\x", "ENV a=C:\\\\x"),
        ("ENV a=b` c", "ENV a=b\\ c"),
        ("ENV a=\"`\"\\`x\"", "ENV a=\"\\\"\\\\`x\""),
        ("ENV a='`\\'", "ENV a='`\\'"),
        ("WORKDIR C:\\x`$y", "WORKDIR C:\\\\x\\$y"),
        ("COPY a\\b c", "COPY a\\\\b -> c"),
    ];
    for (text, expected) in rows {
        let text = format!("# syntax=docker/dockerfile:1\n#escape = `\nFROM x\n{text}\n");
        assert_eq!(body(&text), [expected], "{text}");
    }
    // A comment that comes later is a comment.
    assert_eq!(
        body("# a comment\n# escape=`\nFROM x\nRUN a\\\nb"),
        ["RUN sh ab"]
    );
}

#[test]
fn a_script_with_its_own_interpreter() {
    let file = Dockerfile::parse("FROM x\nRUN <<EOF\n#!/usr/bin/python3\nprint(1)\nEOF").unwrap();
    let Kind::Run(run) = &file.stages[0].instructions[0].kind else {
        panic!("{file:?}")
    };
    let Command::Exec(words) = &run.command else {
        panic!("{run:?}")
    };
    assert_eq!(words[..2], ["/bin/sh", "-c"]);
    assert_eq!(words[4], "#!/usr/bin/python3\nprint(1)\n");
}

#[test]
fn a_whole_file() {
    let text = "\u{feff}# syntax=docker/dockerfile:1\r\n\
                ARG VERSION=1 OTHER\r\n\
                \r\n\
                # the first\r\n\
                FROM --platform=$BUILDPLATFORM image:${VERSION} AS Build\r\n\
                RUN one \\\r\n\
                # between\r\n\
                    && two\r\n\
                from scratch\r\n\
                COPY --from=build /a \\\r\n  /b\r\n";
    let file = Dockerfile::parse(text).unwrap();
    let arg = |name: &str, default: Option<&str>| Arg {
        name: name.to_owned(),
        default: default.map(ToOwned::to_owned),
    };
    assert_eq!(file.args, [arg("VERSION", Some("1")), arg("OTHER", None)]);
    let [first, second] = file.stages.as_slice() else {
        panic!("{file:?}")
    };
    assert_eq!(first.name.as_deref(), Some("build"));
    assert_eq!(first.from, "image:${VERSION}");
    assert_eq!(first.platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!((first.line, second.line), (5, 9));
    assert_eq!(
        (second.name.as_deref(), second.from.as_str()),
        (None, "scratch")
    );
    let run = &first.instructions[0];
    assert_eq!((run.line, run.text.as_str()), (6, "RUN one && two"));
    let copy = &second.instructions[0];
    assert_eq!(
        (copy.line, copy.text.as_str()),
        (10, "COPY --from=build /a   /b")
    );
    assert_eq!(shown(&copy.kind), "COPY /a -> /b from=build");
}

/// A file, and how its error begins.
const REFUSED: &[(&str, &str)] = &[
    ("", "the Dockerfile has no FROM"),
    ("# nothing\n\n", "the Dockerfile has no FROM"),
    ("ARG a", "the Dockerfile has no FROM"),
    ("\\\n\\\n", "the Dockerfile has no FROM"),
    ("RUN ls\nFROM x", "line 1: RUN stands before the first FROM"),
    ("FORM x", "line 1: FORM is no instruction"),
    (
        "FROM x\n\nRUN a\\\n b\nINSTALL y",
        "line 5: INSTALL is no instruction",
    ),
    ("FROM x\nfoo", "line 2: FOO is no instruction"),
    ("FROM", "line 1: FROM has one image"),
    ("FROM a b", "line 1: FROM has one image"),
    ("FROM a AS", "line 1: FROM has one image"),
    ("FROM a AS b c", "line 1: FROM has one image"),
    ("FROM a AS 1b", "line 1: 1b cannot be the name of a stage"),
    ("FROM --pull a", "line 1: FROM has no flag --pull"),
    ("FROM --platform a", "line 1: --platform needs a value"),
    ("FROM x\nRUN", "line 2: RUN has no command"),
    ("FROM x\nRUN []", "line 2: RUN has no command"),
    (
        "FROM x\nRUN --mount=type=cache",
        "line 2: RUN has no command",
    ),
    (
        "FROM x\nRUN --mount=type=secret,id=a ls",
        "line 2: --mount=type=secret cannot",
    ),
    (
        "FROM x\nRUN --mount=type=ssh ls",
        "line 2: --mount=type=ssh cannot",
    ),
    (
        "FROM x\nRUN --mount=target=/x ls",
        "line 2: --mount=type=bind cannot",
    ),
    ("FROM x\nRUN --mount ls", "line 2: --mount needs a value"),
    (
        "FROM x\nRUN --network=none ls",
        "line 2: --network=none cannot",
    ),
    (
        "FROM x\nRUN --security=insecure ls",
        "line 2: --security=insecure cannot",
    ),
    ("FROM x\nRUN --fast ls", "line 2: RUN has no flag --fast"),
    (
        "FROM x\nRUN <<EOF\nls\n",
        "line 2: the here-document EOF does not end",
    ),
    (
        "FROM x\nCOPY <<EOF /x\n EOF",
        "line 2: the here-document EOF does not end",
    ),
    ("FROM x\nCOPY a", "line 2: COPY needs a source and a target"),
    (
        "FROM x\nCOPY []",
        "line 2: COPY needs a source and a target",
    ),
    (
        "FROM x\nADD [\"a\"]",
        "line 2: ADD needs a source and a target",
    ),
    (
        "FROM x\nCOPY --from=$y a b",
        "line 2: COPY --from=$y: variables are not expanded",
    ),
    (
        "FROM x\nCOPY --parents a b",
        "line 2: COPY --parents cannot",
    ),
    (
        "FROM x\nCOPY --link=maybe a b",
        "line 2: --link is true or false",
    ),
    (
        "FROM x\nCOPY --checksum=a b c",
        "line 2: COPY has no flag --checksum",
    ),
    ("FROM x\nADD --from=a b c", "line 2: ADD has no flag --from"),
    (
        "FROM x\nADD --checksum=sha256:0 a b",
        "line 2: ADD --checksum cannot",
    ),
    (
        "FROM x\nADD https://a/b /c",
        "line 2: https://a/b: files are not fetched",
    ),
    (
        "FROM x\nADD git@github.com:a/b.git /c",
        "line 2: git@github.com:a/b.git: files are not fetched",
    ),
    ("FROM x\nENV", "line 2: ENV needs an argument"),
    ("FROM x\nENV a", "line 2: ENV needs a name and a value"),
    ("FROM x\nENV a=b c", "line 2: c is not NAME=VALUE"),
    ("FROM x\nENV =b", "line 2: =b is not NAME=VALUE"),
    ("FROM x\nARG", "line 2: ARG needs"),
    ("FROM x\nARG =b", "line 2: =b has no name"),
    ("FROM x\nWORKDIR", "line 2: WORKDIR needs an argument"),
    ("FROM x\nSHELL /bin/sh", "line 2: SHELL is a JSON array"),
    ("FROM x\nSHELL []", "line 2: SHELL is a JSON array"),
    ("FROM x\nLABEL", "line 2: LABEL needs an argument"),
    (
        "# escape=x\nFROM x",
        "line 1: the escape character cannot be",
    ),
    (
        "# escape=`\n# escape=`\nFROM x",
        "line 2: there is more than one escape",
    ),
];

#[test]
fn refusals() {
    for (text, expected) in REFUSED {
        let said = error(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
    for text in [
        "",
        "FORM x",
        "FROM x\nRUN --mount=type=secret,id=a ls",
        "FROM x\nADD https://a/b /c",
        "FROM x\nCOPY --from=$y a b",
        "FROM x\nRUN <<EOF",
    ] {
        assert!(error(text).contains("\nFIX: "), "{text}");
    }
}

/// Pieces of which files are made, so that more than the first line is reached.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM x",
        "AS y",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "ONBUILD",
        "\n",
        "\r\n",
        "\\",
        "`",
        "\\\n",
        "# ",
        "# escape=`\n",
        "<<EOF",
        "<<-'E F'",
        "EOF",
        "\nEOF\n",
        "[",
        "]",
        "\"",
        "'",
        ",",
        "=",
        "$",
        "${",
        "}",
        ":-",
        "--",
        "--from=0",
        "--mount=type=cache",
        "a",
        "é",
        " ",
        "\t",
        "\u{feff}",
        "\0",
        "0",
        "/",
        "*",
        "..",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), made in pieces()) {
        for text in [text, made.clone(), format!("FROM x\n{made}")] {
            if let Ok(file) = Dockerfile::parse(&text) {
                let lines = text.lines().count();
                for stage in &file.stages {
                    for instruction in &stage.instructions {
                        prop_assert!((1..=lines).contains(&instruction.line));
                        prop_assert!(!instruction.text.contains('\n'));
                    }
                }
                let _planned = file.plan(None, &std::collections::BTreeMap::new(), "amd64");
            }
        }
    }
}
