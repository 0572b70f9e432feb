//! [`expand`] and [`expand_text`].

use proptest::prelude::*;

use crate::{expand, expand_text};

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "v" => "value",
        "empty" => "",
        "path" => "/a/b.tar.gz",
        "quoted" => "\"$v\"",
        "é" => "never",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn meanings() {
    let rows = [
        ("", ""),
        ("plain text", "plain text"),
        ("$v", "value"),
        ("${v}", "value"),
        ("a${v}b", "avalueb"),
        ("$v.x", "value.x"),
        ("$vx", ""),
        ("$none", ""),
        ("${none}", ""),
        ("$v$v", "valuevalue"),
        ("$v:/x", "value:/x"),
        ("$", "$"),
        ("a$", "a$"),
        ("$/x", "$/x"),
        ("$1x", "x"),
        ("$é", "$é"),
        // What a value holds is not expanded again.
        ("$quoted", "\"$v\""),
        // escapes and quotes
        (r"\$v", "$v"),
        (r"\${v}", "${v}"),
        (r"\\$v", r"\value"),
        (r"a\ b", "a b"),
        (r"a\n", "an"),
        ("a\\", "a"),
        ("'$v'", "$v"),
        (r"'a\'", r"a\"),
        ("\"$v\"", "value"),
        ("\"'$v'\"", "'value'"),
        ("'\"'", "\""),
        (r#""a\"b\\c\$d\e""#, r#"a"b\c$d\e"#),
        ("a\"b c\"d'e f'", "ab cde f"),
        // otherwise
        ("${v:-x}", "value"),
        ("${none:-x}", "x"),
        ("${empty:-x}", "x"),
        ("${empty-x}", ""),
        ("${none-x}", "x"),
        ("${v:+x}", "x"),
        ("${v+x}", "x"),
        ("${none:+x}", ""),
        ("${empty:+x}", ""),
        ("${empty+x}", "x"),
        ("${v:?needed}", "value"),
        ("${empty?needed}", ""),
        ("${none:-$v}", "value"),
        ("${none:-${none:-deep}}", "deep"),
        ("${none:-\"a } b\"}", "a } b"),
        ("${none:-a\\}b}", "a}b"),
        ("${none:-}", ""),
        // cutting
        ("${path#*/}", "a/b.tar.gz"),
        ("${path##*/}", "b.tar.gz"),
        ("${path%.*}", "/a/b.tar"),
        ("${path%%.*}", "/a/b"),
        ("${path#x}", "/a/b.tar.gz"),
        ("${path%.g?}", "/a/b.tar"),
        ("${path#$none/a}", "/b.tar.gz"),
        ("${v##*}", ""),
        ("${none#x}", ""),
        ("${path%\\*}", "/a/b.tar.gz"),
    ];
    for (text, expected) in rows {
        let said = expand(text, &lookup);
        assert_eq!(said.as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn here_documents() {
    let rows = [
        ("a \"$v\" '$v'\n", "a \"value\" 'value'\n"),
        (r"\$v \\ \n \`", r"$v \ \n `"),
        ("it's ${none:-\"x\"}", "it's \"x\""),
        ("a\\", "a\\"),
    ];
    for (text, expected) in rows {
        assert_eq!(
            expand_text(text, &lookup).as_deref(),
            Ok(expected),
            "{text}"
        );
    }
}

#[test]
fn refusals() {
    let deep = "${a:-".repeat(40);
    let rows = [
        ("${v", "a } is missing in \"${v\"\nFIX: "),
        ("${v:-a", "a } is missing"),
        ("${", "${ is not followed by a name"),
        ("${}", "${ is not followed by a name"),
        ("${:-a}", "${ is not followed by a name"),
        ("${v/a/b}", "${v…} has a modifier that is not known"),
        ("${v:=a}", "${v…} has a modifier that is not known"),
        (
            "${none:?say which}",
            "none: say which\nFIX: give it with --build-arg none=VALUE",
        ),
        ("${none?}", "none: is needed"),
        ("${empty:?}", "empty: is needed"),
        ("'a", "a ' does not end"),
        ("\"a", "a \" does not end"),
        (deep.as_str(), "variables are nested too deep"),
    ];
    for (text, expected) in rows {
        let said = expand(text, &lookup).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
    let long = |_: &str| Some("x".repeat(1 << 19));
    assert!(expand("$a$b", &long).is_ok());
    let said = expand("$a$b$c", &long).unwrap_err().to_string();
    assert!(said.starts_with("a value grows beyond 1 MiB"), "{said}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a${}:+?#%*\\\\'\" -]{0,40}", any in any::<String>()) {
        for text in [text, any] {
            let _in_quotes = expand(&text, &lookup);
            let _as_text = expand_text(&text, &lookup);
        }
    }

    #[test]
    fn single_quotes_keep_any_text(text in "[^']{0,40}") {
        prop_assert_eq!(expand(&format!("'{text}'"), &lookup), Ok(text));
    }
}
