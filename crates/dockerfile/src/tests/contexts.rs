//! [`Ignore`] and [`select`].

use proptest::prelude::*;

use crate::{Entry, Ignore, select};

#[test]
fn ignored() {
    let rows = [
        // file, what is left out, what is not
        ("", "", "a a/b"),
        ("# a\n\n  \n", "", "a"),
        ("a", "a a/b a/b/c", "b/a ab"),
        ("/a", "a a/b", "b/a"),
        ("./a/", "a a/b", "b/a"),
        ("  a  ", "a", "b"),
        ("a/b", "a/b a/b/c", "a b a/c c/a/b"),
        ("*", "a a/b .c", ""),
        ("*.log", "x.log x.log/y", "a/x.log xlog"),
        ("*/*.log", "a/x.log", "x.log a/b/x.log"),
        ("**/*.log", "x.log a/x.log a/b/x.log", "x.txt"),
        ("**", "a a/b/c", ""),
        ("a/**", "a/b a/b/c", "b a"),
        ("a/**/c", "a/c a/b/c a/b/b/c", "a/b ac c"),
        (
            "**/node_modules",
            "node_modules a/node_modules a/node_modules/x",
            "anode_modules",
        ),
        ("?.txt", "a.txt", "ab.txt .txt"),
        ("[ab].txt", "a.txt b.txt", "c.txt"),
        ("[^a].txt", "b.txt", "a.txt"),
        ("[a-c]", "b", "d -"),
        ("a\\*", "a*", "ab"),
        ("*\n!a", "b b/a", "a a/b"),
        ("*\n!a/b", "a a/c b", "a/b a/b/c"),
        ("!a\n*", "a b", ""),
        (
            "*.md\n!README*.md\nREADME-secret.md",
            "x.md README-secret.md",
            "README.md README-b.md",
        ),
        ("a\n! a/b", "a a/c", "a/b"),
        (
            ".git\n.env*",
            ".git .git/config .env .env.local",
            "a/.git .gitignore",
        ),
        ("a/../b", "b", "a"),
        ("../a", "", "a"),
        (".\n/", "", "a"),
    ];
    for (file, out, within) in rows {
        let ignore = Ignore::parse(file).unwrap_or_else(|bad| panic!("{file}\n{bad}"));
        for path in out.split_whitespace() {
            assert!(ignore.excludes(path), "{file:?} {path}");
            assert!(ignore.excludes(&format!("./{path}/")), "{file:?} {path}");
        }
        for path in within.split_whitespace() {
            assert!(!ignore.excludes(path), "{file:?} {path}");
        }
    }
    assert!(Ignore::parse("*\n!a").unwrap().has_exceptions());
    assert!(!Ignore::parse("*").unwrap().has_exceptions());
    for (file, line) in [("a\n[", 2), ("a\\", 1), ("!", 1), ("[]", 1), ("[a-]", 1)] {
        let bad = Ignore::parse(file).unwrap_err();
        assert_eq!(bad.line(), Some(line), "{file}");
        assert!(bad.to_string().contains("\nFIX: "), "{bad}");
    }
}

const CONTEXT: [(&str, bool); 10] = [
    (".hidden", false),
    ("a.txt", false),
    ("b.txt", false),
    ("dir", true),
    ("dir/c.txt", false),
    ("dir/sub", true),
    ("dir/sub/d.txt", false),
    ("implied/only/e.txt", false),
    ("other", true),
    ("we*rd", false),
];

/// The paths a source means; directories end in `/`.
fn selected(source: &str) -> String {
    let entries = CONTEXT.map(|(path, is_dir)| Entry { path, is_dir });
    let selected = match select(&entries, source) {
        Ok(selected) => selected,
        Err(bad) => return bad.to_string(),
    };
    let paths = selected.iter().map(|one| match one.is_dir {
        true => format!("{}/", one.path),
        false => one.path.clone(),
    });
    paths.collect::<Vec<_>>().join(" ")
}

#[test]
fn selections() {
    let rows = [
        (".", "/"),
        ("./", "/"),
        ("/", "/"),
        ("", "/"),
        ("dir/..", "/"),
        ("a.txt", "a.txt"),
        ("./a.txt", "a.txt"),
        ("/a.txt", "a.txt"),
        ("dir/../a.txt", "a.txt"),
        ("dir", "dir/"),
        ("dir/", "dir/"),
        ("dir/.", "dir/"),
        ("dir/sub/d.txt", "dir/sub/d.txt"),
        ("implied", "implied/"),
        ("implied/only", "implied/only/"),
        ("*.txt", "a.txt b.txt"),
        ("?.txt", "a.txt b.txt"),
        ("[b-z].txt", "b.txt"),
        ("*", ".hidden a.txt b.txt dir/ implied/ other/ we*rd"),
        ("dir/*", "dir/c.txt dir/sub/"),
        ("*/*.txt", "dir/c.txt"),
        ("*/sub", "dir/sub/"),
        ("**/*.txt", "dir/c.txt"),
        ("we\\*rd", "we*rd"),
        // An optional file is written as a pattern.
        ("a.lock*", ""),
        ("none/*", ""),
    ];
    for (source, expected) in rows {
        assert_eq!(selected(source), expected, "{source}");
    }
    let refused = [
        ("none", "none is not in the context\nFIX: "),
        ("a.txt/b", "a.txt/b is not in the context"),
        ("../a.txt", "../a.txt is outside of the context\nFIX: "),
        ("dir/../../a", "dir/../../a is outside of the context"),
        ("../*", "../* is outside of the context"),
        ("a[", "a[ is no pattern\nFIX: "),
        (
            "https://a/b",
            "https://a/b: files are not fetched from the network\nFIX: ",
        ),
    ];
    for (source, expected) in refused {
        let said = selected(source);
        assert!(said.starts_with(expected), "{source}\n{said}");
    }
    assert_eq!(select(&[], ".").unwrap().len(), 1);
    let outside = Entry {
        path: "../x",
        is_dir: false,
    };
    assert_eq!(select(&[outside], "*/x").unwrap(), []);
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a/.*?!\\[\\]^\\\\\n-]{0,24}", path in any::<String>()) {
        if let Ok(ignore) = Ignore::parse(&text) {
            let _excluded = ignore.excludes(&path);
        }
        let entries = [Entry { path: &path, is_dir: false }];
        if let Ok(selected) = select(&entries, &text) {
            for one in selected {
                prop_assert!(!one.path.split('/').any(|part| part == ".."));
            }
        }
    }
}
