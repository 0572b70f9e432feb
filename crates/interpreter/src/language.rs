//! Languages: their names, and how each sets a variable of the environment. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a context gets when nobody says more.
pub(crate) const DEFAULT: &str = "python";

/// A language's name as it is known by here.
pub(crate) fn normalized(name: &str) -> String {
    let name = name.trim().to_lowercase();
    match name.as_str() {
        "" => DEFAULT.to_owned(),
        "js" => "javascript".to_owned(),
        "ts" => "typescript".to_owned(),
        _ => name,
    }
}

/// Names that a language's kernel may have, the usual one first.
pub(crate) fn kernels(language: &str) -> Vec<&str> {
    match language {
        "python" => vec!["python", "python3"],
        "r" => vec!["r", "ir"],
        other => vec![other],
    }
}

/// What is to become of variables: a value, or nothing.
pub(crate) type Changes = BTreeMap<String, Option<String>>;

/// A program that changes variables of the environment, in the kernel's language. Empty when it knows none.
pub(crate) fn change_environment(language: &str, changes: &Changes) -> String {
    let lines = changes
        .iter()
        .filter(|(name, _)| !name.is_empty() && !name.contains(['=', '\0']))
        .map(|(name, value)| line(language, name, value.as_deref()));
    lines.collect()
}

/// Random numbers of kernels that were forked, or woken from the same memory, must not be the same ones.
pub(crate) fn reseed(language: &str) -> &'static str {
    match language {
        "python" => "__import__('soulbox_kernels.fresh').fresh.reseed()\n",
        "r" => "set.seed(NULL)\n",
        "bash" => "RANDOM=$(od -An -N2 -tu2 /dev/urandom)\n",
        _ => "",
    }
}

/// Makes what a result is shown as, and shows nothing.
pub(crate) fn show(language: &str) -> &'static str {
    match language {
        "python" => "get_ipython().display_formatter.format(2)\n",
        _ => "",
    }
}

fn line(language: &str, name: &str, value: Option<&str>) -> String {
    // A string of JSON is one in these languages, too: what is not ASCII is escaped as units.
    let quoted = |text: &str| crate::ascii::to_string(&Value::from(text));
    match (language, value) {
        ("python", Some(value)) => format!(
            "__import__('os').environ[{}] = {}\n",
            python(name),
            python(value)
        ),
        ("python", None) => format!("__import__('os').environ.pop({}, None)\n", python(name)),
        ("javascript" | "typescript", Some(value)) => {
            format!("process.env[{}] = {};\n", quoted(name), quoted(value))
        }
        ("javascript" | "typescript", None) => format!("delete process.env[{}];\n", quoted(name)),
        ("r", Some(value)) => format!("Sys.setenv({} = {})\n", backticked(name), r(value)),
        ("r", None) => format!("Sys.unsetenv({})\n", r(name)),
        ("java", Some(value)) => {
            format!("System.setProperty({}, {});\n", quoted(name), quoted(value))
        }
        ("java", None) => format!("System.clearProperty({});\n", quoted(name)),
        // Other names cannot be exported by a shell.
        ("bash", _) if !is_identifier(name) => String::new(),
        ("bash", Some(value)) => format!("export {name}='{}'\n", value.replace('\'', r"'\''")),
        ("bash", None) => format!("unset {name}\n"),
        _ => String::new(),
    }
}

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Python's strings have no surrogates: what is beyond the first plane is written by its number.
fn python(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('\'');
    out
}

fn r(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            '\0' => {}
            '\u{1}'..='\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => out.push_str(&format!("\\U{{{:x}}}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn backticked(name: &str) -> String {
    format!("`{}`", name.replace('\\', r"\\").replace('`', r"\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (given, known) in [
            (" JS ", "javascript"),
            ("ts", "typescript"),
            ("Python", "python"),
            ("", "python"),
            ("R", "r"),
        ] {
            assert_eq!(normalized(given), known);
        }
    }

    #[test]
    fn no_value_gets_out_of_its_quotes() {
        let evil = "a'b\"c\\d\n$(x)`y`é😀";
        let set = |language| {
            change_environment(language, &Changes::from([("K".into(), Some(evil.into()))]))
        };
        assert_eq!(
            set("python"),
            "__import__('os').environ['K'] = 'a\\'b\"c\\\\d\\U0000000a$(x)`y`\\U000000e9\\U0001f600'\n"
        );
        assert_eq!(
            set("javascript"),
            "process.env[\"K\"] = \"a'b\\\"c\\\\d\\n$(x)`y`\\u00e9\\ud83d\\ude00\";\n"
        );
        assert_eq!(set("bash"), "export K='a'\\''b\"c\\d\n$(x)`y`é😀'\n");
        assert_eq!(
            set("r"),
            "Sys.setenv(`K` = \"a'b\\\"c\\\\d\\x0a$(x)`y`\\U{e9}\\U{1f600}\")\n"
        );
        assert!(set("java").starts_with("System.setProperty(\"K\", \"a'b"));
        assert_eq!(set("cobol"), "");
    }

    #[test]
    fn what_is_no_name_changes_nothing() {
        let changes = Changes::from([
            ("a b".into(), Some("x".into())),
            (String::new(), None),
            ("A=B".into(), None),
        ]);
        assert_eq!(change_environment("bash", &changes), "");
    }
}
