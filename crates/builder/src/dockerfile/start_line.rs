//! What sandboxes run by ENTRYPOINT and CMD: the two as one line for a shell. Pure.

use soulbox_dockerfile::Command;

/// The line that ENTRYPOINT and CMD are together; `None` when they say nothing.
pub(super) fn start_line(entrypoint: Option<&Command>, cmd: Option<&Command>) -> Option<String> {
    let words = |command: &Command| match command {
        Command::Shell(text) => text.clone(),
        Command::Exec(argv) => argv
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let line = match (entrypoint, cmd) {
        // In shell form it takes no arguments.
        (Some(Command::Shell(text)), _) => text.clone(),
        (Some(entrypoint), cmd) => {
            let cmd = cmd.map(words).unwrap_or_default();
            format!("{} {cmd}", words(entrypoint)).trim().to_owned()
        }
        (None, Some(cmd)) => words(cmd),
        (None, None) => String::new(),
    };
    (!line.trim().is_empty()).then_some(line)
}

/// A word that a shell reads as it is.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoint_and_cmd_are_one_line() {
        let exec =
            |words: &[&str]| Command::Exec(words.iter().map(|&word| word.to_owned()).collect());
        let shell = |text: &str| Command::Shell(text.to_owned());
        assert_eq!(start_line(None, None), None);
        assert_eq!(start_line(None, Some(&exec(&[]))), None);
        assert_eq!(start_line(None, Some(&shell("a && b"))).unwrap(), "a && b");
        assert_eq!(
            start_line(None, Some(&exec(&["a", "b c", "it's"]))).unwrap(),
            r"a 'b c' 'it'\''s'"
        );
        assert_eq!(
            start_line(Some(&exec(&["run"])), Some(&exec(&["-x"]))).unwrap(),
            "run -x"
        );
        assert_eq!(
            start_line(Some(&shell("run")), Some(&exec(&["-x"]))).unwrap(),
            "run"
        );
        assert_eq!(start_line(Some(&exec(&["run"])), None).unwrap(), "run");
    }
}
